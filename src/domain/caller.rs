//! Who calls, and what they may.

use std::str::FromStr;

use super::ids::TenantId;

/// A part that a service token can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All of `TenantProvisioning`.
    Provisioner,
    /// `VerifyApiKey` and `VerifyPassword`.
    Verifier,
    /// All of `PackageCatalog`, for any tenant.
    Catalog,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioner => "provisioner",
            Self::Verifier => "verifier",
            Self::Catalog => "catalog",
        }
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Provisioner, Self::Verifier, Self::Catalog]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or("must be provisioner, verifier or catalog")
    }
}

/// Somebody who is known. What one caller claims by a request id is nobody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    name: String,
    authority: Authority,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Authority {
    All,
    Roles(Vec<Role>),
    /// A tenant with a key of its own.
    Tenant(TenantId),
}

impl Caller {
    pub const ANONYMOUS: &str = "anonymous";

    /// Everyone, where callers need no credential.
    pub fn anonymous() -> Self {
        Self { name: Self::ANONYMOUS.to_owned(), authority: Authority::All }
    }

    /// An import that works on the database itself.
    pub fn import() -> Self {
        Self { name: "import".to_owned(), authority: Authority::All }
    }

    pub fn service(name: &str, roles: &[Role]) -> Self {
        Self { name: name.to_owned(), authority: Authority::Roles(roles.to_vec()) }
    }

    pub fn tenant(tenant_id: TenantId) -> Self {
        Self { name: format!("tenant {tenant_id}"), authority: Authority::Tenant(tenant_id) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether one of these roles is theirs.
    pub fn has_any(&self, roles: &[Role]) -> bool {
        match &self.authority {
            Authority::All => true,
            Authority::Roles(own) => own.iter().any(|role| roles.contains(role)),
            Authority::Tenant(_) => false,
        }
    }

    /// Whether this tenant's catalog is open to them; that they may call at all is another matter.
    pub fn can_access_tenant(&self, tenant_id: TenantId) -> bool {
        match self.authority {
            Authority::Tenant(own) => own == tenant_id,
            Authority::All | Authority::Roles(_) => true,
        }
    }
}
