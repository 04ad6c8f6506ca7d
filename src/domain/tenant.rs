//! A tenant, its changes and the list of tenants. How a tenant is created is in [`super::provisioning`] and
//! [`super::signup`].

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    branding::{Branding, StoredBranding},
    commission::CommissionPercent,
    ids::TenantId,
    paging::{Cursor, PageSize, PageTokenScope},
    text::DisplayName,
    validation::InvalidValue,
};

/// One business on the platform.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    pub id: TenantId,
    pub slug: String,
    pub name: String,
    /// The public half of the newest usable key; if no key is usable, of the newest key.
    pub api_key_public: String,
    pub commission: CommissionPercent,
    pub is_active: bool,
    /// Free-form settings of the storefront, written by the platform's front end.
    pub branding: StoredBranding,
    pub owner_email: Option<String>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub deleted_at: Option<OffsetDateTime>,
}

/// A change to an existing tenant. Every change is idempotent: if all values are already set, `updated_at` is not
/// modified.
#[derive(Debug, Clone, PartialEq)]
pub enum TenantChange {
    Update(TenantUpdate),
    Suspend,
    Reactivate,
    /// Soft: the tenant can be undeleted until it is purged. On a deleted tenant, only this change and
    /// [`Self::Undelete`] succeed.
    Delete,
    Undelete,
}

/// New values; an absent field is not changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TenantUpdate {
    pub name: Option<DisplayName>,
    pub commission: Option<CommissionPercent>,
    pub branding: Option<Branding>,
}

/// A request for one page of tenants, ordered by creation time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListTenants {
    pub filter: TenantFilter,
    pub size: PageSize,
    pub after: Option<TenantCursor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantFilter {
    pub is_active: Option<bool>,
    /// Empty matches every slug.
    pub slug_prefix: String,
    pub show_deleted: bool,
}

/// The position of a tenant in the order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantCursor {
    pub created_at: OffsetDateTime,
    pub id: Uuid,
}

impl TenantFilter {
    /// Returns the scope that page tokens of this list are bound to.
    pub fn page_token_scope(&self) -> PageTokenScope {
        let Self { is_active, slug_prefix, show_deleted } = self;
        PageTokenScope::new(format!("ListTenants {is_active:?} {show_deleted} {slug_prefix}"))
    }

    /// Whether a slug can begin with the prefix. Other prefixes match nothing, and Postgres rejects some of them, such
    /// as those with a NUL character.
    pub fn has_valid_prefix(&self) -> bool {
        self.slug_prefix.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    }

    /// Returns the cursor that a page token encodes, or `None` for an empty token: the start of the list.
    ///
    /// # Errors
    /// `BAD_FORMAT` if the token does not belong to this list.
    pub fn decode_page_token(&self, token: &str) -> Result<Option<TenantCursor>, InvalidValue> {
        let Some(cursor) = self.page_token_scope().decode(token)? else { return Ok(None) };
        let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(cursor.order) * 1_000);
        // Reject timestamps before 1970: no tenant is older, and Postgres cannot represent the full range of an i64.
        let created_at = created_at.ok().filter(|&created_at| created_at >= OffsetDateTime::UNIX_EPOCH);
        let created_at = created_at.ok_or_else(PageTokenScope::invalid_page_token)?;
        Ok(Some(TenantCursor { created_at, id: cursor.id }))
    }
}

impl Tenant {
    /// Returns the tenant's position in a list. Microseconds are the precision of Postgres timestamps.
    pub fn cursor(&self) -> Cursor {
        let micros = self.created_at.unix_timestamp_nanos() / 1_000;
        // 64 bits hold 290,000 years of microseconds; Postgres stores timestamps in 64 bits, too.
        Cursor { order: i64::try_from(micros).unwrap_or(i64::MAX), id: self.id.as_uuid() }
    }
}
