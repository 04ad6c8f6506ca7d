//! Credentials of services: a token (`svc_<name>_<random>`; only its SHA-256 is stored) or a certificate.
//!
//! The file that lists them is read in `config`; tokens are created in `secrets`.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;

use super::{
    base62::U256_DIGITS,
    caller::{Caller, Role},
    tenant_limit::TenantLimit,
    validation::{InvalidValue, Reason},
};

pub const TOKEN_PREFIX: &str = "svc_";

/// The name of a service, as it appears in its tokens and in spans: 1–63 characters of `a-z`, `0-9` and `-`, and not
/// one of [`Caller::RESERVED_NAMES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName(String);

impl ServiceName {
    /// # Errors
    /// `BAD_FORMAT`, `RESERVED`.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let is_well_formed =
            (1..=63).contains(&text.len()) && text.bytes().all(|ch| matches!(ch, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !is_well_formed {
            return Err(InvalidValue::new(Reason::BadFormat, "must have 1 to 63 characters of a-z, 0-9 and -"));
        }
        if Caller::RESERVED_NAMES.contains(&text) {
            return Err(InvalidValue::new(
                Reason::Reserved,
                "must not be anonymous, import or cli: these are reserved",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a credential permits, and to which service.
#[derive(Debug, Clone)]
pub struct ServiceGrant {
    pub name: ServiceName,
    pub roles: Vec<Role>,
    /// `None` for any tenant.
    pub tenants: Option<TenantLimit>,
    /// The time from which the credential is not valid any more; `None` if it does not expire.
    pub expires: Option<OffsetDateTime>,
}

impl ServiceGrant {
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    fn caller(&self) -> Caller {
        Caller::service(self.name.as_str(), &self.roles, self.tenants.clone())
    }
}

/// The token of a service. A fast hash is enough: 256 random bits cannot be guessed at any cost per guess.
#[derive(Debug, Clone)]
pub struct ServiceToken {
    pub grant: ServiceGrant,
    pub sha256: [u8; 32],
}

/// A subject alternative name of a certificate. Names of different kinds are never equal, whatever their text: a CA
/// that lets a client choose its DNS names does not thereby let it choose a URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    /// In lower case; [`San::dns`] creates it.
    Dns(String),
    Uri(String),
}

impl San {
    /// DNS names are compared without regard to case (RFC 4343).
    pub fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }

    /// Parses `DNS:<name>` and `URI:<uri>`, the form that openssl prints, and a bare DNS name.
    ///
    /// # Errors
    /// `MISSING_FIELD`, `BAD_FORMAT`.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        const EXPECTED: &str = "must be a DNS name, with or without the prefix DNS:, or a URI with the prefix URI:, such \
                                as URI:spiffe://platform/booking";
        let bad_format = || InvalidValue::new(Reason::BadFormat, EXPECTED);
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        if text.contains(char::is_whitespace) {
            return Err(bad_format());
        }
        match text.split_once(':') {
            None => Ok(Self::dns(text)),
            Some(("DNS", name)) if !name.is_empty() && !name.contains(':') => Ok(Self::dns(name)),
            // Every URI has a scheme.
            Some(("URI", uri)) if uri.contains(':') => Ok(Self::Uri(uri.to_owned())),
            Some(_) => Err(bad_format()),
        }
    }
}

/// The client certificate of a service, identified by one of its subject alternative names.
#[derive(Debug, Clone)]
pub struct ServiceCertificate {
    pub san: San,
    pub grant: ServiceGrant,
}

/// All tokens and certificates of services, expired ones included.
#[derive(Debug, Clone, Default)]
pub struct ServiceCredentials {
    tokens: Vec<ServiceToken>,
    certificates: Vec<ServiceCertificate>,
}

impl ServiceCredentials {
    pub const fn new(tokens: Vec<ServiceToken>, certificates: Vec<ServiceCertificate>) -> Self {
        Self { tokens, certificates }
    }

    /// Returns the service whose certificate has one of these subject alternative names.
    pub fn by_certificate(&self, sans: &[San], now: OffsetDateTime) -> Option<Caller> {
        let mut in_force = self.certificates.iter().filter(|certificate| !certificate.grant.is_expired(now));
        let certificate = in_force.find(|certificate| sans.contains(&certificate.san))?;
        Some(certificate.grant.caller())
    }

    /// Returns the service that has this token. Names are not secret; hashes are compared in constant time.
    pub fn by_token(&self, token: &SecretString, now: OffsetDateTime) -> Option<Caller> {
        let (name, random) = token.expose_secret().strip_prefix(TOKEN_PREFIX)?.rsplit_once('_')?;
        if random.len() != U256_DIGITS {
            return None;
        }
        let sha256 = hash_token(token);
        let mut in_force =
            self.tokens.iter().filter(|token| token.grant.name.as_str() == name && !token.grant.is_expired(now));
        let token = in_force.find(|token| bool::from(token.sha256.ct_eq(&sha256)))?;
        Some(token.grant.caller())
    }

    /// Returns the names of the services that have an expired token or certificate.
    pub fn expired(&self, now: OffsetDateTime) -> BTreeSet<&str> {
        let grants = self.tokens.iter().map(|token| &token.grant);
        let grants = grants.chain(self.certificates.iter().map(|certificate| &certificate.grant));
        grants.filter(|grant| grant.is_expired(now)).map(|grant| grant.name.as_str()).collect()
    }
}

pub fn hash_token(token: &SecretString) -> [u8; 32] {
    Sha256::digest(token.expose_secret().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    fn token(name: &str, digit: &str) -> SecretString {
        SecretString::from(format!("svc_{name}_{}", digit.repeat(U256_DIGITS)))
    }

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn grant(name: &str, roles: &[Role]) -> ServiceGrant {
        ServiceGrant { name: ServiceName::parse(name).unwrap(), roles: roles.to_vec(), tenants: None, expires: None }
    }

    fn stored(name: &str, digit: &str, roles: &[Role]) -> ServiceToken {
        ServiceToken { grant: grant(name, roles), sha256: hash_token(&token(name, digit)) }
    }

    #[test]
    fn a_service_token_is_recognized_by_its_hash_and_a_service_can_have_two() {
        let credentials = ServiceCredentials::new(
            vec![
                stored("booking", "a", &[Role::Catalog]),
                stored("booking", "b", &[Role::Catalog]),
                stored("admin-ui", "c", &[Role::Provisioner]),
            ],
            Vec::new(),
        );
        let booking = Caller::service("booking", &[Role::Catalog], None);
        assert_eq!(credentials.by_token(&token("booking", "a"), NOW), Some(booking));
        assert!(credentials.by_token(&token("booking", "b"), NOW).is_some());
        assert!(credentials.by_token(&token("admin-ui", "c"), NOW).unwrap().has_any(&[Role::Provisioner]));
        for wrong in [token("booking", "c"), token("admin-ui", "a"), token("unknown", "a"), token("", "a")] {
            assert_eq!(credentials.by_token(&wrong, NOW), None);
        }
        for malformed in ["", "svc_", "svc_booking", "booking_a", "svc_booking_a", "sk_live_bella_x_y"] {
            assert_eq!(credentials.by_token(&SecretString::from(malformed), NOW), None, "{malformed}");
        }
        assert_eq!(ServiceCredentials::default().by_token(&token("booking", "a"), NOW), None, "no service may call");
    }

    #[test]
    fn a_san_is_a_dns_name_or_a_uri_and_neither_matches_the_other() {
        let uri = |text: &str| San::Uri(text.to_owned());
        for (text, expected) in [
            ("booking.internal", San::dns("booking.internal")),
            ("DNS:Booking.Internal", San::dns("booking.internal")),
            ("URI:spiffe://platform/Booking", uri("spiffe://platform/Booking")),
            ("URI:DNS:booking.internal", uri("DNS:booking.internal")),
        ] {
            assert_eq!(San::parse(text), Ok(expected), "{text}");
        }
        for invalid in [
            "spiffe://platform/booking",
            "dns:booking.internal",
            "IP:10.0.0.1",
            "DNS:",
            "URI:",
            "URI:booking.internal",
            "DNS:URI:spiffe://platform/booking",
            "booking internal",
        ] {
            assert!(San::parse(invalid).unwrap_err().description.contains("prefix URI:"), "{invalid}");
        }
        assert_eq!(San::parse("").unwrap_err().reason, Reason::MissingField);

        let certificate = |san| ServiceCertificate { san, grant: grant("booking", &[Role::Catalog]) };
        let text = "spiffe://platform/booking";
        let credentials = ServiceCredentials::new(Vec::new(), vec![certificate(uri(text))]);
        assert!(credentials.by_certificate(&[San::dns("other"), uri(text)], NOW).is_some());
        assert_eq!(credentials.by_certificate(&[San::dns(text)], NOW), None);
        assert_eq!(credentials.by_certificate(&[], NOW), None);
    }

    #[test]
    fn a_credential_is_valid_until_it_expires_and_does_not_hide_another_one() {
        let until = |seconds, mut grant: ServiceGrant| {
            grant.expires = Some(NOW + Duration::seconds(seconds));
            grant
        };
        let san = San::dns("booking.internal");
        let sha256 = hash_token(&token("booking", "a"));
        let tokens = [1, 2].map(|seconds| ServiceToken { grant: until(seconds, grant("booking", &[])), sha256 });
        let certificates = [1, 3]
            .map(|seconds| ServiceCertificate { san: san.clone(), grant: until(seconds, grant("admin-ui", &[])) });
        let credentials = ServiceCredentials::new(tokens.to_vec(), certificates.to_vec());
        for (seconds, is_token_valid, is_certificate_valid, expired) in [
            (0, true, true, &[][..]),
            (1, true, true, &["admin-ui", "booking"]),
            (2, false, true, &["admin-ui", "booking"]),
            (3, false, false, &["admin-ui", "booking"]),
        ] {
            let now = NOW + Duration::seconds(seconds);
            assert_eq!(credentials.by_token(&token("booking", "a"), now).is_some(), is_token_valid, "{seconds}");
            let by_certificate = credentials.by_certificate(std::slice::from_ref(&san), now);
            assert_eq!(by_certificate.is_some(), is_certificate_valid, "{seconds}");
            assert!(credentials.expired(now).iter().eq(expired), "{seconds}");
        }
    }

    #[test]
    fn a_service_cannot_have_the_name_of_another_kind_of_caller() {
        let import = Caller::import();
        for name in [Caller::ANONYMOUS, import.name(), "cli"] {
            assert_eq!(ServiceName::parse(name).unwrap_err().reason, Reason::Reserved, "{name}");
        }
        for name in ["tenant:0197", ":", "cli:", "tenant 0197"] {
            assert_eq!(ServiceName::parse(name).unwrap_err().reason, Reason::BadFormat, "{name}");
        }
        assert!(ServiceName::parse("importer").is_ok());
    }

    #[test]
    fn a_service_name_has_lower_case_letters_digits_and_hyphens_only() {
        for (text, is_valid) in [("booking", true), ("b2-x", true), ("", false), ("a_b", false), ("Booking", false)] {
            assert_eq!(ServiceName::parse(text).is_ok(), is_valid, "{text}");
        }
    }
}
