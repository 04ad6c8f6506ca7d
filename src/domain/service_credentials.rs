//! Services that are known: by a token, `svc_<name>_<random>`, of which only the SHA-256 is kept, or by a certificate.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    caller::{Caller, Role},
    validation::{InvalidValue, Reason},
};

/// Base62 digits of 256 random bits.
pub const RANDOM_LENGTH: usize = 43;

/// A service's name, as it stands in its token and in spans: 1–63 of `a-z`, `0-9` and `-`.
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

/// What is known of a token. A plain hash will do: 256 random bits cannot be guessed, whatever a guess costs.
#[derive(Debug, Clone)]
pub struct ServiceToken {
    pub name: ServiceName,
    pub roles: Vec<Role>,
    pub sha256: [u8; 32],
}

/// Whoever has a certificate with this name (a DNS name, in lower case, or a URI among its subject alternative names).
#[derive(Debug, Clone)]
pub struct ServiceCertificate {
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

    /// Whose certificate this is that has these names.
    pub fn by_certificate(&self, sans: &[String]) -> Option<Caller> {
        let known = self.certificates.iter().find(|known| sans.contains(&known.san))?;
        Some(Caller::service(known.name.as_str(), &known.roles))
    }

    /// Whose token this is. Names are no secret; what comes behind them is compared in constant time.
    pub fn by_token(&self, token: &SecretString) -> Option<Caller> {
        let (name, random) = token.expose_secret().strip_prefix("svc_")?.rsplit_once('_')?;
        if random.len() != RANDOM_LENGTH {
            return None;
        }
        let hash = hash_token(token);
        let mut of_that_name = self.tokens.iter().filter(|known| known.name.as_str() == name);
        let found = of_that_name.find(|known| bool::from(known.sha256.ct_eq(&hash)))?;
        Some(Caller::service(name, &found.roles))
    }
}

pub fn hash_token(token: &SecretString) -> [u8; 32] {
    Sha256::digest(token.expose_secret().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, digit: &str) -> SecretString {
        SecretString::from(format!("svc_{name}_{}", digit.repeat(RANDOM_LENGTH)))
    }

    fn known(name: &str, digit: &str, roles: &[Role]) -> ServiceToken {
        let sha256 = hash_token(&token(name, digit));
        ServiceToken { name: ServiceName::parse(name).unwrap(), roles: roles.to_vec(), sha256 }
    }

    #[test]
    fn a_token_is_known_by_its_hash_and_a_name_may_have_two() {
        let tokens = ServiceCredentials::new(
            vec![
                known("booking", "a", &[Role::Catalog]),
                known("booking", "b", &[Role::Catalog]),
                known("admin-ui", "c", &[Role::Provisioner]),
            ],
            Vec::new(),
        );
        assert_eq!(tokens.by_token(&token("booking", "a")), Some(Caller::service("booking", &[Role::Catalog])));
        assert!(tokens.by_token(&token("booking", "b")).is_some());
        assert!(tokens.by_token(&token("admin-ui", "c")).unwrap().has_any(&[Role::Provisioner]));
        for wrong in [token("booking", "c"), token("admin-ui", "a"), token("nobody", "a"), token("", "a")] {
            assert_eq!(tokens.by_token(&wrong), None);
        }
        for malformed in ["", "svc_", "svc_booking", "booking_a", "svc_booking_a", "sk_live_bella_x_y"] {
            assert_eq!(tokens.by_token(&SecretString::from(malformed)), None, "{malformed}");
        }
        assert_eq!(ServiceCredentials::default().by_token(&token("booking", "a")), None, "nobody may call");
    }

    #[test]
    fn names_are_plain() {
        for (text, is_fine) in [("booking", true), ("b2-x", true), ("", false), ("a_b", false), ("Booking", false)] {
            assert_eq!(ServiceName::parse(text).is_ok(), is_fine, "{text}");
        }
    }
}
