//! How an API key is spelled: `pk_live_<stem>_<keyid>` in public, `sk_live_<stem>_<keyid>_<random>` in secret.
//!
//! `<random>` is 256 bits as 43 base62 digits, then the CRC-32 of everything before it as 6 more, so that a scanner or a
//! client can tell a mistyped key without a call. Keys are only made here; no I/O.

use rand::TryCryptoRng;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::base62::push_digits;
use crate::domain::{KeyMode, TenantSlug};

const KEY_ID_DIGITS: usize = 16;
const RANDOM_DIGITS: usize = 43;
const CHECKSUM_DIGITS: usize = 6;
const STEM_MAX_LENGTH: usize = 16;

/// A key pair at the only moment when both halves are known.
#[derive(Debug)]
pub struct MintedKey {
    /// 16 base62 digits, unique; the key's identity in the database.
    pub key_id: String,
    pub public_key: String,
    pub secret_key: SecretString,
    /// `<random>`, the part after the last `_`: what is hashed and stored.
    pub random_part: SecretString,
}

/// Makes a key pair for the tenant with this slug.
///
/// # Errors
/// Those of the random number generator.
pub fn mint_key<R: TryCryptoRng>(mode: KeyMode, slug: &TenantSlug, rng: &mut R) -> Result<MintedKey, R::Error> {
    let mut key_number = [0_u8; 16];
    let mut secret_number = Zeroizing::new([0_u8; 32]);
    rng.try_fill_bytes(&mut key_number)?;
    rng.try_fill_bytes(secret_number.as_mut())?;

    let mut key_id = String::with_capacity(KEY_ID_DIGITS);
    push_digits(&mut key_id, &mut key_number, KEY_ID_DIGITS);
    let name = format!("{}_{}_{key_id}", mode.as_str(), stem(slug.as_str()));

    // Room for all of it at once: a string that grew would leave copies of the secret behind.
    let start = format!("sk_{name}_");
    let mut secret = String::with_capacity(start.len() + RANDOM_DIGITS + CHECKSUM_DIGITS);
    secret.push_str(&start);
    push_digits(&mut secret, secret_number.as_mut(), RANDOM_DIGITS);
    let checksum = crc32fast::hash(secret.as_bytes());
    push_digits(&mut secret, &mut checksum.to_be_bytes(), CHECKSUM_DIGITS);

    Ok(MintedKey {
        key_id,
        public_key: format!("pk_{name}"),
        random_part: SecretString::from(&secret[start.len()..]),
        secret_key: SecretString::from(secret),
    })
}

/// The slug up to its first `-`, at most 16 characters: enough for a person to recognise whose key it is.
fn stem(slug: &str) -> &str {
    let first_word = slug.split('-').next().unwrap_or(slug);
    &first_word[..first_word.len().min(STEM_MAX_LENGTH)]
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use secrecy::ExposeSecret;

    use super::*;

    fn minted(slug: &str) -> MintedKey {
        mint_key(KeyMode::Live, &TenantSlug::parse(slug).unwrap(), &mut StdRng::seed_from_u64(7)).unwrap()
    }

    #[test]
    fn both_halves_have_the_documented_form() {
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
    fn the_last_six_digits_are_the_checksum_of_the_rest() {
        let key = minted("bella-weddings");
        let (body, checksum) = key.secret_key.expose_secret().split_at(key.secret_key.expose_secret().len() - 6);
        let mut expected = String::new();
        push_digits(&mut expected, &mut crc32fast::hash(body.as_bytes()).to_be_bytes(), 6);
        assert_eq!(checksum, expected);
    }

    #[test]
    fn a_stem_is_the_first_word_cut_at_16() {
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
