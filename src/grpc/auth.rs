//! Authorization: which caller may call which RPC. Access is denied by default. `authenticator.rs` identifies the
//! caller. Both are applied by `layers::authentication`.

use crate::{
    domain::{
        ApiKeyScope, Caller,
        caller::Role::{
            self, Auditor, Catalog, CatalogReader, KeyManager, OwnerManager, Provisioner, Reader, Verifier,
        },
    },
    error::{Error, Result},
};

/// The only RPC whose stream can last longer than its credential.
pub const WATCH_EVENTS: &str = "/turnkey.v1.TenantProvisioning/WatchEvents";

/// The roles that permit each RPC; a caller needs one of them. [`TENANT_KEY_RPCS`] has what tenant keys permit.
pub const REQUIRED_ROLES: [(&str, &[Role]); 35] = [
    ("/turnkey.v1.TenantProvisioning/CreateFullyProvisioned", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/CreateFromSignup", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/BatchCreateFullyProvisioned", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/GetTenant", &[Provisioner, Reader]),
    ("/turnkey.v1.TenantProvisioning/ListTenants", &[Provisioner, Reader]),
    ("/turnkey.v1.TenantProvisioning/UpdateTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/SuspendTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/ReactivateTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/DeleteTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/UndeleteTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/PurgeTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/CreateApiKey", &[Provisioner, KeyManager]),
    ("/turnkey.v1.TenantProvisioning/RotateApiKey", &[Provisioner, KeyManager]),
    ("/turnkey.v1.TenantProvisioning/ListApiKeys", &[Provisioner, Reader, KeyManager]),
    ("/turnkey.v1.TenantProvisioning/RevokeApiKey", &[Provisioner, KeyManager]),
    ("/turnkey.v1.TenantProvisioning/VerifyApiKey", &[Provisioner, Verifier]),
    ("/turnkey.v1.TenantProvisioning/VerifyPassword", &[Provisioner, Verifier]),
    ("/turnkey.v1.TenantProvisioning/ChangePassword", &[Provisioner, Verifier]),
    ("/turnkey.v1.TenantProvisioning/CreateOwnerToken", &[Provisioner, OwnerManager]),
    ("/turnkey.v1.TenantProvisioning/ResetPassword", &[Provisioner, Verifier]),
    ("/turnkey.v1.TenantProvisioning/VerifyEmail", &[Provisioner, Verifier]),
    ("/turnkey.v1.TenantProvisioning/SetOwner", &[Provisioner, OwnerManager]),
    ("/turnkey.v1.TenantProvisioning/CheckIntegrity", &[Provisioner, Reader]),
    ("/turnkey.v1.TenantProvisioning/RepairTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/ListEvents", &[Provisioner, Auditor]),
    (WATCH_EVENTS, &[Provisioner, Auditor]),
    ("/turnkey.v1.PackageCatalog/UpsertPackage", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/BatchUpsertPackages", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/GetPackage", &[Catalog, CatalogReader, Reader]),
    ("/turnkey.v1.PackageCatalog/ListPackages", &[Catalog, CatalogReader, Reader]),
    ("/turnkey.v1.PackageCatalog/DeletePackage", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/UpsertSegment", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/GetSegment", &[Catalog, CatalogReader, Reader]),
    ("/turnkey.v1.PackageCatalog/ListSegments", &[Catalog, CatalogReader, Reader]),
    ("/turnkey.v1.PackageCatalog/DeleteSegment", &[Catalog]),
];

/// The RPCs that tenant keys permit, each for the key's own tenant only, and the scopes that permit them. No tenant key
/// permits any other RPC.
const TENANT_KEY_RPCS: [(&str, &[ApiKeyScope]); 12] = [
    ("/turnkey.v1.TenantProvisioning/GetTenant", &[ApiKeyScope::Catalog]),
    ("/turnkey.v1.TenantProvisioning/RotateApiKey", &[ApiKeyScope::Catalog]),
    ("/turnkey.v1.TenantProvisioning/ListApiKeys", &[ApiKeyScope::Catalog]),
    ("/turnkey.v1.PackageCatalog/UpsertPackage", &[ApiKeyScope::Catalog]),
    ("/turnkey.v1.PackageCatalog/BatchUpsertPackages", &[ApiKeyScope::Catalog]),
    ("/turnkey.v1.PackageCatalog/GetPackage", &[ApiKeyScope::Catalog, ApiKeyScope::CatalogRead]),
    ("/turnkey.v1.PackageCatalog/ListPackages", &[ApiKeyScope::Catalog, ApiKeyScope::CatalogRead]),
    ("/turnkey.v1.PackageCatalog/DeletePackage", &[ApiKeyScope::Catalog]),
    ("/turnkey.v1.PackageCatalog/UpsertSegment", &[ApiKeyScope::Catalog]),
    ("/turnkey.v1.PackageCatalog/GetSegment", &[ApiKeyScope::Catalog, ApiKeyScope::CatalogRead]),
    ("/turnkey.v1.PackageCatalog/ListSegments", &[ApiKeyScope::Catalog, ApiKeyScope::CatalogRead]),
    ("/turnkey.v1.PackageCatalog/DeleteSegment", &[ApiKeyScope::Catalog]),
];

const HEALTH: &str = "/grpc.health.v1.Health/";
const REFLECTION: [&str; 2] = ["/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// Whether calls need no role and have no rate limit: those of health and reflection, which show nothing about tenants.
pub fn is_public(path: &str) -> bool {
    path.starts_with(HEALTH) || is_reflection(path)
}

pub fn is_reflection(path: &str) -> bool {
    REFLECTION.iter().any(|service| path.starts_with(service))
}

/// Returns the RPC of this path, without its leading slash, if it is in [`REQUIRED_ROLES`].
pub fn rpc_method(path: &str) -> Option<&'static str> {
    required_roles(path).map(|(rpc, _)| &rpc[1..])
}

fn required_roles(path: &str) -> Option<(&'static str, &'static [Role])> {
    REQUIRED_ROLES.into_iter().find(|(rpc, _)| *rpc == path)
}

/// Returns the scopes of tenant keys that permit the RPC of this path.
pub fn permitted_scopes(path: &str) -> &'static [ApiKeyScope] {
    TENANT_KEY_RPCS.into_iter().find(|(rpc, _)| *rpc == path).map_or(&[], |(_, scopes)| scopes)
}

/// Checks whether the caller may call the RPC. That some callers are limited to tenants is checked later, when the
/// request has been decoded, in `tenant_access`.
///
/// # Errors
/// [`Error::PermissionDenied`], [`Error::Unimplemented`].
pub fn authorize(caller: &Caller, path: &str) -> Result<()> {
    if is_public(path) || caller.presented_key().is_some_and(|key| permitted_scopes(path).contains(&key.scope)) {
        return Ok(());
    }
    let (_, roles) = required_roles(path).ok_or(Error::Unimplemented)?;
    if caller.has_any(roles) { Ok(()) } else { Err(Error::PermissionDenied) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;
    use crate::grpc::pb;

    #[test]
    fn required_roles_has_exactly_the_rpcs_of_the_api() {
        let files = prost_types::FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap();
        let own = files.file.iter().filter(|file| file.package() == "turnkey.v1");
        let rpcs: BTreeSet<String> = own
            .flat_map(|file| &file.service)
            .flat_map(|service| service.method.iter().map(move |rpc| (service.name(), rpc.name())))
            .map(|(service, rpc)| format!("/turnkey.v1.{service}/{rpc}"))
            .collect();
        assert_eq!(rpcs, REQUIRED_ROLES.iter().map(|(rpc, _)| (*rpc).to_owned()).collect());
    }

    #[test]
    fn tenant_keys_permit_known_rpcs_and_all_of_the_catalog() {
        for (rpc, _) in TENANT_KEY_RPCS {
            assert!(required_roles(rpc).is_some(), "{rpc}");
        }
        for (rpc, _) in REQUIRED_ROLES.into_iter().filter(|(rpc, _)| rpc.starts_with("/turnkey.v1.PackageCatalog/")) {
            assert!(permitted_scopes(rpc).contains(&ApiKeyScope::Catalog), "{rpc}");
            let is_reading = rpc.contains("/Get") || rpc.contains("/List");
            assert_eq!(permitted_scopes(rpc).contains(&ApiKeyScope::CatalogRead), is_reading, "{rpc}");
        }
    }
}
