//! The parsed requests of `PackageCatalog` and their outcomes. The resources themselves are in [`super::package`] and
//! [`super::segment`].

use strum::EnumString;

use super::{
    booking_type::BookingType,
    derived_slug::SlugStem,
    etag::Etag,
    external_id::ExternalId,
    ids::{PackageId, SegmentId, TenantId},
    package::Package,
    paging::{Cursor, PageSize, PageTokenScope},
    price::Price,
    segment::Segment,
    slug::Slug,
    text::{Description, DisplayName},
};

/// The resource that an upsert creates or updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpsertTarget<Id> {
    /// The existing resource with this id. The slug, if present, is its new slug.
    ById(Id, Option<Slug>),
    /// The resource with the external id of the upsert, or else with this slug; it is created if it does not exist.
    BySlug(Slug),
    /// The resource with the external id of the upsert; it is created if it does not exist, with a slug derived from
    /// its name. `None` if it has no name, or one that gives no slug, and so can only be updated.
    ByExternalId(Option<SlugStem>),
    /// A new resource, whose slug is derived from its name.
    New(SlugStem),
}

impl<Id: Copy> UpsertTarget<Id> {
    pub const fn id(&self) -> Option<Id> {
        match self {
            Self::ById(id, _) => Some(*id),
            Self::BySlug(_) | Self::ByExternalId(_) | Self::New(_) => None,
        }
    }

    /// Returns the slug that the request gives.
    pub fn slug(&self) -> Option<&str> {
        match self {
            Self::ById(_, slug) => slug.as_ref().map(Slug::as_str),
            Self::BySlug(slug) => Some(slug.as_str()),
            Self::ByExternalId(_) | Self::New(_) => None,
        }
    }

    pub const fn stem(&self) -> Option<&SlugStem> {
        match self {
            Self::ByExternalId(stem) => stem.as_ref(),
            Self::New(stem) => Some(stem),
            Self::ById(..) | Self::BySlug(_) => None,
        }
    }
}

/// A package to create or update. An absent field keeps its value in an update and gets its default in a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageUpsert {
    pub target: UpsertTarget<PackageId>,
    pub name: Option<DisplayName>,
    pub description: Option<Description>,
    pub base_price: Option<Price>,
    pub booking_type: Option<BookingType>,
    pub active: Option<bool>,
    pub grouping_order: Option<i32>,
    pub segment_id: Option<SegmentId>,
    /// Can be set once.
    pub external_id: Option<ExternalId>,
    /// If present, only the existing package with this etag is changed.
    pub etag: Option<Etag>,
}

/// The request of `UpsertPackage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpsertPackage {
    pub upsert: PackageUpsert,
    pub validate_only: bool,
}

/// The request of `UpsertSegment`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpsertSegment {
    pub upsert: SegmentUpsert,
    pub validate_only: bool,
}

/// The outcome of `UpsertPackage` or `UpsertSegment`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upserted<T> {
    pub result: UpsertResult<T>,
    /// Whether nothing was written.
    pub dry_run: bool,
}

/// A segment to create or update. An absent field keeps its value in an update and gets its default in a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentUpsert {
    pub target: UpsertTarget<SegmentId>,
    pub name: Option<DisplayName>,
    pub hero_title: Option<DisplayName>,
    pub description: Option<Description>,
    pub sort_order: Option<i32>,
    pub active: Option<bool>,
    /// Can be set once.
    pub external_id: Option<ExternalId>,
    /// If present, only the existing segment with this etag is changed.
    pub etag: Option<Etag>,
}

/// Identifies an existing package or segment of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogIdentifier<Id> {
    Id(Id),
    Slug(Slug),
    ExternalId(ExternalId),
}

/// The request of `DeletePackage` or `DeleteSegment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion<Id> {
    pub id: Id,
    /// If present, only the resource with this etag is deleted.
    pub etag: Option<Etag>,
    /// Whether it is no error that the resource does not exist.
    pub allow_missing: bool,
}

/// A resource after an upsert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpsertResult<T> {
    /// Whether the upsert created the resource; otherwise it existed.
    pub created: bool,
    pub item: T,
    /// The resource before an update; only of a package that is upserted alone.
    pub previous: Option<T>,
}

/// All packages of a batch, in order; or why nothing was written.
pub type PackageUpsertOutcome = Result<Vec<UpsertResult<Package>>, PackageUpsertFailure>;

/// Why a batch of packages was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageUpsertFailure {
    /// Every item that prevents it, by its index.
    Items(Vec<(usize, PackageUpsertError)>),
    ResponseTooLarge,
}

pub type SegmentUpsertOutcome = Result<UpsertResult<Segment>, SegmentUpsertError>;

/// Why an item of a package upsert cannot be written. Parses from the name that the SQL statement gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum PackageUpsertError {
    /// The tenant has no package with the item's id.
    NotFound,
    /// The tenant has no segment with the item's segment id.
    SegmentNotFound,
    /// The item would create a package, but lacks its price, its name or, with a name that gives none, its slug.
    Incomplete,
    /// Another package has the new slug.
    SlugTaken,
    /// An earlier item has the same package as its target.
    Duplicate,
    /// The tenant would have more packages than its quota.
    QuotaExceeded,
    /// Another package has the external id.
    ExternalIdTaken,
    /// The package has another external id.
    ExternalIdSet,
    /// The package does not have the item's etag, or the item would create a package.
    EtagMismatch,
}

/// Why a segment cannot be written. Parses from the name that the SQL statement gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum SegmentUpsertError {
    /// The tenant has no segment with this id.
    NotFound,
    /// The upsert would create a segment, but lacks its name or, with a name that gives none, its slug.
    Incomplete,
    /// Another segment has the new slug.
    SlugTaken,
    /// The upsert would rename the General segment.
    DefaultSegment,
    /// The tenant would have more segments than its quota.
    QuotaExceeded,
    /// Another segment has the external id.
    ExternalIdTaken,
    /// The segment has another external id.
    ExternalIdSet,
    /// The segment does not have this etag, or the upsert would create a segment.
    EtagMismatch,
}

/// Which packages to list, and after which position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPackages {
    pub filter: PackageFilter,
    pub size: PageSize,
    pub after: Option<Cursor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackageFilter {
    pub segment_id: Option<SegmentId>,
    pub active: Option<bool>,
}

impl PackageFilter {
    pub fn page_token_scope(self, tenant_id: TenantId) -> PageTokenScope {
        PageTokenScope::new(format!("ListPackages/{tenant_id}/{:?}/{:?}", self.segment_id, self.active))
    }
}

/// Which segments to list, and after which position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSegments {
    pub active: Option<bool>,
    pub size: PageSize,
    pub after: Option<Cursor>,
}

impl ListSegments {
    pub fn page_token_scope(tenant_id: TenantId, active: Option<bool>) -> PageTokenScope {
        // Page tokens from before the filter stay valid for lists without one.
        let filter = active.map(|active| format!("/{active}")).unwrap_or_default();
        PageTokenScope::new(format!("ListSegments/{tenant_id}{filter}"))
    }
}
