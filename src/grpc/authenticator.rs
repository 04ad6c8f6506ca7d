//! Authentication: who the caller is, by a token, a client certificate or a tenant's key. `auth.rs` says what it may
//! call.

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tonic::transport::CertificateDer;

use super::{
    CallTasks,
    auth::{is_public, is_reflection, permitted_scopes},
    connection::{Connection, PeerAddress},
    verification_slots::VerificationSlots,
};
use crate::{
    domain::{
        Caller, KeyStatus, KeyVerdict, PublicKey,
        caller::PresentedKey,
        key_format::SECRET_PREFIX,
        service_credentials::{San, ServiceCredentials},
    },
    error::{Error, Result},
    service::{Clock, TenantService},
};

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

/// Returns the bearer token, or `None` without an `authorization` header.
///
/// # Errors
/// [`Error::Unauthenticated`] for a header of another scheme or format, and for more than one header: the choice would
/// be ambiguous.
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
    use super::*;

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
