//! Authenticated callers and what they may do. Which RPC requires which role is in `grpc/auth.rs`.

use std::sync::Arc;

use super::{api_key::ApiKeyScope, ids::TenantId, key_format::PublicKey};

/// A permission of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display, strum::EnumString)]
#[strum(serialize_all = "lowercase", parse_err_ty = RoleError, parse_err_fn = unknown_role)]
pub enum Role {
    /// All of `TenantProvisioning`.
    Provisioner,
    /// `VerifyApiKey` and `VerifyPassword`.
    Verifier,
    /// All of `PackageCatalog`, for any tenant.
    Catalog,
}

/// What a text must be to parse as a [`Role`].
type RoleError = &'static str;

const fn unknown_role(_text: &str) -> RoleError {
    "must be provisioner, verifier or catalog"
}

/// An authenticated caller. Idempotency records are separate for each caller's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Shared, because each call copies it several times.
    name: Arc<str>,
    authority: Authority,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Authority {
    All,
    Roles(Vec<Role>),
    /// The tenant key that was presented. Shared, as the name.
    TenantKey(Arc<PresentedKey>),
}

/// A valid key of a tenant that a caller presented as its credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentedKey {
    pub tenant_id: TenantId,
    pub public_key: PublicKey,
    pub scope: ApiKeyScope,
}

impl Caller {
    pub const ANONYMOUS: &str = "anonymous";
    /// The name of `turnkey import`.
    pub const IMPORT: &str = "import";
    /// The name of every other command in the log.
    pub const CLI: &str = "cli";
    /// Names that no service can have: idempotency records and logs would not distinguish it from Turnkey itself.
    pub const RESERVED_NAMES: [&str; 3] = [Self::ANONYMOUS, Self::IMPORT, Self::CLI];

    /// Any caller of a server that requires no credential.
    pub fn anonymous() -> Self {
        Self { name: Self::ANONYMOUS.into(), authority: Authority::All }
    }

    /// An import that writes to the database directly, without a server.
    pub fn import() -> Self {
        Self { name: Self::IMPORT.into(), authority: Authority::All }
    }

    pub fn service(name: &str, roles: &[Role]) -> Self {
        Self { name: name.into(), authority: Authority::Roles(roles.to_vec()) }
    }

    /// All keys of a tenant are one caller: they have the same name, and so the same request ids and limits.
    pub fn tenant_key(key: PresentedKey) -> Self {
        Self { name: format!("tenant {}", key.tenant_id).into(), authority: Authority::TenantKey(Arc::new(key)) }
    }

    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the tenant key that the caller presented, if that is its credential.
    pub fn presented_key(&self) -> Option<&PresentedKey> {
        match &self.authority {
            Authority::TenantKey(key) => Some(key),
            Authority::All | Authority::Roles(_) => None,
        }
    }

    /// Whether the caller has at least one of these roles.
    pub fn has_any(&self, roles: &[Role]) -> bool {
        match &self.authority {
            Authority::All => true,
            Authority::Roles(granted) => granted.iter().any(|role| roles.contains(role)),
            Authority::TenantKey(_) => false,
        }
    }

    /// Whether the caller is not restricted to another tenant. This does not replace the check of its roles.
    pub fn can_access_tenant(&self, tenant_id: TenantId) -> bool {
        self.presented_key().is_none_or(|key| key.tenant_id == tenant_id)
    }
}
