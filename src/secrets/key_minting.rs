//! Creates API keys in the format of [`crate::domain::key_format`], and assembles a secret key again for a replay.
//!
//! The random generator is a parameter.

use rand::CryptoRng;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::domain::{
    KeyMode,
    base62::{U256_DIGITS, push_digits},
    key_format::{KEY_ID_LENGTH, PUBLIC_PREFIX, RANDOM_PART_LENGTH, SECRET_PREFIX, STEM_MAX_LENGTH, checksum},
};

/// A new key pair. The secret half exists only here and in the response.
#[derive(Debug)]
pub struct MintedKey {
    /// 16 base62 digits, unique: the key's identity in the database.
    pub key_id: String,
    pub public_key: String,
    pub secret_key: SecretString,
    /// `<random>`, the part after the last `_`: the text that is hashed and stored.
    pub random_part: SecretString,
}

/// The 256 bits that make a key secret.
pub type KeyEntropy = Zeroizing<[u8; 32]>;

pub fn random_secret(rng: &mut impl CryptoRng) -> KeyEntropy {
    let mut secret = Zeroizing::new([0_u8; 32]);
    rng.fill_bytes(secret.as_mut());
    secret
}

/// Creates a key pair with this secret for the tenant with this slug.
pub fn mint_key(mode: KeyMode, slug: &str, secret: KeyEntropy, rng: &mut impl CryptoRng) -> MintedKey {
    let mut key_number = [0_u8; 16];
    rng.fill_bytes(&mut key_number);
    let mut key_id = String::with_capacity(KEY_ID_LENGTH);
    push_digits(&mut key_id, &mut key_number, KEY_ID_LENGTH);
    let public_key = format!("{PUBLIC_PREFIX}{mode}_{}_{key_id}", stem(slug));
    let secret_key = assemble_secret_key(&public_key, secret);
    let random_part = secret_key.expose_secret().rsplit('_').next().unwrap_or_default();
    MintedKey { key_id, random_part: SecretString::from(random_part), public_key, secret_key }
}

/// Returns the secret half of a key from its public half and its secret.
pub fn assemble_secret_key(public_key: &str, mut secret: KeyEntropy) -> SecretString {
    // Allocates the full length: growing the string would leave copies of the secret in memory.
    let mut key = Zeroizing::new(String::with_capacity(public_key.len() + 1 + RANDOM_PART_LENGTH));
    key.push_str(SECRET_PREFIX);
    key.push_str(public_key.strip_prefix(PUBLIC_PREFIX).unwrap_or(public_key));
    key.push('_');
    push_digits(&mut key, secret.as_mut(), U256_DIGITS);
    let checksum = checksum(&key);
    key.push_str(&checksum);
    SecretString::from(key.as_str())
}

/// Returns the slug up to its first `-`, at most 16 characters.
fn stem(slug: &str) -> &str {
    let first_word = slug.split('-').next().unwrap_or(slug);
    &first_word[..first_word.len().min(STEM_MAX_LENGTH)]
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::domain::key_format::ParsedSecretKey;

    fn minted(slug: &str) -> MintedKey {
        let mut rng = StdRng::seed_from_u64(7);
        let secret = random_secret(&mut rng);
        mint_key(KeyMode::Live, slug, secret, &mut rng)
    }

    #[test]
    fn both_halves_of_a_new_key_have_the_documented_format() {
        let key = minted("bella-weddings");
        let secret = key.secret_key.expose_secret();
        let parts: Vec<&str> = secret.split('_').collect();
        let [sk, live, stem, key_id, random] = parts[..] else { panic!("{secret}") };
        assert_eq!((sk, live, stem, key_id), ("sk", "live", "bella", key.key_id.as_str()));
        assert_eq!((key_id.len(), random.len()), (16, 49));
        assert!((key_id.to_owned() + random).bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(key.random_part.expose_secret(), random);
        assert_eq!(key.public_key, format!("pk_live_bella_{key_id}"));
    }

    #[test]
    fn the_last_six_digits_of_a_secret_key_are_the_checksum_of_the_rest() {
        let key = minted("bella-weddings");
        let (body, checksum) = key.secret_key.expose_secret().split_at(key.secret_key.expose_secret().len() - 6);
        let mut expected = String::new();
        push_digits(&mut expected, &mut crc32fast::hash(body.as_bytes()).to_be_bytes(), 6);
        assert_eq!(checksum, expected);
    }

    #[test]
    fn a_minted_key_parses_to_its_id_and_random_part() {
        for slug in ["bella-weddings", "abc", "photographyandmoreofit", "s-123-go"] {
            let key = minted(slug);
            let parsed = ParsedSecretKey::parse(&key.secret_key).unwrap();
            assert_eq!(parsed.key_id, key.key_id);
            assert_eq!(parsed.random_part.expose_secret(), key.random_part.expose_secret());
        }
    }

    #[test]
    fn a_secret_key_can_be_assembled_again_from_its_public_half_and_its_secret() {
        let secret = random_secret(&mut StdRng::seed_from_u64(8));
        let key = mint_key(KeyMode::Test, "bella", secret.clone(), &mut StdRng::seed_from_u64(9));
        assert_eq!(assemble_secret_key(&key.public_key, secret).expose_secret(), key.secret_key.expose_secret());
    }

    #[test]
    fn a_stem_is_the_first_word_of_the_slug_cut_at_16_characters() {
        assert_eq!(stem("bella-weddings"), "bella");
        assert_eq!(stem("abc"), "abc");
        assert_eq!(stem("photographyandmoreofit"), "photographyandmo");
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = minted("bella-weddings");
        let random = key.random_part.expose_secret();
        assert!(!format!("{key:?}").contains(random));
    }
}
