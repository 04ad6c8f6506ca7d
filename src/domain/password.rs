//! Passwords of owners: length and normalization. Whether one is easily guessed is checked in `secrets`.

use secrecy::{ExposeSecret as _, SecretString};
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::validation::{InvalidValue, Reason};

/// A password as it is hashed: 8–128 characters after NFKC, so that it does not depend on the keyboard on which it was
/// typed (NIST SP 800-63B, 5.1.1.2). There are no composition rules: they do not make passwords harder to guess.
///
/// `Debug` shows nothing, and the memory is wiped on drop.
#[derive(Debug, Clone)]
pub struct Password(SecretString);

impl Password {
    const MIN_LENGTH: usize = 8;
    const MAX_LENGTH: usize = 128;
    /// A longer text cannot normalize to 128 characters and is rejected unread.
    const MAX_BYTES: usize = 4_096;

    /// # Errors
    /// `MISSING_FIELD`, `TOO_SHORT`, `TOO_LONG`.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        let too_long = || InvalidValue::new(Reason::TooLong, "must have at most 128 characters");
        if text.len() > Self::MAX_BYTES {
            return Err(too_long());
        }
        // Allocates the full length: growing the string would leave copies of the password in memory.
        let mut normalized = Zeroizing::new(String::with_capacity((Self::MAX_LENGTH + 1) * 4));
        let mut length = 0;
        for ch in text.nfkc().take(Self::MAX_LENGTH + 1) {
            normalized.push(ch);
            length += 1;
        }
        if length > Self::MAX_LENGTH {
            return Err(too_long());
        }
        if length < Self::MIN_LENGTH {
            return Err(InvalidValue::new(Reason::TooShort, "must have at least 8 characters"));
        }
        Ok(Self(SecretString::from(normalized.as_str())))
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    pub fn into_secret(self) -> SecretString {
        self.0
    }
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
    fn debug_output_of_a_password_does_not_contain_it() {
        assert!(!format!("{:?}", Password::parse("correct horse").unwrap()).contains("horse"));
    }
}
