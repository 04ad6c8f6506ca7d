//! Authentication and authorization: which caller may call which RPC. Access is denied by default. Applied by
//! `layers::authentication`.

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tonic::transport::CertificateDer;

use crate::{
    domain::{
        ApiKeyScope, Caller, KeyStatus, KeyVerdict, PublicKey,
        caller::{
            PresentedKey,
            Role::{self, Auditor, Catalog, CatalogReader, KeyManager, OwnerManager, Provisioner, Reader, Verifier},
        },
        key_format::SECRET_PREFIX,
        service_credentials::{San, ServiceCredentials},
    },
    error::{Error, Result},
    grpc::{
        CallTasks,
        connection::{Connection, PeerAddress},
        verification_slots::VerificationSlots,
    },
    service::{Clock, TenantService},
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

fn is_reflection(path: &str) -> bool {
    REFLECTION.iter().any(|service| path.starts_with(service))
}

/// Returns the RPC of this path, without its leading slash, if it is in [`REQUIRED_ROLES`].
pub fn rpc_method(path: &str) -> Option<&'static str> {
    required_roles(path).map(|(rpc, _)| &rpc[1..])
}

fn required_roles(path: &str) -> Option<(&'static str, &'static [Role])> {
    REQUIRED_ROLES.into_iter().find(|(rpc, _)| *rpc == path)
}

/// Identifies callers by their credentials.
#[derive(Debug, Clone)]
pub struct Authenticator {
    credentials: watch::Receiver<Arc<ServiceCredentials>>,
    service: Arc<TenantService>,
    tasks: CallTasks,
    slots: VerificationSlots,
    /// Determines which credentials of services have expired.
    clock: Clock,
    is_reflection_open: bool,
}

impl Authenticator {
    pub fn new(
        credentials: watch::Receiver<Arc<ServiceCredentials>>,
        service: Arc<TenantService>,
        tasks: CallTasks,
        clock: Clock,
    ) -> Self {
        Self { credentials, service, tasks, slots: VerificationSlots::new(), clock, is_reflection_open: false }
    }

    /// Lets callers without a credential use reflection.
    #[must_use]
    pub fn with_open_reflection(self, is_open: bool) -> Self {
        Self { is_reflection_open: is_open, ..self }
    }

    /// Identifies the caller. Queries the database only for a tenant key, and only if the RPC permits tenant keys. The
    /// client's certificate counts only without an `authorization` header: a header that is present decides, whether or
    /// not it can be used.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]; [`Error::PermissionDenied`] for a tenant key if no tenant key may call the RPC;
    /// [`Error::Overloaded`] if too many tenant keys are being verified.
    pub async fn authenticate(&self, path: &str, headers: &HeaderMap, connection: &Connection) -> Result<Caller> {
        let is_reflection = is_reflection(path);
        if is_public(path) && (!is_reflection || self.is_reflection_open) {
            return Ok(Caller::anonymous());
        }
        let permits_tenants = is_reflection || !permitted_scopes(path).is_empty();
        self.identify(permits_tenants, headers, connection).await
    }

    /// Identifies the tenant whose own key the caller presents.
    ///
    /// # Errors
    /// Those of [`Self::authenticate`]; [`Error::PermissionDenied`] for every other valid credential.
    pub async fn authenticate_tenant(&self, headers: &HeaderMap, connection: &Connection) -> Result<Caller> {
        let caller = self.identify(true, headers, connection).await?;
        if caller.presented_key().is_some() { Ok(caller) } else { Err(Error::PermissionDenied) }
    }

    async fn identify(&self, permits_tenants: bool, headers: &HeaderMap, connection: &Connection) -> Result<Caller> {
        let caller = match bearer_token(headers)? {
            None => self.credentials.borrow().by_certificate(&connection.sans, self.clock.now()),
            Some(secret_key) if secret_key.expose_secret().starts_with(SECRET_PREFIX) => {
                return self.authenticate_tenant_key(secret_key, permits_tenants, connection.peer).await;
            }
            Some(token) => self.credentials.borrow().by_token(&token, self.clock.now()),
        };
        caller.ok_or(Error::Unauthenticated)
    }

    /// Whether the credential in these headers, or of this connection, is still that of the same service with the same
    /// roles and tenants.
    fn is_in_force(&self, caller: &Caller, headers: &HeaderMap, connection: &Connection) -> bool {
        let current = match bearer_token(headers) {
            Ok(None) => self.credentials.borrow().by_certificate(&connection.sans, self.clock.now()),
            Ok(Some(token)) => self.credentials.borrow().by_token(&token, self.clock.now()),
            Err(_) => None,
        };
        current.as_ref() == Some(caller)
    }

    async fn authenticate_tenant_key(
        &self,
        secret_key: SecretString,
        permits_tenants: bool,
        peer: PeerAddress,
    ) -> Result<Caller> {
        if !self.service.has_key_format(&secret_key) {
            return Err(Error::Unauthenticated);
        }
        if !permits_tenants {
            // Tenant keys never grant access to this RPC, so do not look the key up.
            return Err(Error::PermissionDenied);
        }
        let slot = self.slots.acquire(&secret_key, peer).await?;
        let service = Arc::clone(&self.service);
        let verification = async move {
            let verdict = service.verify_api_key(secret_key).await?;
            let valid = match verdict {
                KeyVerdict::Authentic { status: KeyStatus::Valid, tenant_id, public_key, scope, .. } => {
                    let public_key =
                        PublicKey::parse(&public_key).map_err(|invalid| Error::internal(invalid.description))?;
                    Some(PresentedKey { tenant_id, public_key, scope })
                }
                _ => None,
            };
            slot.record(valid.as_ref().map(|key| key.tenant_id));
            Ok(valid)
        };
        self.tasks.run(None, verification).await?.map(Caller::tenant_key).ok_or(Error::Unauthenticated)
    }
}

/// The credential of a call whose stream must not last longer.
#[derive(Debug, Clone)]
pub struct HeldCredential {
    authenticator: Authenticator,
    caller: Caller,
    headers: HeaderMap,
    connection: Arc<Connection>,
}

impl HeldCredential {
    pub fn new(authenticator: Authenticator, caller: Caller, headers: &HeaderMap, connection: Arc<Connection>) -> Self {
        let values = headers.get_all(AUTHORIZATION).iter().map(|value| (AUTHORIZATION, value.clone()));
        Self { authenticator, caller, headers: values.collect(), connection }
    }

    pub fn is_in_force(&self) -> bool {
        self.authenticator.is_in_force(&self.caller, &self.headers, &self.connection)
    }
}

/// Returns the scopes of tenant keys that permit the RPC of this path.
fn permitted_scopes(path: &str) -> &'static [ApiKeyScope] {
    TENANT_KEY_RPCS.into_iter().find(|(rpc, _)| *rpc == path).map_or(&[], |(_, scopes)| scopes)
}

/// Checks whether the caller may call the RPC. That some callers are limited to tenants is checked later, when the request
/// has been decoded, in `tenant_access`.
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

/// Returns the bearer token, or `None` without an `authorization` header.
///
/// # Errors
/// [`Error::Unauthenticated`] for a header of another scheme or format, and for more than one header: the choice would be
/// ambiguous.
fn bearer_token(headers: &HeaderMap) -> Result<Option<SecretString>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let credential = value.to_str().ok().and_then(|text| text.split_once(' ')).filter(|_| values.next().is_none());
    match credential {
        Some((scheme, credential)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(Some(SecretString::from(credential.trim())))
        }
        _ => Err(Error::Unauthenticated),
    }
}

/// Returns the names in a client's verified certificate.
pub fn certificate_sans(certificate: &CertificateDer<'_>) -> Vec<San> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let dns_names = certificate.valid_dns_names().map(San::dns);
    dns_names.chain(certificate.valid_uri_names().map(|uri| San::Uri(uri.to_owned()))).collect()
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

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme_and_other_credentials_are_refused() {
        let token = |values: &[&str]| {
            let headers: HeaderMap = values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect();
            bearer_token(&headers).map(|token| token.map(|token| token.expose_secret().to_owned()))
        };
        assert_eq!(token(&["Bearer svc_x"]).unwrap().as_deref(), Some("svc_x"));
        assert_eq!(token(&["bearer  svc_x "]).unwrap().as_deref(), Some("svc_x"));
        assert_eq!(token(&[]).unwrap(), None);
        for invalid in [&["svc_x"][..], &["Basic svc_x"], &[""], &["Bearer"], &["Bearer svc_x", "Bearer svc_x"]] {
            assert!(matches!(token(invalid), Err(Error::Unauthenticated)), "{invalid:?}");
        }
        let not_text = http::HeaderValue::from_bytes(b"Bearer \xff").unwrap();
        assert!(bearer_token(&HeaderMap::from_iter([(AUTHORIZATION, not_text)])).is_err());
    }

    #[test]
    fn the_names_of_a_certificate_keep_their_kinds() {
        let mut params = rcgen::CertificateParams::default();
        let text = "spiffe://platform/booking";
        params.subject_alt_names = vec![
            rcgen::SanType::URI(text.try_into().unwrap()),
            rcgen::SanType::DnsName("Booking.Internal".try_into().unwrap()),
            rcgen::SanType::Rfc822Name("booking@internal".try_into().unwrap()),
        ];
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let expected = [San::dns("booking.internal"), San::Uri(text.to_owned())];
        assert_eq!(certificate_sans(certificate.der()), expected);
        assert_eq!(certificate_sans(&CertificateDer::from(vec![0x30, 0x00])), []);
    }
}
