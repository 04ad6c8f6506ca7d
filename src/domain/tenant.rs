//! A tenant, its changes and the list of tenants. How a tenant is created is in [`super::provisioning`] and
//! [`super::signup`].

use std::collections::BTreeMap;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    branding::{Branding, BrandingPatch, StoredBranding},
    commission::CommissionPercent,
    etag::Etag,
    event::EventPosition,
    external_id::ExternalId,
    ids::TenantId,
    labels::Labels,
    paging::{
        Cursor, Page, PageCursor, PageSize, PageTokenScope, ScannedRow, SlugCursor, micros_since_epoch,
        time_from_micros,
    },
    tenant_limit::TenantLimit,
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
    pub owner_email_verified_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub deleted_at: Option<OffsetDateTime>,
    pub external_id: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub etag: Etag,
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
    Delete(Option<Etag>),
    Undelete,
}

impl TenantChange {
    /// Returns the type of the change's event.
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Update(_) => "tenant.updated",
            Self::Suspend => "tenant.suspended",
            Self::Reactivate => "tenant.reactivated",
            Self::Delete(_) => "tenant.deleted",
            Self::Undelete => "tenant.undeleted",
        }
    }
}

/// New values; an absent field is not changed. With an etag, only the tenant that has it is changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TenantUpdate {
    pub name: Option<DisplayName>,
    pub commission: Option<CommissionPercent>,
    pub branding: Option<Branding>,
    /// Can be set once.
    pub external_id: Option<ExternalId>,
    /// Replaces all labels.
    pub labels: Option<Labels>,
    pub etag: Option<Etag>,
}

/// The request of `UpdateTenant`.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateTenant {
    /// Has no branding if there is a patch of it.
    pub update: TenantUpdate,
    pub branding_patch: Option<BrandingPatch>,
}

/// A request for one page of tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListTenants {
    /// The tenants that the caller is limited to; `None` for all.
    pub tenants: Option<TenantLimit>,
    pub filter: TenantFilter,
    pub order: TenantOrder,
    pub size: PageSize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantFilter {
    pub is_active: Option<bool>,
    pub show_deleted: bool,
    /// Those that a tenant must have; it may have others.
    pub labels: Labels,
}

/// A page of tenants, and on the first page the position from which events can be watched without missing a change.
#[derive(Debug)]
pub struct ListedTenants {
    pub page: Page<Tenant>,
    pub cursor: Option<EventPosition>,
}

/// The order of a list of tenants, and the position after which its page begins: `None` is the start of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantOrder {
    OldestFirst(Option<CreationCursor>),
    NewestFirst(Option<CreationCursor>),
    /// By slug; only the tenants whose slugs begin with the prefix, which is not empty.
    SlugPrefix(String, Option<SlugCursor>),
}

/// The position of a tenant in the order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreationCursor {
    pub created_at: OffsetDateTime,
    pub id: Uuid,
}

impl ListTenants {
    pub const fn is_first_page(&self) -> bool {
        match &self.order {
            TenantOrder::OldestFirst(after) | TenantOrder::NewestFirst(after) => after.is_none(),
            TenantOrder::SlugPrefix(_, after) => after.is_none(),
        }
    }

    /// Returns the scope that page tokens of this list are bound to.
    pub fn page_token_scope(&self) -> PageTokenScope {
        let TenantFilter { is_active, show_deleted, labels } = &self.filter;
        let list = match &self.order {
            // The trailing space is where a prefix was before lists by prefix had an order of their own. Page tokens
            // from that time stay valid.
            TenantOrder::OldestFirst(_) => format!("ListTenants {is_active:?} {show_deleted} "),
            TenantOrder::NewestFirst(_) => format!("ListTenants newest first {is_active:?} {show_deleted}"),
            TenantOrder::SlugPrefix(prefix, _) => format!("ListTenants by slug {is_active:?} {show_deleted} {prefix}"),
        };
        let list = if labels.is_empty() { list } else { format!("with {labels:?}: {list}") };
        PageTokenScope::new(match &self.tenants {
            None => list,
            Some(tenants) => {
                let ids: Vec<String> = tenants.iter().map(|id| id.to_string()).collect();
                format!("of {}: {list}", ids.join(" "))
            }
        })
    }

    /// Moves to the page that begins after the position that this page token encodes. The empty token is the start.
    ///
    /// # Errors
    /// `BAD_FORMAT` if the token does not belong to this list.
    pub fn after(mut self, page_token: &str) -> Result<Self, InvalidValue> {
        let scope = self.page_token_scope();
        match &mut self.order {
            TenantOrder::OldestFirst(after) | TenantOrder::NewestFirst(after) => *after = scope.decode(page_token)?,
            TenantOrder::SlugPrefix(_, after) => *after = scope.decode(page_token)?,
        }
        Ok(self)
    }

    /// Returns the page of these rows, which may be more than its size.
    pub fn page(&self, rows: Vec<ScannedRow<Tenant>>) -> Page<Tenant> {
        let scope = self.page_token_scope();
        match self.order {
            TenantOrder::OldestFirst(_) | TenantOrder::NewestFirst(_) => {
                let cursor =
                    |tenant: &Tenant| CreationCursor { created_at: tenant.created_at, id: tenant.id.as_uuid() };
                Page::from_scan(rows, self.size, &scope, cursor)
            }
            TenantOrder::SlugPrefix(..) => {
                Page::from_scan(rows, self.size, &scope, |tenant| SlugCursor(tenant.slug.clone()))
            }
        }
    }
}

impl TenantOrder {
    /// Whether a slug can begin with the prefix. Other prefixes match nothing, and Postgres rejects some of them, such
    /// as those with a NUL character.
    pub fn has_valid_prefix(&self) -> bool {
        let Self::SlugPrefix(prefix, _) = self else { return true };
        prefix.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    }
}

impl PageCursor for CreationCursor {
    fn to_bytes(&self) -> Vec<u8> {
        Cursor { order: micros_since_epoch(self.created_at), id: self.id }.to_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let Cursor { order, id } = Cursor::from_bytes(bytes)?;
        Some(Self { created_at: time_from_micros(order)?, id })
    }
}
