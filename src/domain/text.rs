//! Text shown to people: names, titles and descriptions.

use std::borrow::Cow;

use super::{
    unicode::is_visible,
    validation::{InvalidValue, Reason},
};

/// A name or title: trimmed, 1–200 characters (Unicode scalar values), at least one visible character, no control
/// characters.
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
        if !trimmed.chars().any(is_visible) {
            return Err(InvalidValue::new(Reason::BadFormat, "must contain a visible character"));
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
/// trimmed. CRLF and CR, which web forms send, become LF, and a line break counts as one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description(String);

impl Description {
    pub const MAX_LENGTH: usize = 2_000;

    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = with_unix_line_breaks(text);
        if text.chars().count() > Self::MAX_LENGTH {
            return Err(InvalidValue::new(Reason::TooLong, "must have at most 2,000 characters"));
        }
        if text.chars().any(|ch| ch.is_control() && !matches!(ch, '\n' | '\t')) {
            return Err(InvalidValue::new(
                Reason::BadFormat,
                "must not contain control characters except newline and tab",
            ));
        }
        Ok(Self(text.into_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn with_unix_line_breaks(text: &str) -> Cow<'_, str> {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
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
            ("?", None),
            ("\u{200b}B\u{200b}", None),
            ("\u{200b}", Some(Reason::BadFormat)),
            ("\u{3164}", Some(Reason::BadFormat)),
            ("\u{115f}\u{1160}", Some(Reason::BadFormat)),
            ("\u{2800}\u{2800}", Some(Reason::BadFormat)),
            ("\u{200d} \u{ad}\u{feff}", Some(Reason::BadFormat)),
            ("\u{301}", Some(Reason::BadFormat)),
            ("\u{e000}", Some(Reason::BadFormat)),
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
        assert_eq!(reason("\0"), Some(Reason::BadFormat));
        assert_eq!(reason("One\u{85}two"), Some(Reason::BadFormat));
    }

    #[test]
    fn every_line_break_of_a_description_becomes_one_newline() {
        let parsed = |text: &str| Description::parse(text).unwrap().as_str().to_owned();
        assert_eq!(parsed("One\r\ntwo\rthree\nfour\r\n\r\nfive\r"), "One\ntwo\nthree\nfour\n\nfive\n");
        assert_eq!(parsed(&"\r\n".repeat(2_000)), "\n".repeat(2_000));
        assert_eq!(parsed("\n\r"), "\n\n");
    }

    proptest! {
        #[test]
        fn a_parsed_name_is_trimmed_and_parses_to_itself(text in "\\PC{0,210}") {
            if let Ok(name) = DisplayName::parse(&text) {
                prop_assert_eq!(name.as_str(), text.trim());
                prop_assert_eq!(DisplayName::parse(name.as_str()), Ok(name.clone()));
            }
        }

        #[test]
        fn a_name_with_a_letter_is_accepted_and_one_of_invisible_characters_is_not(
            letter in "\\p{Ll}",
            invisible in "[\u{ad}\u{115f}\u{200b}-\u{200f}\u{2060}-\u{2064}\u{2800}\u{3164}\u{feff}\u{ffa0}]{1,9}",
        ) {
            prop_assert!(DisplayName::parse(&invisible).is_err());
            let visible = format!("{invisible}{letter}{invisible}");
            prop_assert!(DisplayName::parse(&visible).is_ok());
        }

        #[test]
        fn a_parsed_description_has_no_carriage_return_and_parses_to_itself(text in "[a\r\n]{0,30}") {
            let description = Description::parse(&text).unwrap();
            prop_assert!(!description.as_str().contains('\r'));
            prop_assert_eq!(Description::parse(description.as_str()), Ok(description.clone()));
            prop_assert!(description.as_str().lines().eq(text.replace("\r\n", "\n").split_terminator(['\n', '\r'])));
        }
    }
}
