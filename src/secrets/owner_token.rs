//! Creates the tokens that owners get by e-mail. Their uses are in [`crate::domain::owner`].

use rand::CryptoRng;
use secrecy::SecretString;

use super::service_token::mint;
use crate::domain::owner::OWNER_TOKEN_PREFIX;

/// Creates a token for an owner: `own_` and 256 random bits in base62.
pub fn mint_owner_token(rng: &mut impl CryptoRng) -> SecretString {
    mint(OWNER_TOKEN_PREFIX, rng)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_token_of_an_owner_has_its_prefix_and_43_random_digits() {
        let mut rng = StdRng::seed_from_u64(7);
        let (token, other) = (mint_owner_token(&mut rng), mint_owner_token(&mut rng));
        let random = token.expose_secret().strip_prefix("own_").unwrap();
        assert!(random.len() == 43 && random.bytes().all(|digit| digit.is_ascii_alphanumeric()));
        assert_ne!(token.expose_secret(), other.expose_secret());
    }
}
