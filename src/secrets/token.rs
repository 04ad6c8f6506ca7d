//! New service tokens.

use rand::TryCryptoRng;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{base62::push_digits, key_format::random_secret};
use crate::domain::token::{RANDOM_LENGTH, TokenName};

/// A token of this name; shown once.
///
/// # Errors
/// Those of the random number generator.
pub fn mint_token<R: TryCryptoRng>(name: &TokenName, rng: &mut R) -> Result<SecretString, R::Error> {
    let mut number = random_secret(rng)?;
    let start = format!("svc_{}_", name.as_str());
    // Room for all of it at once: a string that grew would leave copies of the secret behind.
    let mut token = Zeroizing::new(String::with_capacity(start.len() + RANDOM_LENGTH));
    token.push_str(&start);
    push_digits(&mut token, number.as_mut(), RANDOM_LENGTH);
    Ok(SecretString::from(token.as_str()))
}

#[cfg(test)]
mod tests {
    use rand::rngs::SysRng;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::domain::token::{KnownCallers, KnownToken, hash_token};

    #[test]
    fn a_new_token_is_known_by_its_hash() {
        let name = TokenName::parse("booking").unwrap();
        let token = mint_token(&name, &mut SysRng).unwrap();
        let random = token.expose_secret().strip_prefix("svc_booking_").unwrap();
        assert!(random.len() == 43 && random.bytes().all(|digit| digit.is_ascii_alphanumeric()));
        let known = KnownToken { name, roles: Vec::new(), sha256: hash_token(&token) };
        assert!(KnownCallers::new(vec![known], Vec::new()).by_token(&token).is_some());
        assert!(!format!("{token:?}").contains(random));
    }
}
