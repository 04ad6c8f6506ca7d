//! Messages of `PackageCatalog`. The deprecated field names `title` and `price_cents` are known only here.
//!
//! Some clients send every field, so an empty text in an optional field that identifies or names something means that
//! the field is absent. An empty description is a value.

use std::collections::HashSet;

use super::{action, etag};
use crate::{
    domain::{
        BookingType, Description, DisplayName, ExternalId, InvalidValue, Package, PackageId, Price, Reason, Segment,
        SegmentId, Slug, SlugStem, TenantId, Violations,
        catalog::{
            CatalogIdentifier, Deletion, ListPackages, ListSegments, PackageFilter, PackageUpsert, SegmentUpsert,
            UpsertPackage, UpsertSegment, UpsertTarget, Upserted,
        },
        paging::PageSize,
    },
    grpc::pb,
    telemetry::metrics,
};

const MAX_BATCH: usize = 500;

impl TryFrom<pb::UpsertPackageRequest> for (TenantId, UpsertPackage) {
    type Error = Violations;

    fn try_from(request: pb::UpsertPackageRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        #[expect(deprecated, reason = "the old names remain accepted")]
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
            validate_only: None,
            etag: request.etag,
            external_id: request.external_id,
        };
        let upsert = fields.check_nested("", PackageUpsert::try_from(item));
        let validate_only = request.validate_only.unwrap_or_default();
        fields.into_result(|| Some((tenant_id?, UpsertPackage { upsert: upsert?, validate_only })))
    }
}

impl From<Upserted<Segment>> for pb::UpsertSegmentResponse {
    fn from(upserted: Upserted<Segment>) -> Self {
        let Upserted { result, dry_run } = upserted;
        let mut segment = pb::Segment::from(result.item);
        if dry_run {
            // What only a stored segment has.
            segment.etag.clear();
            if result.created {
                segment.id.clear();
                (segment.created_at, segment.updated_at) = (None, None);
            }
        }
        Self { action: action(result.created).into(), segment: Some(segment) }
    }
}

impl From<Upserted<Package>> for pb::UpsertPackageResponse {
    fn from(upserted: Upserted<Package>) -> Self {
        let Upserted { result, dry_run } = upserted;
        let mut package = pb::Package::from(result.item);
        if dry_run {
            // What only a stored package has.
            package.etag.clear();
            if result.created {
                package.id.clear();
                (package.created_at, package.updated_at) = (None, None);
            }
        }
        Self {
            action: action(result.created).into(),
            package: Some(package),
            previous: result.previous.map(pb::Package::from),
        }
    }
}

impl TryFrom<pb::BatchUpsertPackagesRequest> for (TenantId, Vec<PackageUpsert>) {
    type Error = Violations;

    fn try_from(request: pb::BatchUpsertPackagesRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        if request.packages.is_empty() {
            fields.add("packages", InvalidValue::missing());
        }
        if request.packages.len() > MAX_BATCH {
            fields.add("packages", InvalidValue::new(Reason::TooLong, "must have at most 500 packages"));
            return Err(fields);
        }
        let (mut ids, mut slugs, mut external_ids) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut upserts = Vec::with_capacity(request.packages.len());
        for (index, item) in request.packages.into_iter().enumerate() {
            let path = format!("packages[{index}].");
            let Some(upsert) = fields.check_nested(&path, PackageUpsert::try_from(item)) else { continue };
            let duplicate = || InvalidValue::new(Reason::BadFormat, "is that of an earlier item");
            if upsert.target.id().is_some_and(|id| !ids.insert(id)) {
                fields.add(format!("{path}package_id"), duplicate());
            }
            if upsert.target.slug().is_some_and(|slug| !slugs.insert(slug.to_owned())) {
                fields.add(format!("{path}slug"), duplicate());
            }
            if upsert.external_id.clone().is_some_and(|id| !external_ids.insert(id)) {
                fields.add(format!("{path}external_id"), duplicate());
            }
            upserts.push(upsert);
        }
        fields.into_result(|| Some((tenant_id?, upserts)))
    }
}

impl TryFrom<pb::PackageUpsert> for PackageUpsert {
    type Error = Violations;

    fn try_from(item: pb::PackageUpsert) -> Result<Self, Violations> {
        #[expect(deprecated, reason = "the old names remain accepted")]
        let (title, price_cents) = (non_empty(item.title), item.price_cents);
        let name = non_empty(item.name);
        count_deprecated("title", title.is_some());
        count_deprecated("price_cents", price_cents.is_some());
        let name_field = if name.is_none() && title.is_some() { "title" } else { "name" };
        let price_field = if item.base_price.is_none() && price_cents.is_some() { "price_cents" } else { "base_price" };
        let base_price = item.base_price.or(price_cents);

        let mut fields = Violations::default();
        if item.validate_only == Some(true) {
            fields.add("validate_only", InvalidValue::new(Reason::BadFormat, "must not be set in a batch"));
        }
        let package_id = non_empty(item.package_id).map(|id| fields.check("package_id", PackageId::parse(&id)));
        let slug = non_empty(item.slug).map(|slug| fields.check("slug", Slug::parse(&slug)));
        let name = name.or(title).map(|name| fields.check(name_field, DisplayName::parse(&name)));
        let description = fields.check_optional("description", item.description, |text| Description::parse(&text));
        let external_id = external_id(&mut fields, item.external_id);
        let can_only_create =
            package_id.is_none() && slug.as_ref().is_none_or(Option::is_none) && external_id.is_none();
        let is_price_missing = can_only_create && base_price.is_none();
        let base_price = fields.check_optional(price_field, base_price, Price::parse);
        let booking_type = fields.check("booking_type", booking_type(item.booking_type));
        let segment_id = fields.check_optional("segment_id", non_empty(item.segment_id), |id| SegmentId::parse(&id));
        let target = target(&mut fields, name_field, package_id, slug, external_id.as_ref(), name.as_ref());
        if is_price_missing {
            fields.add("base_price", InvalidValue::missing());
        }
        fields.into_result(|| {
            Some(Self {
                target: target?,
                name: name.flatten(),
                description,
                base_price,
                booking_type: booking_type?,
                active: item.active,
                grouping_order: item.grouping_order,
                segment_id,
                external_id: external_id.flatten(),
                etag: etag(item.etag),
            })
        })
    }
}

impl TryFrom<pb::ListPackagesRequest> for (TenantId, ListPackages) {
    type Error = Violations;

    fn try_from(request: pb::ListPackagesRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        let size = fields.check("page_size", PageSize::parse(request.page_size));
        let segment_id = non_empty(request.segment_id).map(|id| SegmentId::parse(&id)).transpose();
        let filter = fields
            .check("segment_id", segment_id)
            .map(|segment_id| PackageFilter { segment_id, active: request.active });
        // A page token can be checked only against a known list.
        let after = tenant_id.zip(filter).and_then(|(tenant_id, filter)| {
            fields.check("page_token", filter.page_token_scope(tenant_id).decode(&request.page_token))
        });
        fields.into_result(|| Some((tenant_id?, ListPackages { filter: filter?, size: size?, after: after? })))
    }
}

impl TryFrom<pb::UpsertSegmentRequest> for (TenantId, UpsertSegment) {
    type Error = Violations;

    fn try_from(request: pb::UpsertSegmentRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        let segment_id = non_empty(request.segment_id).map(|id| fields.check("segment_id", SegmentId::parse(&id)));
        let slug = non_empty(request.slug).map(|slug| fields.check("slug", Slug::parse(&slug)));
        let name = non_empty(request.name).map(|name| fields.check("name", DisplayName::parse(&name)));
        let hero_title = non_empty(request.hero_title);
        let hero_title = fields.check_optional("hero_title", hero_title, |title| DisplayName::parse(&title));
        let description = fields.check_optional("description", request.description, |text| Description::parse(&text));
        let external_id = external_id(&mut fields, request.external_id);
        let target = target(&mut fields, "name", segment_id, slug, external_id.as_ref(), name.as_ref());
        fields.into_result(|| {
            let upsert = SegmentUpsert {
                target: target?,
                name: name.flatten(),
                hero_title,
                description,
                sort_order: request.sort_order,
                active: request.active,
                external_id: external_id.flatten(),
                etag: etag(request.etag),
            };
            let validate_only = request.validate_only.unwrap_or_default();
            Some((tenant_id?, UpsertSegment { upsert, validate_only }))
        })
    }
}

impl TryFrom<pb::ListSegmentsRequest> for (TenantId, ListSegments) {
    type Error = Violations;

    fn try_from(request: pb::ListSegmentsRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        let size = fields.check("page_size", PageSize::parse(request.page_size));
        let after = tenant_id.and_then(|tenant_id| {
            let scope = ListSegments::page_token_scope(tenant_id, request.active);
            fields.check("page_token", scope.decode(&request.page_token))
        });
        fields.into_result(|| Some((tenant_id?, ListSegments { active: request.active, size: size?, after: after? })))
    }
}

/// Implements `TryFrom` for the requests of reads.
macro_rules! reads_from_requests {
    ($($request:ident { $field:ident: $id:ident })+) => {$(
        impl TryFrom<pb::$request> for (TenantId, CatalogIdentifier<$id>) {
            type Error = Violations;

            fn try_from(request: pb::$request) -> Result<Self, Violations> {
                let mut fields = Violations::default();
                let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
                let id = non_empty(Some(request.$field));
                let (slug, external_id) = (non_empty(request.slug), non_empty(request.external_id));
                let field = stringify!($field);
                let identifier = match (id, slug, external_id) {
                    (Some(id), None, None) => fields.check(field, $id::parse(&id)).map(CatalogIdentifier::Id),
                    (None, Some(slug), None) => fields.check("slug", Slug::parse(&slug)).map(CatalogIdentifier::Slug),
                    (None, None, Some(id)) => {
                        fields.check("external_id", ExternalId::parse(&id)).map(CatalogIdentifier::ExternalId)
                    }
                    (None, None, None) => fields.check(field, Err(InvalidValue::missing())),
                    _ => {
                        let description = "must be the only one of the id, slug and external_id";
                        fields.check(field, Err(InvalidValue::new(Reason::BadFormat, description)))
                    }
                };
                fields.into_result(|| Some((tenant_id?, identifier?)))
            }
        }
    )+};
}

reads_from_requests! {
    GetPackageRequest { package_id: PackageId }
    GetSegmentRequest { segment_id: SegmentId }
}

/// Implements `TryFrom` for the requests of deletions.
macro_rules! deletions_from_requests {
    ($($request:ident { $field:ident: $id:ident })+) => {$(
        impl TryFrom<pb::$request> for (TenantId, Deletion<$id>) {
            type Error = Violations;

            fn try_from(request: pb::$request) -> Result<Self, Violations> {
                let mut fields = Violations::default();
                let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
                let id = fields.check(stringify!($field), $id::parse(&request.$field));
                let (etag, allow_missing) = (etag(request.etag), request.allow_missing);
                fields.into_result(|| Some((tenant_id?, Deletion { id: id?, etag, allow_missing })))
            }
        }
    )+};
}

deletions_from_requests! {
    DeletePackageRequest { package_id: PackageId }
    DeleteSegmentRequest { segment_id: SegmentId }
}

/// Returns the target of an upsert, or adds what is missing for one. In each argument, the outer option is the presence
/// of the field and the inner one its value, `None` if its violation was already added.
///
/// An upsert without an id, an external id and a valid slug can only create, and then needs a name.
#[expect(clippy::option_option, reason = "presence and validity differ")]
fn target<Id>(
    fields: &mut Violations,
    name_field: &str,
    id: Option<Option<Id>>,
    slug: Option<Option<Slug>>,
    external_id: Option<&Option<ExternalId>>,
    name: Option<&Option<DisplayName>>,
) -> Option<UpsertTarget<Id>> {
    match (id, slug, name) {
        (Some(id), slug, _) => Some(UpsertTarget::ById(id?, slug.flatten())),
        (None, Some(Some(slug)), _) => Some(UpsertTarget::BySlug(slug)),
        (None, None, name) if external_id.is_some() => {
            let stem = name.and_then(Option::as_ref).and_then(|name| SlugStem::from_name(name.as_str()).ok());
            Some(UpsertTarget::ByExternalId(stem))
        }
        (None, _, None) => fields.check(name_field, Err(InvalidValue::missing())),
        (None, None, Some(name)) => {
            fields.check(name_field, SlugStem::from_name(name.as_ref()?.as_str())).map(UpsertTarget::New)
        }
        // The violation is the invalid slug, whatever slug the name would give.
        (None, Some(None), Some(_)) => None,
    }
}

#[expect(clippy::option_option, reason = "presence and validity differ")]
fn external_id(fields: &mut Violations, text: Option<String>) -> Option<Option<ExternalId>> {
    non_empty(text).map(|id| fields.check("external_id", ExternalId::parse(&id)))
}

/// An empty text counts as absent.
fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn booking_type(number: i32) -> Result<Option<BookingType>, InvalidValue> {
    match pb::BookingType::try_from(number) {
        Ok(pb::BookingType::Unspecified) => Ok(None),
        Ok(pb::BookingType::Date) => Ok(Some(BookingType::Date)),
        Ok(pb::BookingType::Timeslot) => Ok(Some(BookingType::Timeslot)),
        Err(_) => Err(InvalidValue::new(Reason::BadFormat, "must be a known booking type")),
    }
}

/// Counts uses of the deprecated names. The log line's span names the caller.
fn count_deprecated(field: &'static str, is_used: bool) {
    if is_used {
        tracing::info!(field, "A deprecated field was used");
        metrics::count_deprecated_field(field);
    }
}
