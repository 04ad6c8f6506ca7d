//! A segment, as stored and returned. `catalog.rs` has the requests that change one.

use time::OffsetDateTime;

use super::{
    ids::{SegmentId, TenantId},
    paging::ApproximateSize,
};

/// A group of packages on a tenant's storefront.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub id: SegmentId,
    pub tenant_id: TenantId,
    pub slug: String,
    pub name: String,
    pub hero_title: String,
    pub description: String,
    pub sort_order: i32,
    pub active: bool,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

impl ApproximateSize for Segment {
    fn approximate_size(&self) -> usize {
        self.name.len() + self.hero_title.len() + self.description.len()
    }
}
