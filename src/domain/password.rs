//! Passwords of owners: length and normalization. Whether one is easily guessed is checked in `secrets`.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::validation::{InvalidValue, Reason};

/// A password as it is hashed: 8–128 characters after NFKC, so that it does not depend on the keyboard on which it was
/// typed (NIST SP 800-63B, 5.1.1.2). There are no composition rules: they do not make passwords harder to guess.
///
/// `Debug` shows nothing, and the memory is wiped on drop.
#[derive(Debug, Clone)]
pub struct Password(SecretString);

/// A password that a caller enters, to be compared with the stored hash. Its length does not matter: an owner whose
/// password comes from the old platform may have a shorter one than is permitted now.
///
/// `Debug` shows nothing, and the memory is wiped on drop.
#[derive(Clone)]
pub struct PresentedPassword {
    /// In NFKC, the text that Argon2id compares. `None` for an empty or overlong text: no stored hash is that of such a
    /// text.
    normalized: Option<SecretString>,
    /// The bytes that bcrypt compares: as they were sent.
    first_bytes: SecretSlice<u8>,
}

/// A longer text cannot normalize to [`Password::MAX_LENGTH`] characters.
const MAX_BYTES: usize = 4_096;
/// bcrypt ignores all bytes after these.
const BCRYPT_BYTES: usize = 72;

impl Password {
    const MIN_LENGTH: usize = 8;
    const MAX_LENGTH: usize = 128;

    /// # Errors
    /// `MISSING_FIELD`, `TOO_SHORT`, `TOO_LONG`.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        let too_long = || InvalidValue::new(Reason::TooLong, "must have at most 128 characters");
        let normalized = normalize(text).ok_or_else(too_long)?;
        let length = normalized.expose_secret().chars().count();
        if length > Self::MAX_LENGTH {
            return Err(too_long());
        }
        if length < Self::MIN_LENGTH {
            return Err(InvalidValue::new(Reason::TooShort, "must have at least 8 characters"));
        }
        Ok(Self(normalized))
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    pub fn into_secret(self) -> SecretString {
        self.0
    }
}

impl PresentedPassword {
    pub fn new(text: &str) -> Self {
        let first_bytes = &text.as_bytes()[..text.len().min(BCRYPT_BYTES)];
        let normalized = if text.is_empty() { None } else { normalize(text) };
        Self { normalized, first_bytes: first_bytes.to_vec().into() }
    }

    pub const fn normalized(&self) -> Option<&SecretString> {
        self.normalized.as_ref()
    }

    /// Whether the text is empty, which is the password of no one.
    pub fn is_empty(&self) -> bool {
        self.first_bytes().is_empty()
    }

    /// Returns up to 72 bytes of the text as it was sent.
    pub fn first_bytes(&self) -> &[u8] {
        self.first_bytes.expose_secret()
    }
}

impl From<Password> for PresentedPassword {
    fn from(password: Password) -> Self {
        Self::new(password.expose())
    }
}

impl fmt::Debug for PresentedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresentedPassword")
    }
}

/// Returns the text in NFKC, or `None` if it is overlong, which is then not read.
fn normalize(text: &str) -> Option<SecretString> {
    if text.len() > MAX_BYTES {
        return None;
    }
    // Allocates the full length: growing the string would leave copies of the password in memory.
    let length = text.nfkc().map(char::len_utf8).sum();
    let mut normalized = Zeroizing::new(String::with_capacity(length));
    normalized.extend(text.nfkc());
    Some(SecretString::from(normalized.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> Option<Reason> {
        Password::parse(text).err().map(|invalid| invalid.reason)
    }

    #[test]
    fn a_password_is_restricted_in_its_length_only() {
        for (text, expected) in [
            ("12345678", None),
            ("        ", None),
            ("pass\0word\n", None),
            (&"🎂".repeat(128), None),
            ("", Some(Reason::MissingField)),
            ("1234567", Some(Reason::TooShort)),
            ("🎂🎂🎂🎂🎂🎂🎂", Some(Reason::TooShort)),
            (&"a".repeat(129), Some(Reason::TooLong)),
            (&"a".repeat(1 << 20), Some(Reason::TooLong)),
        ] {
            assert_eq!(reason(text), expected, "{:?}", &text[..text.len().min(20)]);
        }
    }

    #[test]
    fn characters_of_a_password_are_counted_and_compared_after_nfkc() {
        assert_eq!(Password::parse("cafe\u{301}-ﬁne").unwrap().expose(), "café-fine");
        assert_eq!(
            reason("e\u{301}e\u{301}e\u{301}e\u{301}"),
            Some(Reason::TooShort),
            "eight scalars, four characters"
        );
        assert_eq!(reason(&"e\u{301}".repeat(128)), None, "256 scalars, 128 characters");
        assert_eq!(reason(&"ﷺ".repeat(8)), Some(Reason::TooLong), "8 scalars, 144 characters");
    }

    #[test]
    fn a_presented_password_of_any_length_is_normalized_and_keeps_its_first_72_bytes() {
        let presented = |text: &str| {
            let presented = PresentedPassword::new(text);
            let normalized = presented.normalized().map(|text| text.expose_secret().to_owned());
            (normalized, presented.first_bytes().to_vec())
        };
        assert_eq!(presented("cafe\u{301}"), (Some("café".to_owned()), "cafe\u{301}".as_bytes().to_vec()));
        let long = "é".repeat(200);
        assert_eq!(presented(&long), (Some(long.clone()), long.as_bytes()[..72].to_vec()));
        let cut = format!("{}é", "a".repeat(71));
        assert_eq!(presented(&cut).1.len(), 72, "in the middle of a character");
        assert_eq!(presented(&"a".repeat(4_097)), (None, vec![b'a'; 72]));
        assert_eq!(presented(""), (None, Vec::new()));
    }

    #[test]
    fn debug_output_of_a_password_does_not_contain_it() {
        assert!(!format!("{:?}", Password::parse("correct horse").unwrap()).contains("horse"));
        assert!(!format!("{:?}", PresentedPassword::new("correct horse")).contains("horse"));
    }
}
