//! Credentials of services: a token (`svc_<name>_<random>`; only its SHA-256 is stored) or a certificate.
//!
//! The file that lists them is read in `config`; tokens are created in `secrets`.

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    base62::U256_DIGITS,
    caller::{Caller, Role},
    validation::{InvalidValue, Reason},
};

pub const TOKEN_PREFIX: &str = "svc_";

/// The name of a service, as it appears in its tokens and in spans: 1–63 characters of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName(String);

impl ServiceName {
    /// # Errors
    /// `BAD_FORMAT`.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let is_well_formed =
            (1..=63).contains(&text.len()) && text.bytes().all(|ch| matches!(ch, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if is_well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue::new(Reason::BadFormat, "must have 1 to 63 characters of a-z, 0-9 and -"))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A token in force. A fast hash is enough: 256 random bits cannot be guessed at any cost per guess.
#[derive(Debug, Clone)]
pub struct ServiceToken {
    pub name: ServiceName,
    pub roles: Vec<Role>,
    pub sha256: [u8; 32],
}

/// A client certificate in force, identified by one of its subject alternative names.
#[derive(Debug, Clone)]
pub struct ServiceCertificate {
    /// A DNS name in lower case, or a URI.
    pub san: String,
    pub name: ServiceName,
    pub roles: Vec<Role>,
}

/// All tokens and certificates in force.
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
    pub fn by_certificate(&self, sans: &[String]) -> Option<Caller> {
        let certificate = self.certificates.iter().find(|certificate| sans.contains(&certificate.san))?;
        Some(Caller::service(certificate.name.as_str(), &certificate.roles))
    }

    /// Returns the service that has this token. Names are not secret; hashes are compared in constant time.
    pub fn by_token(&self, token: &SecretString) -> Option<Caller> {
        let (name, random) = token.expose_secret().strip_prefix(TOKEN_PREFIX)?.rsplit_once('_')?;
        if random.len() != U256_DIGITS {
            return None;
        }
        let sha256 = hash_token(token);
        let mut with_name = self.tokens.iter().filter(|token| token.name.as_str() == name);
        let token = with_name.find(|token| bool::from(token.sha256.ct_eq(&sha256)))?;
        Some(Caller::service(name, &token.roles))
    }
}

pub fn hash_token(token: &SecretString) -> [u8; 32] {
    Sha256::digest(token.expose_secret().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, digit: &str) -> SecretString {
        SecretString::from(format!("svc_{name}_{}", digit.repeat(U256_DIGITS)))
    }

    fn stored(name: &str, digit: &str, roles: &[Role]) -> ServiceToken {
        let sha256 = hash_token(&token(name, digit));
        ServiceToken { name: ServiceName::parse(name).unwrap(), roles: roles.to_vec(), sha256 }
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
        assert_eq!(credentials.by_token(&token("booking", "a")), Some(Caller::service("booking", &[Role::Catalog])));
        assert!(credentials.by_token(&token("booking", "b")).is_some());
        assert!(credentials.by_token(&token("admin-ui", "c")).unwrap().has_any(&[Role::Provisioner]));
        for wrong in [token("booking", "c"), token("admin-ui", "a"), token("unknown", "a"), token("", "a")] {
            assert_eq!(credentials.by_token(&wrong), None);
        }
        for malformed in ["", "svc_", "svc_booking", "booking_a", "svc_booking_a", "sk_live_bella_x_y"] {
            assert_eq!(credentials.by_token(&SecretString::from(malformed)), None, "{malformed}");
        }
        assert_eq!(ServiceCredentials::default().by_token(&token("booking", "a")), None, "no service may call");
    }

    #[test]
    fn a_service_name_has_lower_case_letters_digits_and_hyphens_only() {
        for (text, is_valid) in [("booking", true), ("b2-x", true), ("", false), ("a_b", false), ("Booking", false)] {
            assert_eq!(ServiceName::parse(text).is_ok(), is_valid, "{text}");
        }
    }
}
