//! A package, as stored and returned. `catalog.rs` has the requests that change one.

use serde::Deserialize;
use time::{OffsetDateTime, serde::rfc3339};
use uuid::Uuid;

use super::{
    booking_type::BookingType,
    etag::Etag,
    ids::{PackageId, SegmentId, TenantId},
};

/// An offer that a customer can book. It always belongs to a segment of its own tenant.
///
/// Deserializes from `to_jsonb` of a row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Package {
    pub id: PackageId,
    pub tenant_id: TenantId,
    pub segment_id: SegmentId,
    pub slug: String,
    pub name: String,
    pub description: String,
    /// Minor units (cents).
    pub base_price: i64,
    pub booking_type: BookingType,
    pub grouping_order: i32,
    pub active: bool,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub updated_at: OffsetDateTime,
    pub external_id: Option<String>,
    /// Renewed whenever a field changes. `None` until then.
    pub revision: Option<Uuid>,
}

impl Package {
    pub fn etag(&self) -> Etag {
        Etag::new(self.id.as_uuid(), self.revision)
    }
}
