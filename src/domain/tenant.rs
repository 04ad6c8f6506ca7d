//! A tenant as it is read, listed and changed.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    branding::Branding,
    commission::CommissionPercent,
    ids::TenantId,
    paging::{ApproximateSize, Cursor, PageSize, PageTokenScope},
    text::DisplayName,
    validation::InvalidValue,
};

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

/// A change to an existing tenant. Every change is idempotent: one that changes nothing leaves `updated_at` alone.
#[derive(Debug, Clone, PartialEq)]
pub enum TenantChange {
    Update(TenantUpdate),
    Suspend,
    Reactivate,
    /// Soft: the tenant can be undeleted until it is purged. All changes but this one and [`Self::Undelete`] are refused
    /// on a deleted tenant.
    Delete,
    Undelete,
}

/// New values; an absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TenantUpdate {
    pub name: Option<DisplayName>,
    pub commission: Option<CommissionPercent>,
    pub branding: Option<Branding>,
}

/// A page of tenants in the order of their creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListTenants {
    pub filter: TenantFilter,
    pub size: PageSize,
    pub after: Option<TenantCursor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantFilter {
    pub is_active: Option<bool>,
    /// Empty keeps all.
    pub slug_prefix: String,
    pub show_deleted: bool,
}

/// A place in the order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantCursor {
    pub created_at: OffsetDateTime,
    pub id: Uuid,
}

impl TenantFilter {
    /// What a page token is bound to.
    pub fn page_token_scope(&self) -> PageTokenScope {
        let Self { is_active, slug_prefix, show_deleted } = self;
        PageTokenScope::new(format!("ListTenants {is_active:?} {show_deleted} {slug_prefix}"))
    }

    /// Whether a slug can begin with the prefix at all; a text may hold what the database does not even take.
    pub fn has_valid_prefix(&self) -> bool {
        self.slug_prefix.bytes().all(|ch| matches!(ch, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    }

    /// # Errors
    /// `BAD_FORMAT` for what is no token of this list.
    pub fn position(&self, token: &str) -> Result<Option<TenantCursor>, InvalidValue> {
        let Some(position) = self.page_token_scope().parse(token)? else { return Ok(None) };
        let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(position.order) * 1_000);
        // Nothing was made before there was a clock for it, and the database knows no year so far back as a token can.
        let created_at = created_at.ok().filter(|&moment| moment >= OffsetDateTime::UNIX_EPOCH);
        let created_at = created_at.ok_or_else(PageTokenScope::invalid_page_token)?;
        Ok(Some(TenantCursor { created_at, id: position.id }))
    }
}

impl ApproximateSize for Tenant {
    fn bytes(&self) -> usize {
        self.name.len() + json_bytes(self.branding.iter())
    }
}

/// About as many as the members take in a message.
fn json_bytes<'a>(members: impl Iterator<Item = (&'a String, &'a Value)>) -> usize {
    fn of_value(value: &Value) -> usize {
        const FRAME: usize = 12;
        FRAME
            + match value {
                Value::String(text) => text.len(),
                Value::Array(items) => items.iter().map(of_value).sum(),
                Value::Object(object) => json_bytes(object.iter()),
                Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            }
    }
    members.map(|(key, value)| key.len() + of_value(value)).sum()
}

impl Tenant {
    /// Its place in a list, to the microsecond, as Postgres keeps it.
    pub fn position(&self) -> Cursor {
        let micros = self.created_at.unix_timestamp_nanos() / 1_000;
        // 64 bits hold 290,000 years of microseconds, and Postgres' own count of them is no wider.
        Cursor { order: i64::try_from(micros).unwrap_or(i64::MAX), id: self.id.as_uuid() }
    }
}
