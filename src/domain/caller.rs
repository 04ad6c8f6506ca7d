//! Authenticated callers and what they may do. Which RPC requires which role is in `grpc/auth.rs`.

use std::sync::Arc;

use super::{api_key::ApiKeyScope, ids::TenantId, key_format::PublicKey, tenant_limit::TenantLimit};

/// A permission of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display, strum::EnumString, strum::VariantArray)]
#[strum(serialize_all = "snake_case", parse_err_ty = RoleError, parse_err_fn = unknown_role)]
pub enum Role {
    /// All of `TenantProvisioning`.
    Provisioner,
    /// `VerifyApiKey` and the RPCs that an owner's password or token permits.
    Verifier,
    /// `CreateOwnerToken` and `SetOwner`.
    OwnerManager,
    /// All of `PackageCatalog`, for any tenant.
    Catalog,
    /// The RPCs of `PackageCatalog` that read, for any tenant.
    CatalogReader,
    /// What [`Self::CatalogReader`] permits, and the RPCs of `TenantProvisioning` that read tenants and list keys.
    Reader,
    /// The RPCs that create, rotate, revoke and list API keys.
    KeyManager,
    /// `ListEvents` and `WatchEvents`.
    Auditor,
}

/// What a text must be to parse as a [`Role`].
type RoleError = &'static str;

const fn unknown_role(_text: &str) -> RoleError {
    "must be provisioner, verifier, owner_manager, catalog, catalog_reader, reader, key_manager or auditor"
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
    Service {
        roles: Vec<Role>,
        /// `None` for any tenant.
        tenants: Option<TenantLimit>,
    },
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

    /// Any other command that writes to the database directly.
    pub fn cli() -> Self {
        Self { name: Self::CLI.into(), authority: Authority::All }
    }

    pub fn service(name: &str, roles: &[Role], tenants: Option<TenantLimit>) -> Self {
        Self { name: name.into(), authority: Authority::Service { roles: roles.to_vec(), tenants } }
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
            Authority::All | Authority::Service { .. } => None,
        }
    }

    /// Whether the caller has at least one of these roles.
    pub fn has_any(&self, roles: &[Role]) -> bool {
        match &self.authority {
            Authority::All => true,
            Authority::Service { roles: granted, .. } => granted.iter().any(|role| roles.contains(role)),
            Authority::TenantKey(_) => false,
        }
    }

    /// Returns the tenants that the caller is limited to, `None` if it may access any. This does not replace the check
    /// of its roles.
    pub fn tenant_limit(&self) -> Option<TenantLimit> {
        match &self.authority {
            Authority::All => None,
            Authority::Service { tenants, .. } => tenants.clone(),
            Authority::TenantKey(key) => Some(TenantLimit::one(key.tenant_id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    #[test]
    fn the_error_of_an_unknown_role_lists_every_role() {
        let expected = "king".parse::<Role>().unwrap_err();
        for role in Role::VARIANTS {
            let name = role.to_string();
            assert_eq!(name.parse(), Ok(*role));
            assert!(expected.split([' ', ',']).any(|word| word == name), "{name}");
        }
    }
}
