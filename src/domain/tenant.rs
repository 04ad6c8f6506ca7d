//! A tenant as it is read.

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{commission::CommissionPercent, ids::TenantId};

/// One business on the platform.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    pub id: TenantId,
    pub slug: String,
    pub name: String,
    /// The public half of the newest usable key, else of the newest.
    pub api_key_public: String,
    pub commission: CommissionPercent,
    pub is_active: bool,
    /// The storefront's looks, as the platform's front end wrote them.
    pub branding: Map<String, Value>,
    pub owner_email: Option<String>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub deleted_at: Option<OffsetDateTime>,
}
