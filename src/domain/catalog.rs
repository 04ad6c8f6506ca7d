//! The parsed requests of `PackageCatalog` and their outcomes. The resources themselves are in [`super::package`] and
//! [`super::segment`].

use strum::EnumString;

use super::{
    booking_type::BookingType,
    derived_slug::SlugStem,
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
    /// The resource with this slug; it is created if it does not exist.
    BySlug(Slug),
    /// A new resource, whose slug is derived from its name.
    New(SlugStem),
}

impl<Id: Copy> UpsertTarget<Id> {
    pub const fn id(&self) -> Option<Id> {
        match self {
            Self::ById(id, _) => Some(*id),
            Self::BySlug(_) | Self::New(_) => None,
        }
    }

    /// Returns the slug that the request gives.
    pub fn slug(&self) -> Option<&str> {
        match self {
            Self::ById(_, slug) => slug.as_ref().map(Slug::as_str),
            Self::BySlug(slug) => Some(slug.as_str()),
            Self::New(_) => None,
        }
    }

    pub const fn stem(&self) -> Option<&SlugStem> {
        match self {
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
}

/// The request of `UpsertPackage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpsertPackage {
    pub upsert: PackageUpsert,
    pub validate_only: bool,
}

/// The outcome of `UpsertPackage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpsertedPackage {
    pub result: UpsertResult<Package>,
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
    /// The item would create a package, but lacks its name or price.
    Incomplete,
    /// Another package has the new slug.
    SlugTaken,
    /// An earlier item has the same package as its target.
    Duplicate,
    /// The tenant would have more packages than its quota.
    QuotaExceeded,
}

/// Why a segment cannot be written. Parses from the name that the SQL statement gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum SegmentUpsertError {
    /// The tenant has no segment with this id.
    NotFound,
    /// The upsert would create a segment, but lacks its name.
    Incomplete,
    /// Another segment has the new slug.
    SlugTaken,
    /// The upsert would rename the General segment.
    DefaultSegment,
    /// The tenant would have more segments than its quota.
    QuotaExceeded,
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
    pub size: PageSize,
    pub after: Option<Cursor>,
}

impl ListSegments {
    pub fn page_token_scope(tenant_id: TenantId) -> PageTokenScope {
        PageTokenScope::new(format!("ListSegments/{tenant_id}"))
    }
}
