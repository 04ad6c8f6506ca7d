//! `PackageCatalog`.

use std::collections::HashSet;

use super::{package, segment};
use crate::{
    domain::{
        BookingType, Description, DisplayName, InvalidValue, Package, PackageId, Price, Reason, Segment, SegmentId,
        Slug, SlugStem, TenantId, Violations,
        catalog::{
            ListPackages, ListSegments, PackageFilter, PackageUpsert, SegmentUpsert, UpsertResult, UpsertTarget,
        },
        paging::{Page, PageSize},
    },
    error::Result,
    grpc::pb,
    telemetry::metrics,
};

const MAX_BATCH: usize = 500;

pub fn upsert_package(request: pb::UpsertPackageRequest) -> Result<(TenantId, PackageUpsert)> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
    #[expect(deprecated, reason = "the old names are accepted for ever")]
    let item = pb::PackageUpsert {
        package_id: request.package_id,
        slug: request.slug,
        name: request.name,
        title: request.title,
        description: request.description,
        base_price: request.base_price,
        price_cents: request.price_cents,
        booking_type: request.booking_type,
        active: request.active,
        grouping_order: request.grouping_order,
        segment_id: request.segment_id,
    };
    let upsert = package_upsert(&mut fields, "", item);
    Ok(fields.finish(|| Some((tenant_id?, upsert?)))?)
}

pub fn upsert_package_response(upserted: UpsertResult<Package>) -> pb::UpsertPackageResponse {
    pb::UpsertPackageResponse { action: action(upserted.created).into(), package: Some(package(upserted.item)) }
}

pub fn batch_upsert_packages(request: pb::BatchUpsertPackagesRequest) -> Result<(TenantId, Vec<PackageUpsert>)> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
    if request.packages.is_empty() {
        fields.add("packages", InvalidValue::missing());
    }
    if request.packages.len() > MAX_BATCH {
        fields.add("packages", InvalidValue::new(Reason::TooLong, "must have at most 500 packages"));
        return Err(fields.into());
    }
    let (mut ids, mut slugs) = (HashSet::new(), HashSet::new());
    let mut upserts = Vec::with_capacity(request.packages.len());
    for (index, item) in request.packages.into_iter().enumerate() {
        let path = format!("packages[{index}].");
        let Some(upsert) = package_upsert(&mut fields, &path, item) else { continue };
        let repeats =
            |what| InvalidValue::new(Reason::BadFormat, format!("stands in an item before it: {what} must differ"));
        if upsert.target.id().is_some_and(|id| !ids.insert(id)) {
            fields.add(format!("{path}package_id"), repeats("package ids"));
        }
        if upsert.target.slug().is_some_and(|slug| !slugs.insert(slug.to_owned())) {
            fields.add(format!("{path}slug"), repeats("slugs"));
        }
        upserts.push(upsert);
    }
    Ok(fields.finish(|| Some((tenant_id?, upserts)))?)
}

pub fn batch_upsert_packages_response(upserted: Vec<UpsertResult<Package>>) -> pb::BatchUpsertPackagesResponse {
    let result = |upserted: UpsertResult<Package>| pb::BatchUpsertPackagesResult {
        action: action(upserted.created).into(),
        package: Some(package(upserted.item)),
    };
    pb::BatchUpsertPackagesResponse { results: upserted.into_iter().map(result).collect() }
}

fn package_upsert(fields: &mut Violations, path: &str, item: pb::PackageUpsert) -> Option<PackageUpsert> {
    let at = |field: &str| format!("{path}{field}");
    #[expect(deprecated, reason = "the old names are accepted for ever")]
    let (title, price_cents) = (item.title, item.price_cents);
    count_deprecated("title", title.is_some());
    count_deprecated("price_cents", price_cents.is_some());
    let name_field = if item.name.is_none() && title.is_some() { at("title") } else { at("name") };
    let price_field =
        if item.base_price.is_none() && price_cents.is_some() { at("price_cents") } else { at("base_price") };

    let package_id = fields.check_optional(at("package_id"), item.package_id, |id| PackageId::parse(&id));
    let slug = fields.check_optional(at("slug"), item.slug, |slug| Slug::parse(&slug));
    let name = fields.check_optional(&name_field, item.name.or(title), |name| DisplayName::parse(&name));
    let description = fields.check_optional(at("description"), item.description, |text| Description::parse(&text));
    let base_price = fields.check_optional(price_field, item.base_price.or(price_cents), Price::parse);
    let booking_type = fields.check(at("booking_type"), booking_type(item.booking_type));
    let segment_id = fields.check_optional(at("segment_id"), item.segment_id, |id| SegmentId::parse(&id));
    let can_only_create = matches!((&package_id, &slug), (Some(None), None | Some(None)));
    let target = target(fields, &name_field, package_id, slug, name.as_ref());
    if can_only_create && matches!(base_price, Some(None)) {
        fields.add(at("base_price"), InvalidValue::missing());
    }
    Some(PackageUpsert {
        target: target?,
        name: name?,
        description: description?,
        base_price: base_price?,
        booking_type: booking_type?,
        active: item.active,
        grouping_order: item.grouping_order,
        segment_id: segment_id?,
    })
}

pub fn get_package(request: pb::GetPackageRequest) -> Result<(TenantId, PackageId)> {
    parse_package_ref(&request.tenant_id, &request.package_id)
}

pub fn get_package_response(found: Package) -> pb::GetPackageResponse {
    pb::GetPackageResponse { package: Some(package(found)) }
}

pub fn list_packages(request: pb::ListPackagesRequest) -> Result<ListPackages> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
    let size = fields.check("page_size", PageSize::parse(request.page_size));
    let segment_id = fields.check_optional("segment_id", request.segment_id, |id| SegmentId::parse(&id));
    let filter = segment_id.map(|segment_id| PackageFilter { segment_id, active: request.active });
    // A token can be held against its list only where the list is known.
    let after = tenant_id.zip(filter).and_then(|(tenant_id, filter)| {
        fields.check("page_token", filter.page_token_scope(tenant_id).decode(&request.page_token))
    });
    Ok(fields.finish(|| Some(ListPackages { tenant_id: tenant_id?, filter: filter?, size: size?, after: after? }))?)
}

pub fn list_packages_response(page: Page<Package>) -> pb::ListPackagesResponse {
    pb::ListPackagesResponse {
        packages: page.items.into_iter().map(package).collect(),
        next_page_token: page.next_page_token,
    }
}

pub fn delete_package(request: pb::DeletePackageRequest) -> Result<(TenantId, PackageId)> {
    parse_package_ref(&request.tenant_id, &request.package_id)
}

pub fn upsert_segment(request: pb::UpsertSegmentRequest) -> Result<(TenantId, SegmentUpsert)> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
    let segment_id = fields.check_optional("segment_id", request.segment_id, |id| SegmentId::parse(&id));
    let slug = fields.check_optional("slug", request.slug, |slug| Slug::parse(&slug));
    let name = fields.check_optional("name", request.name, |name| DisplayName::parse(&name));
    let hero_title = fields.check_optional("hero_title", request.hero_title, |title| DisplayName::parse(&title));
    let description = fields.check_optional("description", request.description, |text| Description::parse(&text));
    let target = target(&mut fields, "name", segment_id, slug, name.as_ref());
    let upsert = fields.finish(|| {
        let upsert = SegmentUpsert {
            target: target?,
            name: name?,
            hero_title: hero_title?,
            description: description?,
            sort_order: request.sort_order,
            active: request.active,
        };
        Some((tenant_id?, upsert))
    })?;
    Ok(upsert)
}

pub fn upsert_segment_response(upserted: UpsertResult<Segment>) -> pb::UpsertSegmentResponse {
    pb::UpsertSegmentResponse { action: action(upserted.created).into(), segment: Some(segment(upserted.item)) }
}

pub fn get_segment(request: pb::GetSegmentRequest) -> Result<(TenantId, SegmentId)> {
    parse_segment_ref(&request.tenant_id, &request.segment_id)
}

pub fn get_segment_response(found: Segment) -> pb::GetSegmentResponse {
    pb::GetSegmentResponse { segment: Some(segment(found)) }
}

pub fn list_segments(request: pb::ListSegmentsRequest) -> Result<ListSegments> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
    let size = fields.check("page_size", PageSize::parse(request.page_size));
    let after = tenant_id.and_then(|tenant_id| {
        fields.check("page_token", ListSegments::page_token_scope(tenant_id).decode(&request.page_token))
    });
    Ok(fields.finish(|| Some(ListSegments { tenant_id: tenant_id?, size: size?, after: after? }))?)
}

pub fn list_segments_response(page: Page<Segment>) -> pb::ListSegmentsResponse {
    pb::ListSegmentsResponse {
        segments: page.items.into_iter().map(segment).collect(),
        next_page_token: page.next_page_token,
    }
}

pub fn delete_segment(request: pb::DeleteSegmentRequest) -> Result<(TenantId, SegmentId)> {
    parse_segment_ref(&request.tenant_id, &request.segment_id)
}

fn parse_package_ref(tenant_id: &str, package_id: &str) -> Result<(TenantId, PackageId)> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(tenant_id));
    let package_id = fields.check("package_id", PackageId::parse(package_id));
    Ok(fields.finish(|| Some((tenant_id?, package_id?)))?)
}

fn parse_segment_ref(tenant_id: &str, segment_id: &str) -> Result<(TenantId, SegmentId)> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(tenant_id));
    let segment_id = fields.check("segment_id", SegmentId::parse(segment_id));
    Ok(fields.finish(|| Some((tenant_id?, segment_id?)))?)
}

/// What an upsert is about, from its parsed id, slug and name; `None` where one that it hangs on is bad.
///
/// Without an id and a good slug it can only be meant to create, and so it needs a name.
#[expect(clippy::option_option, reason = "outer: was it valid; inner: was it there")]
fn target<Id>(
    fields: &mut Violations,
    name_field: &str,
    id: Option<Option<Id>>,
    slug: Option<Option<Slug>>,
    name: Option<&Option<DisplayName>>,
) -> Option<UpsertTarget<Id>> {
    match (id?, slug) {
        (Some(id), slug) => Some(UpsertTarget::ById(id, slug?)),
        (None, Some(Some(slug))) => Some(UpsertTarget::BySlug(slug)),
        (None, slug) => {
            let Some(name) = name? else {
                fields.add(name_field, InvalidValue::missing());
                return None;
            };
            // Where the slug is bad, that is the mistake, not what could be made of the name.
            let stem = slug.and_then(|_absent| fields.check(name_field, SlugStem::from_name(name.as_str())));
            stem.map(UpsertTarget::New)
        }
    }
}

fn booking_type(number: i32) -> std::result::Result<Option<BookingType>, InvalidValue> {
    match pb::BookingType::try_from(number) {
        Ok(pb::BookingType::Unspecified) => Ok(None),
        Ok(pb::BookingType::Date) => Ok(Some(BookingType::Date)),
        Ok(pb::BookingType::Timeslot) => Ok(Some(BookingType::Timeslot)),
        Err(_) => Err(InvalidValue::new(Reason::BadFormat, "must be a known booking type")),
    }
}

const fn action(created: bool) -> pb::UpsertAction {
    if created { pb::UpsertAction::Created } else { pb::UpsertAction::Updated }
}

/// How often the old names are still used; the span says by whom.
fn count_deprecated(field: &'static str, is_used: bool) {
    if is_used {
        tracing::info!(field, "A deprecated field was used");
        metrics::count_deprecated_field(field);
    }
}
