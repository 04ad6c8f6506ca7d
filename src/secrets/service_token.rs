//! Creates service tokens in the format of [`crate::domain::service_credentials`].

use rand::CryptoRng;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::key_minting::random_secret;
use crate::domain::{
    base62::{U256_DIGITS, push_digits},
    service_credentials::{ServiceName, TOKEN_PREFIX},
};

/// Creates a token for this service.
pub fn mint_token(name: &ServiceName, rng: &mut impl CryptoRng) -> SecretString {
    mint(&format!("{TOKEN_PREFIX}{}_", name.as_str()), rng)
}

/// Returns the prefix and 256 random bits in base62.
pub(super) fn mint(prefix: &str, rng: &mut impl CryptoRng) -> SecretString {
    let mut secret = random_secret(rng);
    // Allocates the full length: growing the string would leave copies of the secret in memory.
    let mut token = Zeroizing::new(String::with_capacity(prefix.len() + U256_DIGITS));
    token.push_str(prefix);
    push_digits(&mut token, secret.as_mut(), U256_DIGITS);
    SecretString::from(token.as_str())
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use secrecy::ExposeSecret;

    use super::*;
    use crate::domain::service_credentials::{ServiceCredentials, ServiceGrant, ServiceToken, hash_token};

    #[test]
    fn a_new_token_is_recognized_by_its_hash() {
        let name = ServiceName::parse("booking").unwrap();
        let token = mint_token(&name, &mut StdRng::seed_from_u64(7));
        let random = token.expose_secret().strip_prefix("svc_booking_").unwrap();
        assert!(random.len() == 43 && random.bytes().all(|digit| digit.is_ascii_alphanumeric()));
        let grant = ServiceGrant { name, roles: Vec::new(), tenants: None, expires: None };
        let stored = ServiceToken { grant, sha256: hash_token(&token) };
        let now = time::OffsetDateTime::UNIX_EPOCH;
        assert!(ServiceCredentials::new(vec![stored], Vec::new()).by_token(&token, now).is_some());
        assert!(!format!("{token:?}").contains(random));
    }
}
