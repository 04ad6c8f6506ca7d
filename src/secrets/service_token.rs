//! New service tokens.

use rand::TryCryptoRng;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{base62::push_digits, key_format::random_secret};
use crate::domain::service_credentials::{RANDOM_LENGTH, ServiceName};

/// A token of this name; shown once.
///
/// # Errors
/// Those of the random number generator.
pub fn mint_token<R: TryCryptoRng>(name: &ServiceName, rng: &mut R) -> Result<SecretString, R::Error> {
    let mut number = random_secret(rng)?;
    let prefix = format!("svc_{}_", name.as_str());
    // Room for all of it at once: a string that grew would leave copies of the secret behind.
    let mut token = Zeroizing::new(String::with_capacity(prefix.len() + RANDOM_LENGTH));
    token.push_str(&prefix);
    push_digits(&mut token, number.as_mut(), RANDOM_LENGTH);
    Ok(SecretString::from(token.as_str()))
}

#[cfg(test)]
mod tests {
    use rand::rngs::SysRng;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::domain::service_credentials::{ServiceCredentials, ServiceToken, hash_token};

    #[test]
    fn a_new_token_is_known_by_its_hash() {
        let name = ServiceName::parse("booking").unwrap();
        let token = mint_token(&name, &mut SysRng).unwrap();
        let random = token.expose_secret().strip_prefix("svc_booking_").unwrap();
        assert!(random.len() == 43 && random.bytes().all(|digit| digit.is_ascii_alphanumeric()));
        let known = ServiceToken { name, roles: Vec::new(), sha256: hash_token(&token) };
        assert!(ServiceCredentials::new(vec![known], Vec::new()).by_token(&token).is_some());
        assert!(!format!("{token:?}").contains(random));
    }
}
