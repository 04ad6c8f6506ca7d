//! Text shown to people: names, titles and descriptions.

use super::validation::{InvalidValue, Reason};

/// A name or title: trimmed, 1–200 characters (Unicode scalar values), no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    pub const MAX_LENGTH: usize = 200;

    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(InvalidValue::new(Reason::TooShort, "must have at least 1 character that is not whitespace"));
        }
        if trimmed.chars().count() > Self::MAX_LENGTH {
            return Err(InvalidValue::new(Reason::TooLong, "must have at most 200 characters"));
        }
        if trimmed.chars().any(char::is_control) {
            return Err(InvalidValue::new(Reason::BadFormat, "must not contain control characters"));
        }
        Ok(Self(trimmed.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

/// A description: up to 2,000 characters, no control characters except newline and tab. It may be empty and is not
/// trimmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description(String);

impl Description {
    pub const MAX_LENGTH: usize = 2_000;

    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.chars().count() > Self::MAX_LENGTH {
            return Err(InvalidValue::new(Reason::TooLong, "must have at most 2,000 characters"));
        }
        if text.chars().any(|ch| ch.is_control() && !matches!(ch, '\n' | '\t')) {
            return Err(InvalidValue::new(
                Reason::BadFormat,
                "must not contain control characters except newline and tab",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(text: &str) -> Option<Reason> {
        DisplayName::parse(text).err().map(|invalid| invalid.reason)
    }

    #[test]
    fn each_violated_name_rule_has_its_reason() {
        for (text, expected) in [
            ("Bella Weddings", None),
            ("B", None),
            ("Ömer's Café 🎂", None),
            (&"é".repeat(200), None),
            ("", Some(Reason::MissingField)),
            (" \t\n", Some(Reason::TooShort)),
            (&"é".repeat(201), Some(Reason::TooLong)),
            ("Bella\0", Some(Reason::BadFormat)),
            ("Bella\nWeddings", Some(Reason::BadFormat)),
            ("Bella\u{85}Weddings", Some(Reason::BadFormat)),
        ] {
            assert_eq!(reason(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_description_may_be_empty_or_have_several_lines() {
        let reason = |text: &str| Description::parse(text).err().map(|invalid| invalid.reason);
        assert_eq!(reason(""), None);
        assert_eq!(reason("One\n\ttwo"), None);
        assert_eq!(reason(&"é".repeat(2_000)), None);
        assert_eq!(reason(&"é".repeat(2_001)), Some(Reason::TooLong));
        assert_eq!(reason("One\r\ntwo"), Some(Reason::BadFormat));
        assert_eq!(reason("\0"), Some(Reason::BadFormat));
    }

    proptest! {
        #[test]
        fn a_parsed_name_is_trimmed_and_parses_to_itself(text in "\\PC{0,210}") {
            if let Ok(name) = DisplayName::parse(&text) {
                prop_assert_eq!(name.as_str(), text.trim());
                prop_assert_eq!(DisplayName::parse(name.as_str()), Ok(name.clone()));
            }
        }
    }
}
