//! API keys in the old form of the platform, which only `turnkey adopt` brings in: `pk_live_<slug>_<16 hex digits>` is
//! public, `sk_live_<slug>_<32 hex digits>` is secret (docs/adr/0021-legacy-keys.md). The digits of the two halves
//! differ, so a secret key does not contain the id by which its public half is found. It is found by its SHA-256.

use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::{
    key_format::{PUBLIC_PREFIX, SECRET_PREFIX},
    slug,
    validation::{InvalidValue, Reason},
};

const PUBLIC_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 32;
const HASH_DIGITS: usize = 64;
const STORED_PREFIX: &str = "sha256:";

/// The SHA-256 of a whole secret key in the old form, as the database stores it: `sha256:` and 64 hex digits.
///
/// A fast hash is enough: 32 random hex digits have 128 bits, which no work factor makes safer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegacyKeyHash(Arc<str>);

impl LegacyKeyHash {
    /// Returns the hash of a text in the format of an old secret key, and `None` for every other text.
    pub fn of_secret_key(secret_key: &SecretString) -> Option<Self> {
        let text = secret_key.expose_secret();
        let (slug, digits) = text.strip_prefix(SECRET_PREFIX)?.strip_prefix("live_")?.split_once('_')?;
        let is_well_formed = is_old_slug(slug) && is_hex(digits, SECRET_DIGITS);
        is_well_formed.then(|| Self::from_hex(&hex::encode(Sha256::digest(text))))
    }

    /// Parses the hash as the platform stored it.
    ///
    /// # Errors
    /// `MISSING_FIELD`; `BAD_FORMAT` unless it is 64 lower-case hex digits. The description does not repeat the text.
    pub fn parse(hex_digits: &str) -> Result<Self, InvalidValue> {
        if hex_digits.is_empty() {
            return Err(InvalidValue::missing());
        }
        if !is_hex(hex_digits, HASH_DIGITS) {
            return Err(InvalidValue::new(Reason::BadFormat, "must be a SHA-256 in 64 lower-case hex digits"));
        }
        Ok(Self::from_hex(hex_digits))
    }

    fn from_hex(hex_digits: &str) -> Self {
        Self(format!("{STORED_PREFIX}{hex_digits}").into())
    }

    /// Returns the text that the database stores.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether the text is the public half of a key in the old form.
pub fn is_legacy_public_key(text: &str) -> bool {
    let name = text.strip_prefix(PUBLIC_PREFIX).and_then(|name| name.strip_prefix("live_"));
    name.and_then(|name| name.split_once('_'))
        .is_some_and(|(slug, digits)| is_old_slug(slug) && is_hex(digits, PUBLIC_DIGITS))
}

/// The old rules for slugs are less strict than those of [`slug::Slug`].
fn is_old_slug(text: &str) -> bool {
    (1..=slug::MAX_LENGTH).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "sk_live_bella--weddings_0123456789abcdef0123456789abcdef";

    fn hash(text: &str) -> Option<LegacyKeyHash> {
        LegacyKeyHash::of_secret_key(&SecretString::from(text))
    }

    #[test]
    fn an_old_secret_key_is_hashed_as_a_whole() {
        let expected = hex::encode(Sha256::digest(SECRET));
        assert_eq!(hash(SECRET).unwrap(), LegacyKeyHash::parse(&expected).unwrap());
        assert_eq!(hash(SECRET).unwrap().as_str(), format!("sha256:{expected}"));
    }

    #[test]
    fn every_other_text_is_no_old_secret_key() {
        for other in [
            "",
            "sk_live_",
            &SECRET[..SECRET.len() - 1],
            &format!("{SECRET}0"),
            &format!(" {SECRET}"),
            &SECRET.to_uppercase(),
            &SECRET.replace("sk_", "pk_"),
            &SECRET.replace("live", "test"),
            &SECRET.replace("bella", "Bella"),
            &SECRET.replace("bella", "bel_la"),
            &SECRET.replace("bella--weddings", ""),
            &SECRET.replace("bella--weddings", &"a".repeat(64)),
            &SECRET.replace("abcdef", "abcdeF"),
            &SECRET.replace("abcdef", "abcdeg"),
            "sk_live_bella_4fT9cQ2mXw7LzR1k_0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(hash(other), None, "{other}");
        }
    }

    #[test]
    fn an_old_public_key_has_the_whole_slug_and_16_hex_digits() {
        for (text, expected) in [
            ("pk_live_bella--weddings_0123456789abcdef", true),
            ("pk_live_1-_0123456789abcdef", true),
            ("pk_live_bella_0123456789abcdeF", false),
            ("pk_live_bella_0123456789abcde", false),
            ("pk_live__0123456789abcdef", false),
            ("pk_test_bella_0123456789abcdef", false),
            ("sk_live_bella_0123456789abcdef", false),
        ] {
            assert_eq!(is_legacy_public_key(text), expected, "{text}");
        }
    }

    #[test]
    fn a_stored_hash_is_64_lower_case_hex_digits() {
        assert_eq!(LegacyKeyHash::parse("").unwrap_err().reason, Reason::MissingField);
        for other in ["a".repeat(63), "a".repeat(65), "A".repeat(64), "g".repeat(64)] {
            assert_eq!(LegacyKeyHash::parse(&other).unwrap_err().reason, Reason::BadFormat, "{other}");
        }
    }
}
