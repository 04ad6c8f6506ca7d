//! Parses the segments and packages of an old tenant, and creates what the tenant lacks.

use std::collections::{HashMap, HashSet};

use super::{
    AdoptionContext, OldPackage, OldSegment,
    parse::{description, name, row_times},
};
use crate::domain::{
    ExternalId, InvalidValue, Package, PackageId, Price, Reason, Segment, SegmentId, Slug, SlugStem, TenantId,
    Violations, defaults,
    provisioning::{default_packages, default_segment},
};

/// Returns `None` if there are violations, and adds them.
pub(super) fn parse(
    tenant_id: TenantId,
    segments: Vec<OldSegment>,
    packages: Vec<OldPackage>,
    context: &mut AdoptionContext<'_>,
    violations: &mut Violations,
    repairs: &mut Vec<String>,
) -> Option<(Vec<Segment>, Vec<Package>)> {
    // All rows are parsed, whether or not others are valid.
    let mut slugs = NewSlugs::new(segments.iter().map(|segment| segment.slug.as_str()));
    let segments: Vec<(String, Option<Segment>)> = segments
        .into_iter()
        .map(|old| {
            let id = old.id.clone();
            (id, old.parse(tenant_id, &mut slugs, context, violations, repairs))
        })
        .collect();
    let ids: HashMap<&str, Option<SegmentId>> =
        segments.iter().map(|(id, segment)| (id.as_str(), segment.as_ref().map(|segment| segment.id))).collect();
    let general = segments.iter().filter_map(|(_, segment)| segment.as_ref());
    let general = general.into_iter().find(|segment| segment.slug == defaults::SEGMENT.slug).map(|general| general.id);
    let general_id = general.unwrap_or_else(|| SegmentId::from_uuid((context.new_id)(context.now)));

    let mut slugs = NewSlugs::new(packages.iter().map(|package| package.slug.as_str()));
    let last_order = packages.iter().filter_map(|package| package.grouping_order).max().unwrap_or_default();
    let mut placement = Placement { ids, general_id, last_order };
    let parsed: Option<Vec<Package>> = packages
        .into_iter()
        .map(|old| old.parse(tenant_id, &mut placement, &mut slugs, context, violations, repairs))
        // Not `collect` into an option at once, which would end with the first invalid row.
        .collect::<Vec<_>>()
        .into_iter()
        .collect();

    let mut segments = segments.into_iter().map(|(_, segment)| segment).collect::<Option<Vec<_>>>()?;
    let mut packages = parsed?;
    if general.is_none() {
        repairs.push("segments: General created".to_owned());
        segments.push(default_segment(tenant_id, general_id, 0, context.now));
    }
    if packages.is_empty() {
        repairs.push("packages: the default packages created".to_owned());
        let ids = std::iter::repeat_with(|| PackageId::from_uuid((context.new_id)(context.now)));
        packages = default_packages(tenant_id, general_id, ids, context.now);
    }
    count_packages(&mut segments, &packages);
    Some((segments, packages))
}

fn count_packages(segments: &mut [Segment], packages: &[Package]) {
    let mut counts: HashMap<SegmentId, i32> = HashMap::new();
    for package in packages {
        *counts.entry(package.segment_id).or_default() += 1;
    }
    for segment in segments {
        segment.package_count = counts.remove(&segment.id).unwrap_or_default();
    }
}

/// What places a package among the others.
struct Placement<'a> {
    /// The new ids of the tenant's segments by the old ones, `None` for an invalid segment.
    ids: HashMap<&'a str, Option<SegmentId>>,
    general_id: SegmentId,
    last_order: i32,
}

impl OldSegment {
    fn parse(
        self,
        tenant_id: TenantId,
        slugs: &mut NewSlugs,
        context: &mut AdoptionContext<'_>,
        violations: &mut Violations,
        repairs: &mut Vec<String>,
    ) -> Option<Segment> {
        let path = format!("segments[{}].", self.id);
        let field = |column: &str| format!("{path}{column}");
        let external_id = violations.check(field("id"), ExternalId::parse(&self.id));
        let slug = slugs.choose(&self.slug, &self.name, &field("slug"), violations, repairs);
        let name = name(&self.name, &field("name"), violations, repairs);
        let hero_title = super::parse::name(&self.hero_title, &field("heroTitle"), violations, repairs);
        let description = description(self.description.as_deref(), &field("description"), violations, repairs);
        let (created_at, updated_at) = row_times(&path, self.created_at, self.updated_at, violations)?;
        Some(Segment {
            id: SegmentId::from_uuid((context.new_id)(created_at)),
            tenant_id,
            slug: slug?.to_string(),
            name: name?.into_string(),
            hero_title: hero_title?.into_string(),
            description: description?.as_str().to_owned(),
            sort_order: self.sort_order,
            active: self.active,
            created_at,
            updated_at,
            external_id: Some(external_id?.into_string()),
            revision: None,
            // Counted when all packages are placed.
            package_count: 0,
        })
    }
}

impl OldPackage {
    fn parse(
        self,
        tenant_id: TenantId,
        placement: &mut Placement<'_>,
        slugs: &mut NewSlugs,
        context: &mut AdoptionContext<'_>,
        violations: &mut Violations,
        repairs: &mut Vec<String>,
    ) -> Option<Package> {
        let path = format!("packages[{}].", self.id);
        let field = |column: &str| format!("{path}{column}");
        let external_id = violations.check(field("id"), ExternalId::parse(&self.id));
        let slug = slugs.choose(&self.slug, &self.name, &field("slug"), violations, repairs);
        let name = name(&self.name, &field("name"), violations, repairs);
        let description = description(self.description.as_deref(), &field("description"), violations, repairs);
        let base_price = violations.check(field("basePrice"), Price::parse(self.base_price.into()));
        let unknown = |_error| InvalidValue::new(Reason::BadFormat, "must be DATE or TIMESLOT");
        let booking_type = violations.check(field("bookingType"), self.booking_type.parse().map_err(unknown));
        let times = row_times(&path, self.created_at, self.updated_at, violations);
        let segment_id = placement.segment(self.segment_id.as_deref(), &field("segmentId"), repairs);
        let grouping_order = self.grouping_order.unwrap_or_else(|| {
            repairs.push(format!("{}: placed after the last package", field("groupingOrder")));
            placement.last_order = placement.last_order.saturating_add(1);
            placement.last_order
        });
        let (created_at, updated_at) = times?;
        Some(Package {
            id: PackageId::from_uuid((context.new_id)(created_at)),
            tenant_id,
            segment_id: segment_id?,
            slug: slug?.to_string(),
            name: name?.into_string(),
            description: description?.as_str().to_owned(),
            base_price: base_price?.minor_units(),
            booking_type: booking_type?,
            grouping_order,
            active: self.active,
            created_at,
            updated_at,
            external_id: Some(external_id?.into_string()),
            revision: None,
        })
    }
}

impl Placement<'_> {
    /// Returns `None` for an invalid segment, which has its own violations.
    fn segment(&self, old_id: Option<&str>, field: &str, repairs: &mut Vec<String>) -> Option<SegmentId> {
        match old_id.map(|id| self.ids.get(id)) {
            Some(Some(own)) => *own,
            Some(None) => {
                repairs.push(format!("{field}: the segment of another tenant replaced by General"));
                Some(self.general_id)
            }
            None => {
                repairs.push(format!("{field}: placed in General"));
                Some(self.general_id)
            }
        }
    }
}

/// Derives slugs for those that the rules refuse. They differ from all others of the tenant.
struct NewSlugs {
    existing: HashSet<String>,
    /// The last number that was tried for a stem.
    numbers: HashMap<SlugStem, u64>,
}

impl NewSlugs {
    fn new<'a>(old: impl Iterator<Item = &'a str>) -> Self {
        let existing = old.filter(|slug| Slug::parse(slug).is_ok()).map(str::to_owned).collect();
        Self { existing, numbers: HashMap::new() }
    }

    fn choose(
        &mut self,
        old: &str,
        name: &str,
        field: &str,
        violations: &mut Violations,
        repairs: &mut Vec<String>,
    ) -> Option<Slug> {
        if let Ok(slug) = Slug::parse(old) {
            return Some(slug);
        }
        // An invalid name has its own violation.
        let stem = if name.trim().is_empty() { None } else { violations.check(field, SlugStem::from_name(name)) }?;
        let number = self.numbers.entry(stem.clone()).or_default();
        loop {
            *number += 1;
            if let Some(slug) = stem.numbered(*number)
                && self.existing.insert(slug.to_string())
            {
                repairs.push(format!("{field}: {slug}, derived from the name"));
                return Some(slug);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(old: &[(&str, &str)]) -> (Vec<Option<String>>, Violations, usize) {
        let (mut violations, mut repairs) = (Violations::default(), Vec::new());
        let mut slugs = NewSlugs::new(old.iter().map(|(slug, _)| *slug));
        let slugs = old.iter().map(|(slug, name)| slugs.choose(slug, name, "slug", &mut violations, &mut repairs));
        let slugs = slugs.map(|slug| slug.map(|slug| slug.to_string())).collect();
        (slugs, violations, repairs.len())
    }

    #[test]
    fn a_derived_slug_differs_from_all_others_of_the_tenant() {
        let (slugs, violations, repairs) = chosen(&[
            ("a--b", "Extras"),
            ("extras", "Other"),
            ("1st", "Extras"),
            ("ab", "Q"),
            ("q2", "Q"),
            ("-", "2 Days"),
            ("Extras", "Extras"),
        ]);
        let expected = ["extras-2", "extras", "extras-3", "q-2", "q-3", "s-2-days", "extras-4"];
        assert_eq!(slugs, expected.map(|slug| Some(slug.to_owned())));
        assert!(violations.as_slice().is_empty());
        assert_eq!(repairs, 6);
    }

    #[test]
    fn a_name_without_letters_and_digits_gives_no_slug() {
        let (slugs, violations, repairs) = chosen(&[("a--b", "🎂"), ("c--d", " ")]);
        assert_eq!((slugs, repairs), (vec![None, None], 0));
        assert_eq!(violations.as_slice().len(), 1, "an empty name has a violation of its own");
    }
}
