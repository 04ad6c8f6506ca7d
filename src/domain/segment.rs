//! A segment, as stored and returned. `catalog.rs` has the requests that change one.

use serde::Deserialize;
use time::{OffsetDateTime, serde::rfc3339};
use uuid::Uuid;

use super::{
    etag::Etag,
    ids::{SegmentId, TenantId},
};

/// A group of packages on a tenant's storefront.
///
/// Deserializes from `to_jsonb` of a row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Segment {
    pub id: SegmentId,
    pub tenant_id: TenantId,
    pub slug: String,
    pub name: String,
    pub hero_title: String,
    pub description: String,
    pub sort_order: i32,
    pub active: bool,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub updated_at: OffsetDateTime,
    pub external_id: Option<String>,
    /// Renewed whenever a field changes. `None` until then.
    pub revision: Option<Uuid>,
    /// The number of its packages, active or not.
    pub package_count: i32,
}

impl Segment {
    pub fn etag(&self) -> Etag {
        Etag::new(self.id.as_uuid(), self.revision)
    }
}
