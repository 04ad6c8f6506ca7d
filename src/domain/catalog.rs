//! Wishes for a tenant's catalog, and what comes of them.

use super::{
    booking_type::BookingType,
    derived_slug::SlugStem,
    ids::{PackageId, SegmentId, TenantId},
    package::Package,
    paging::{Cursor, PageSize, PageTokenScope},
    price::Price,
    slug::Slug,
    text::{Description, DisplayName},
};

/// What an upsert is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpsertTarget<Id> {
    /// This one, which must exist; with a slug it is renamed.
    ById(Id, Option<Slug>),
    /// The one with this slug, or a new one.
    BySlug(Slug),
    /// A new one, whose slug is made from its name.
    New(SlugStem),
}

impl<Id: Copy> UpsertTarget<Id> {
    pub const fn id(&self) -> Option<Id> {
        match self {
            Self::ById(id, _) => Some(*id),
            Self::BySlug(_) | Self::New(_) => None,
        }
    }

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

/// A package to be created or changed. What is absent stays as it is, or gets its default.
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

/// A segment to be created or changed. What is absent stays as it is, or gets its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentUpsert {
    pub target: UpsertTarget<SegmentId>,
    pub name: Option<DisplayName>,
    pub hero_title: Option<DisplayName>,
    pub description: Option<Description>,
    pub sort_order: Option<i32>,
    pub active: Option<bool>,
}

/// A thing as it is after an upsert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpsertResult<T> {
    pub created: bool,
    pub item: T,
}

/// Why an item of an upsert cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It names something by an id that this tenant does not have.
    NotFound,
    /// Its segment is none of this tenant's.
    SegmentNotFound,
    /// It would create, and lacks the name or the price for that.
    Incomplete,
    /// It would take a slug that another one has.
    SlugTaken,
    /// An item before it is about the same thing.
    Duplicate,
    /// It would rename the General segment.
    DefaultSegment,
}

/// What became of an upsert of packages: all done, or all refused with every item that is to blame.
#[derive(Debug)]
pub enum PackageBatchOutcome {
    Done {
        packages: Vec<UpsertResult<Package>>,
        /// The General segment, where it was missing and had to be made again.
        recreated_general: Option<SegmentId>,
    },
    Refused(Vec<(usize, Problem)>),
}

/// Which packages to list, and where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPackages {
    pub tenant_id: TenantId,
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

/// Where to begin to list segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSegments {
    pub tenant_id: TenantId,
    pub size: PageSize,
    pub after: Option<Cursor>,
}

impl ListSegments {
    pub fn page_token_scope(tenant_id: TenantId) -> PageTokenScope {
        PageTokenScope::new(format!("ListSegments/{tenant_id}"))
    }
}
