//! The format of API keys: `pk_live_<stem>_<keyid>` is public, `sk_live_<stem>_<keyid>_<random>` is secret.
//!
//! `<random>` is 256 bits as 43 base62 digits, followed by the CRC-32 of everything before it as 6 more, so that a
//! scanner or a client can detect a mistyped key without a call. Keys are created in `secrets`. Keys that the platform
//! created before Turnkey have another format ([`super::legacy_key`]).

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    base62::{U256_DIGITS, push_digits},
    legacy_key::{LegacyKeyHash, is_legacy_public_key},
    validation::{InvalidValue, Reason},
};

pub const PUBLIC_PREFIX: &str = "pk_";
pub const SECRET_PREFIX: &str = "sk_";
/// Base62 digits of a key's id.
pub const KEY_ID_LENGTH: usize = 16;
/// Maximum length of a stem, the tenant's slug up to its first `-`. It lets a person recognize the tenant.
pub const STEM_MAX_LENGTH: usize = 16;
/// Base62 digits of `<random>`, checksum included.
pub const RANDOM_PART_LENGTH: usize = U256_DIGITS + CHECKSUM_LENGTH;
const CHECKSUM_LENGTH: usize = 6;

/// Whether a key is for the real platform or for a rehearsal of it: `live` or `test` in the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, strum::Display, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum KeyMode {
    #[default]
    Live,
    Test,
}

/// The public half of a key, `pk_live_<stem>_<keyid>`, or that of an old one. Both end with the 16 characters by which
/// the key is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(String);

impl PublicKey {
    /// # Errors
    /// `MISSING_FIELD`, `BAD_FORMAT`. The description never repeats the text, which may be a secret key by mistake.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        if text.strip_prefix(PUBLIC_PREFIX).and_then(parse_key_id).is_some() || is_legacy_public_key(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue::new(Reason::BadFormat, "must be a public key, such as pk_live_bella_4fT9cQ2mXw7LzR1k"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id by which the database finds the key.
    pub fn key_id(&self) -> &str {
        &self.0[self.0.len() - KEY_ID_LENGTH..]
    }
}

/// A secret key that a caller presents, in one of the two formats. It may still be unknown.
#[derive(Debug)]
pub enum PresentedSecretKey {
    Current(ParsedSecretKey),
    Legacy(LegacyKeyHash),
}

impl PresentedSecretKey {
    /// Returns `None` if the text is malformed or its checksum is wrong.
    pub fn parse(secret_key: &SecretString) -> Option<Self> {
        let current = ParsedSecretKey::parse(secret_key).map(Self::Current);
        current.or_else(|| LegacyKeyHash::of_secret_key(secret_key).map(Self::Legacy))
    }
}

/// The parts of a secret key whose format and checksum are valid. It may still be unknown.
#[derive(Debug)]
pub struct ParsedSecretKey {
    pub key_id: String,
    /// The public half that belongs to the secret key, with its mode and stem.
    pub public_key: String,
    /// `<random>`, checksum included: the text that is hashed.
    pub random_part: SecretString,
}

impl ParsedSecretKey {
    /// Returns `None` if the text is malformed or its checksum is wrong.
    pub fn parse(secret_key: &SecretString) -> Option<Self> {
        let text = secret_key.expose_secret();
        let (name, random_part) = text.strip_prefix(SECRET_PREFIX)?.rsplit_once('_')?;
        let key_id = parse_key_id(name)?;
        let is_well_formed =
            random_part.len() == RANDOM_PART_LENGTH && random_part.bytes().all(|digit| digit.is_ascii_alphanumeric());
        if !is_well_formed {
            return None;
        }
        let (body, checksum_digits) = text.split_at(text.len() - CHECKSUM_LENGTH);
        (checksum_digits == checksum(body)).then(|| Self {
            key_id: key_id.to_owned(),
            public_key: format!("{PUBLIC_PREFIX}{name}"),
            random_part: SecretString::from(random_part),
        })
    }
}

/// Returns the CRC-32 of a secret key without its checksum, as base62 digits.
pub fn checksum(body: &str) -> String {
    let mut digits = String::with_capacity(CHECKSUM_LENGTH);
    push_digits(&mut digits, &mut crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECKSUM_LENGTH);
    digits
}

/// Returns the id from `<mode>_<stem>_<keyid>`, the part that both halves of a key share.
fn parse_key_id(name: &str) -> Option<&str> {
    let mut parts = name.split('_');
    let (mode, stem, key_id) = (parts.next()?, parts.next()?, parts.next()?);
    let is_well_formed = parts.next().is_none()
        && mode.parse::<KeyMode>().is_ok()
        && (1..=STEM_MAX_LENGTH).contains(&stem.len())
        && stem.bytes().all(|ch| ch.is_ascii_lowercase() || ch.is_ascii_digit())
        && key_id.len() == KEY_ID_LENGTH
        && key_id.bytes().all(|digit| digit.is_ascii_alphanumeric());
    is_well_formed.then_some(key_id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PUBLIC_KEY: &str = "pk_live_bella_4fT9cQ2mXw7LzR1k";
    const NAME: &str = "sk_live_bella_4fT9cQ2mXw7LzR1k";

    #[test]
    fn a_public_key_has_the_current_or_the_old_format() {
        let key = PublicKey::parse(PUBLIC_KEY).unwrap();
        assert_eq!(key.key_id(), "4fT9cQ2mXw7LzR1k");
        assert!(PublicKey::parse("pk_test_b2_4fT9cQ2mXw7LzR1k").is_ok());
        let legacy = PublicKey::parse("pk_live_bella--weddings_0123456789abcdef").unwrap();
        assert_eq!(legacy.key_id(), "0123456789abcdef");
        assert_eq!(PublicKey::parse("").unwrap_err().reason, Reason::MissingField);
        for other in [
            "pk_live_bella_4fT9cQ2mXw7LzR1",
            "pk_live_bella_4fT9cQ2mXw7LzR1kk",
            "pk_live_bella_4fT9cQ2mXw7Lz-1k",
            "pk_live__4fT9cQ2mXw7LzR1k",
            "pk_live_bella-weddings_4fT9cQ2mXw7LzR1k",
            "pk_live_photographyandmor_4fT9cQ2mXw7LzR1k",
            "pk_dead_bella_4fT9cQ2mXw7LzR1k",
            "pk_live_Bella_4fT9cQ2mXw7LzR1k",
            "sk_live_bella_4fT9cQ2mXw7LzR1k",
            "pk_live_bella_4fT9cQ2mXw7LzR1k_secret",
            "bella",
        ] {
            assert_eq!(PublicKey::parse(other).unwrap_err().reason, Reason::BadFormat, "{other}");
        }
    }

    fn parse(text: &str) -> Option<ParsedSecretKey> {
        ParsedSecretKey::parse(&SecretString::from(text))
    }

    fn with_checksum(random_digits: &str) -> String {
        let body = format!("{NAME}_{random_digits}");
        format!("{body}{}", checksum(&body))
    }

    #[test]
    fn changing_any_character_invalidates_a_secret_key() {
        let secret = with_checksum(&"x7B".repeat(15)[..U256_DIGITS]);
        assert_eq!(parse(&secret).unwrap().public_key, PUBLIC_KEY);
        for position in 0..secret.len() {
            let mut mistyped = secret.as_bytes().to_vec();
            mistyped[position] = if mistyped[position] == b'a' { b'b' } else { b'a' };
            assert!(parse(std::str::from_utf8(&mistyped).unwrap()).is_none(), "at {position}");
        }
        for other in [&secret[1..], &secret[..secret.len() - 1], &format!("{secret}0"), PUBLIC_KEY, "", "sk_", "é_é"]
        {
            assert!(parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_valid_checksum_does_not_excuse_a_malformed_random_part() {
        assert!(parse(&with_checksum(&"a".repeat(U256_DIGITS))).is_some());
        for malformed in ["a".repeat(U256_DIGITS - 1), "a".repeat(U256_DIGITS + 1), "!".repeat(U256_DIGITS)] {
            assert!(parse(&with_checksum(&malformed)).is_none(), "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(sk_|pk_)?\\PC{0,90}") {
            prop_assert!(parse(&text).is_none());
        }
    }
}
