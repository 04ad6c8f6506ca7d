//! Who may call what: deny by default.

use std::sync::Arc;

use http::HeaderMap;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use crate::{
    domain::{
        Caller, KeyStatus, KeyVerdict,
        caller::Role::{self, Catalog, Provisioner, Verifier},
        service_credentials::ServiceCredentials,
    },
    error::{Error, Result},
    grpc::{CallTasks, layers::concurrency_limit::CallPermit},
    service::TenantService,
};

/// The RPCs, and the roles of which one is needed. A tenant's own key opens `PackageCatalog` too, for that tenant.
pub const REQUIRED_ROLES: [(&str, &[Role]); 26] = [
    ("/turnkey.v1.TenantProvisioning/CreateFullyProvisioned", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/CreateFromSignup", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/BatchCreateFullyProvisioned", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/GetTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/ListTenants", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/UpdateTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/SuspendTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/ReactivateTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/DeleteTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/UndeleteTenant", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/RotateApiKey", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/ListApiKeys", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/RevokeApiKey", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/VerifyApiKey", &[Provisioner, Verifier]),
    ("/turnkey.v1.TenantProvisioning/VerifyPassword", &[Provisioner, Verifier]),
    ("/turnkey.v1.TenantProvisioning/CheckIntegrity", &[Provisioner]),
    ("/turnkey.v1.TenantProvisioning/RepairTenant", &[Provisioner]),
    ("/turnkey.v1.PackageCatalog/UpsertPackage", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/BatchUpsertPackages", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/GetPackage", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/ListPackages", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/DeletePackage", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/UpsertSegment", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/GetSegment", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/ListSegments", &[Catalog]),
    ("/turnkey.v1.PackageCatalog/DeleteSegment", &[Catalog]),
];

/// Health, which says nothing of anyone, and reflection, which is not served where it should not be.
const PUBLIC_SERVICES: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// Whether anyone may call it, as often as they like.
pub fn is_public(path: &str) -> bool {
    PUBLIC_SERVICES.iter().any(|open| path.starts_with(open))
}

/// The RPC of this path, without its leading slash, if it is one of ours.
pub fn rpc_method(path: &str) -> Option<&'static str> {
    required_roles(path).map(|(rpc, _)| &rpc[1..])
}

fn required_roles(path: &str) -> Option<(&'static str, &'static [Role])> {
    REQUIRED_ROLES.into_iter().find(|(rpc, _)| *rpc == path)
}

/// Knows callers by their credential.
#[derive(Debug, Clone)]
pub struct Authenticator {
    pub known: watch::Receiver<Arc<ServiceCredentials>>,
    pub provisioning: Arc<TenantService>,
    pub calls: CallTasks,
}

impl Authenticator {
    /// Who calls, if they may: told before the request is looked at, and before any SQL, but for the lookup of a tenant's
    /// own key where such a key can open anything.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`], [`Error::PermissionDenied`], [`Error::Unimplemented`]; those of verifying a key.
    pub async fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        sans: &[String],
        permit: Option<CallPermit>,
    ) -> Result<Caller> {
        if is_public(path) {
            return Ok(Caller::anonymous());
        }
        let rule = required_roles(path).map(|(_, roles)| roles);
        let Some(credential) = bearer_token(headers) else {
            // No token; but perhaps a certificate that was verified when hands were shaken.
            let caller = self.known.borrow().by_certificate(sans).ok_or(Error::Unauthenticated)?;
            return authorize(caller, rule);
        };
        if credential.expose_secret().starts_with("sk_") {
            let is_catalog = rule.is_some_and(|roles| roles == [Catalog]);
            return self.tenant(credential, is_catalog, permit).await;
        }
        let caller = self.known.borrow().by_token(&credential).ok_or(Error::Unauthenticated)?;
        authorize(caller, rule)
    }

    async fn tenant(&self, secret_key: SecretString, is_catalog: bool, permit: Option<CallPermit>) -> Result<Caller> {
        if !is_catalog {
            // Whoever's it is, it opens nothing here; whether it is anyone's is not looked up for that.
            let is_key = self.provisioning.has_key_format(&secret_key);
            return Err(if is_key { Error::PermissionDenied } else { Error::Unauthenticated });
        }
        let provisioning = Arc::clone(&self.provisioning);
        let verdict = self.calls.run(permit, async move { provisioning.verify_api_key(secret_key).await });
        match verdict.await? {
            KeyVerdict::Authentic { status: KeyStatus::Valid, tenant_id, .. } => Ok(Caller::tenant(tenant_id)),
            _ => Err(Error::Unauthenticated),
        }
    }
}

fn authorize(caller: Caller, rule: Option<&[Role]>) -> Result<Caller> {
    match rule {
        Some(roles) if caller.has_any(roles) => Ok(caller),
        Some(_) => Err(Error::PermissionDenied),
        None => Err(Error::Unimplemented),
    }
}

/// The one credential that is there. Of two nobody could say which is meant.
fn bearer_token(headers: &HeaderMap) -> Option<SecretString> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let (scheme, credential) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| SecretString::from(credential.trim()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;
    use crate::grpc::pb;

    #[test]
    fn every_rpc_has_a_rule_and_every_rule_an_rpc() {
        let files = prost_types::FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap();
        let ours = files.file.iter().filter(|file| file.package() == "turnkey.v1");
        let rpcs: BTreeSet<String> = ours
            .flat_map(|file| &file.service)
            .flat_map(|service| service.method.iter().map(move |rpc| (service.name(), rpc.name())))
            .map(|(service, rpc)| format!("/turnkey.v1.{service}/{rpc}"))
            .collect();
        assert_eq!(rpcs, REQUIRED_ROLES.iter().map(|(rpc, _)| (*rpc).to_owned()).collect());
    }

    #[test]
    fn a_bearer_is_read_whatever_the_case_of_its_scheme() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value.parse().unwrap())]);
            bearer_token(&headers).map(|credential| credential.expose_secret().to_owned())
        };
        assert_eq!(of("Bearer svc_x").as_deref(), Some("svc_x"));
        assert_eq!(of("bearer  svc_x ").as_deref(), Some("svc_x"));
        for none in ["svc_x", "Basic svc_x", ""] {
            assert_eq!(of(none), None, "{none}");
        }
        assert!(bearer_token(&HeaderMap::new()).is_none());
    }
}
