//! The possible rejections, and the documented rules of single fields.

use std::collections::BTreeSet;

use tonic::Code;
use turnkey::{domain::SlugStem, grpc::pb::PackageUpsert};

/// Field and reason of each violation.
pub type Violations = BTreeSet<(String, String)>;

/// The expected result, or the possible rejections: any one of them is correct.
pub type Expectation<T> = Result<T, Vec<Rejection>>;

#[derive(Debug)]
pub enum Rejection {
    /// `INVALID_REQUEST` with all violations of `must` and any of `may`.
    Invalid {
        must: Violations,
        may: Violations,
    },
    Other(Code, &'static str),
}

pub const NO_TENANT: Rejection = Rejection::Other(Code::NotFound, "TENANT_NOT_FOUND");
pub const NO_PACKAGE: Rejection = Rejection::Other(Code::NotFound, "PACKAGE_NOT_FOUND");
pub const NO_SEGMENT: Rejection = Rejection::Other(Code::NotFound, "SEGMENT_NOT_FOUND");
pub const PACKAGE_SLUG_TAKEN: Rejection = Rejection::Other(Code::AlreadyExists, "PACKAGE_SLUG_TAKEN");
pub const SEGMENT_SLUG_TAKEN: Rejection = Rejection::Other(Code::AlreadyExists, "SEGMENT_SLUG_TAKEN");
pub const LAST_PACKAGE: Rejection = Rejection::Other(Code::FailedPrecondition, "LAST_PACKAGE");
pub const DEFAULT_SEGMENT: Rejection = Rejection::Other(Code::FailedPrecondition, "DEFAULT_SEGMENT");
pub const SEGMENT_NOT_EMPTY: Rejection = Rejection::Other(Code::FailedPrecondition, "SEGMENT_NOT_EMPTY");

impl Rejection {
    pub fn matches(&self, code: Code, reason: &str, actual: &Violations) -> bool {
        match self {
            Self::Invalid { must, may } => {
                (code, reason) == (Code::InvalidArgument, "INVALID_REQUEST")
                    && must.is_subset(actual)
                    && actual.difference(must).all(|violation| may.contains(violation))
            }
            Self::Other(expected, why) => (code, reason) == (*expected, *why),
        }
    }
}

/// Adds the violation of a field, if there is one.
pub fn note(violations: &mut Violations, field: impl Into<String>, fault: Option<&str>) {
    violations.extend(fault.map(|reason| (field.into(), reason.to_owned())));
}

/// Invalid fields take precedence. If all fields are valid, the order of the other checks is not specified.
pub fn expect_rejection_or_success(
    must: Violations,
    may: &Violations,
    missing: Violations,
    mut rejections: Vec<Rejection>,
) -> Expectation<()> {
    if !must.is_empty() {
        return Err(vec![Rejection::Invalid { must, may: may.union(&missing).cloned().collect() }]);
    }
    if !missing.is_empty() {
        rejections.push(Rejection::Invalid { must: missing, may: Violations::new() });
    }
    if rejections.is_empty() { Ok(()) } else { Err(rejections) }
}

/// An empty text that identifies or names something counts as absent.
pub fn clear_empty(fields: &mut [&mut Option<String>]) {
    for field in fields.iter_mut().filter(|field| field.as_deref() == Some("")) {
        **field = None;
    }
}

#[expect(deprecated, reason = "the deprecated name is still accepted")]
pub fn without_empty_texts(item: &PackageUpsert) -> PackageUpsert {
    let mut item = item.clone();
    let PackageUpsert { package_id, slug, name, title, segment_id, .. } = &mut item;
    clear_empty(&mut [package_id, slug, name, title, segment_id]);
    item
}

/// The violations of an item that do not depend on the tenant.
pub fn item_violations(item: &PackageUpsert, path: &str) -> Violations {
    let mut violations_by_item = Violations::new();
    let at = |field: &str| format!("{path}{field}");
    let (id, slug) = (item.package_id.as_deref(), item.slug.as_deref());
    let ((name_field, name), (price_field, price)) = (name_field(item), price_field(item));
    note(&mut violations_by_item, at("package_id"), id.and_then(id_violation));
    note(&mut violations_by_item, at("slug"), slug.and_then(slug_violation));
    note(&mut violations_by_item, at(name_field), name_violation_in_upsert(id, slug, name));
    note(&mut violations_by_item, at("description"), item.description.as_deref().and_then(description_violation));
    let bad_price = match price {
        None => must_create(id, slug).then_some("MISSING_FIELD"),
        Some(price) => (!(0..=1_000_000_000_000).contains(&price)).then_some("OUT_OF_RANGE"),
    };
    note(&mut violations_by_item, at(price_field), bad_price);
    note(&mut violations_by_item, at("booking_type"), (!(0..=2).contains(&item.booking_type)).then_some("BAD_FORMAT"));
    note(&mut violations_by_item, at("segment_id"), item.segment_id.as_deref().and_then(id_violation));
    violations_by_item
}

/// No entity has an invalid slug, so an upsert with one can only create.
fn must_create(id: Option<&str>, slug: Option<&str>) -> bool {
    id.is_none() && slug.is_none_or(|slug| slug_violation(slug).is_some())
}

/// The name and the field that contains it.
#[expect(deprecated, reason = "the deprecated name is still accepted")]
pub fn name_field(item: &PackageUpsert) -> (&'static str, Option<&str>) {
    match (item.name.as_deref(), item.title.as_deref()) {
        (None, Some(title)) => ("title", Some(title)),
        (name, _) => ("name", name),
    }
}

/// The price and the field that contains it.
#[expect(deprecated, reason = "the deprecated name is still accepted")]
pub fn price_field(item: &PackageUpsert) -> (&'static str, Option<i64>) {
    match (item.base_price, item.price_cents) {
        (None, Some(cents)) => ("price_cents", Some(cents)),
        (price, _) => ("base_price", price),
    }
}

pub fn id_violation(id: &str) -> Option<&'static str> {
    let is_id = uuid::Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id);
    (!is_id).then_some(if id.is_empty() { "MISSING_FIELD" } else { "BAD_FORMAT" })
}

pub fn slug_violation(slug: &str) -> Option<&'static str> {
    let has_valid_chars = slug.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let has_valid_format = slug.starts_with(|first: char| first.is_ascii_lowercase())
        && !slug.ends_with('-')
        && !slug.contains("--")
        && uuid::Uuid::try_parse(slug).is_err();
    match slug.len() {
        _ if !has_valid_chars => Some("BAD_FORMAT"),
        0..3 => Some("TOO_SHORT"),
        3..64 => (!has_valid_format).then_some("BAD_FORMAT"),
        64.. => Some("TOO_LONG"),
    }
}

pub fn name_violation(name: &str) -> Option<&'static str> {
    match name.trim().chars().count() {
        0 => Some("TOO_SHORT"),
        1..=200 => (name.trim().chars().any(char::is_control) || name == "\u{200b}").then_some("BAD_FORMAT"),
        _ => Some("TOO_LONG"),
    }
}

/// As [`name_violation`]. A creation also requires a name, and without a slug one from which a slug can be derived.
pub fn name_violation_in_upsert(id: Option<&str>, slug: Option<&str>, name: Option<&str>) -> Option<&'static str> {
    let Some(name) = name else { return must_create(id, slug).then_some("MISSING_FIELD") };
    let gives_no_slug = id.is_none() && slug.is_none() && SlugStem::from_name(name).is_err();
    name_violation(name).or(gives_no_slug.then_some("BAD_FORMAT"))
}

pub fn description_violation(text: &str) -> Option<&'static str> {
    if text.chars().count() > 2_000 {
        return Some("TOO_LONG");
    }
    text.chars().any(|char| char.is_control() && !matches!(char, '\r' | '\n' | '\t')).then_some("BAD_FORMAT")
}

pub fn stored_description(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// The slug derived from a name: its stem, or the stem with the first suffix of `-2`, `-3`, … that gives a free slug.
pub fn free_slug(name: &str, existing: &BTreeSet<String>) -> String {
    let stem = SlugStem::from_name(name).expect("the name was validated before");
    let numbered = |number: usize| {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let max_length = 63 - suffix.len();
        let (mut cut, rest) = stem.as_str().split_at_checked(max_length).unwrap_or((stem.as_str(), ""));
        // No name of the model begins with a word that is longer than a slug.
        if !rest.is_empty() && !rest.starts_with('-') {
            cut = cut.rsplit_once('-').expect("a name of several words").0;
        }
        format!("{}{suffix}", cut.trim_end_matches('-'))
    };
    let is_free = |slug: &String| slug_violation(slug).is_none() && !existing.contains(slug);
    (1..=existing.len() + 2).map(numbered).find(is_free).expect("there are more candidates than slugs")
}
