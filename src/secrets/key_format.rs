//! How an API key is spelled: `pk_live_<stem>_<keyid>` in public, `sk_live_<stem>_<keyid>_<random>` in secret.
//!
//! `<random>` is 256 bits as 43 base62 digits, then the CRC-32 of everything before it as 6 more, so that a scanner or a
//! client can tell a mistyped key without a call. No I/O.

use rand::TryCryptoRng;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::base62::push_digits;
use crate::domain::{
    KeyMode,
    api_key::{KEY_ID_LENGTH, STEM_MAX_LENGTH, parse_key_id},
};

const RANDOM_DIGITS: usize = 43;
const CHECKSUM_DIGITS: usize = 6;

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

/// The 256 bits that make a key a secret.
pub type KeyEntropy = Zeroizing<[u8; 32]>;

/// # Errors
/// Those of the random number generator.
pub fn random_secret<R: TryCryptoRng>(rng: &mut R) -> Result<KeyEntropy, R::Error> {
    let mut number = Zeroizing::new([0_u8; 32]);
    rng.try_fill_bytes(number.as_mut())?;
    Ok(number)
}

/// Makes a key pair with this secret for the tenant with this slug.
///
/// # Errors
/// Those of the random number generator.
pub fn mint_key<R: TryCryptoRng>(
    mode: KeyMode,
    slug: &str,
    secret: KeyEntropy,
    rng: &mut R,
) -> Result<MintedKey, R::Error> {
    let mut key_number = [0_u8; 16];
    rng.try_fill_bytes(&mut key_number)?;
    let mut key_id = String::with_capacity(KEY_ID_LENGTH);
    push_digits(&mut key_id, &mut key_number, KEY_ID_LENGTH);
    let public_key = format!("pk_{}_{}_{key_id}", mode.as_str(), stem(slug));
    let secret_key = assemble_secret_key(&public_key, secret);
    let random_part = secret_key.expose_secret().rsplit('_').next().unwrap_or_default();
    Ok(MintedKey { key_id, random_part: SecretString::from(random_part), public_key, secret_key })
}

/// The secret half of the key with this public half and this secret.
pub fn assemble_secret_key(public_key: &str, mut secret: KeyEntropy) -> SecretString {
    // Room for all of it at once: a string that grew would leave copies of the secret behind.
    let mut key = Zeroizing::new(String::with_capacity(public_key.len() + 1 + RANDOM_DIGITS + CHECKSUM_DIGITS));
    key.push_str("sk_");
    key.push_str(public_key.strip_prefix("pk_").unwrap_or(public_key));
    key.push('_');
    push_digits(&mut key, secret.as_mut(), RANDOM_DIGITS);
    let checksum = checksum_of(&key);
    key.push_str(&checksum);
    SecretString::from(key.as_str())
}

/// A secret key as somebody presents it: of the right form, and not mistyped.
#[derive(Debug)]
pub struct ParsedSecretKey {
    pub key_id: String,
    pub random_part: SecretString,
}

impl ParsedSecretKey {
    /// `None` for what cannot be a key: told without a look at any database.
    pub fn parse(text: &SecretString) -> Option<Self> {
        let (name, random_part) = text.expose_secret().strip_prefix("sk_")?.rsplit_once('_')?;
        let key_id = parse_key_id(name)?;
        let is_well_formed = random_part.len() == RANDOM_DIGITS + CHECKSUM_DIGITS
            && random_part.bytes().all(|digit| digit.is_ascii_alphanumeric());
        if !is_well_formed {
            return None;
        }
        let (body, checksum) = text.expose_secret().split_at(text.expose_secret().len() - CHECKSUM_DIGITS);
        (checksum == checksum_of(body))
            .then(|| Self { key_id: key_id.to_owned(), random_part: SecretString::from(random_part) })
    }
}

fn checksum_of(body: &str) -> String {
    let mut digits = String::with_capacity(CHECKSUM_DIGITS);
    push_digits(&mut digits, &mut crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECKSUM_DIGITS);
    digits
}

/// The slug up to its first `-`, at most 16 characters: enough for a person to recognise whose key it is.
fn stem(slug: &str) -> &str {
    let first_word = slug.split('-').next().unwrap_or(slug);
    &first_word[..first_word.len().min(STEM_MAX_LENGTH)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn minted(slug: &str) -> MintedKey {
        let mut rng = StdRng::seed_from_u64(7);
        let secret = random_secret(&mut rng).unwrap();
        mint_key(KeyMode::Live, slug, secret, &mut rng).unwrap()
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

    fn presented(text: &str) -> Option<ParsedSecretKey> {
        ParsedSecretKey::parse(&SecretString::from(text))
    }

    #[test]
    fn a_key_comes_back_as_it_was_made() {
        for slug in ["bella-weddings", "abc", "photographyandmoreofit", "s-123-go"] {
            let key = minted(slug);
            let parsed = presented(key.secret_key.expose_secret()).unwrap();
            assert_eq!(parsed.key_id, key.key_id);
            assert_eq!(parsed.random_part.expose_secret(), key.random_part.expose_secret());
        }
    }

    #[test]
    fn a_secret_key_is_spelled_again_from_its_public_half_and_its_number() {
        let number = random_secret(&mut StdRng::seed_from_u64(8)).unwrap();
        let key = mint_key(KeyMode::Test, "bella", number.clone(), &mut StdRng::seed_from_u64(9)).unwrap();
        assert_eq!(assemble_secret_key(&key.public_key, number).expose_secret(), key.secret_key.expose_secret());
    }

    #[test]
    fn a_letter_changed_anywhere_makes_it_no_key() {
        let key = minted("bella-weddings");
        let secret = key.secret_key.expose_secret();
        for position in 0..secret.len() {
            let mut mistyped = secret.as_bytes().to_vec();
            mistyped[position] = if mistyped[position] == b'a' { b'b' } else { b'a' };
            assert!(presented(std::str::from_utf8(&mistyped).unwrap()).is_none(), "at {position}");
        }
        for other in
            [&secret[1..], &secret[..secret.len() - 1], &format!("{secret}0"), &key.public_key, "", "sk_", "é_é"]
        {
            assert!(presented(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_checksum_alone_makes_no_key() {
        let key = minted("bella-weddings");
        let (name, _) = key.secret_key.expose_secret().rsplit_once('_').unwrap();
        let summed = |random_part: &str| {
            let body = format!("{name}_{random_part}");
            format!("{body}{}", checksum_of(&body))
        };
        assert!(presented(&summed(&"a".repeat(RANDOM_DIGITS))).is_some());
        for malformed in ["a".repeat(RANDOM_DIGITS - 1), "a".repeat(RANDOM_DIGITS + 1), "!".repeat(RANDOM_DIGITS)] {
            assert!(presented(&summed(&malformed)).is_none(), "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(sk_|pk_)?\\PC{0,90}") {
            prop_assert!(presented(&text).is_none());
        }
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
