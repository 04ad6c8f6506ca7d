//! The ids that other systems know a tenant, a segment or a package by.

use super::validation::{InvalidValue, Reason};

/// 1 to 255 characters, none of them a control character. It is compared byte for byte, and not trimmed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExternalId(String);

impl ExternalId {
    const MAX_LENGTH: usize = 255;

    /// # Errors
    /// `MISSING_FIELD` for the empty text, `TOO_LONG` above 255 characters, `BAD_FORMAT` for control characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidValue::new(Reason::BadFormat, "must not contain control characters"));
        }
        if text.chars().count() > Self::MAX_LENGTH {
            return Err(InvalidValue::new(Reason::TooLong, "must have at most 255 characters"));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_id_has_1_to_255_characters_without_control_characters_and_is_kept_as_it_is() {
        let reason = |text: &str| ExternalId::parse(text).err().map(|invalid| invalid.reason);
        assert_eq!(reason(""), Some(Reason::MissingField));
        assert_eq!(reason(&"é".repeat(255)), None);
        assert_eq!(reason(&"é".repeat(256)), Some(Reason::TooLong));
        for text in ["a\0", "a\nb", "\u{85}"] {
            assert_eq!(reason(text), Some(Reason::BadFormat), "{text:?}");
        }
        assert_eq!(ExternalId::parse(" Ab 7/ü ").unwrap().as_str(), " Ab 7/ü ");
    }
}
