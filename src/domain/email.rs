//! E-mail addresses of owners: parsing and normalization. Whether an address exists is not checked.

use email_address::{EmailAddress, Options};
use unicode_normalization::UnicodeNormalization as _;

use super::validation::{InvalidValue, Reason};

/// The address with which an owner signed up: trimmed, the domain in lower case, at most 254 characters (RFC 5321,
/// 4.5.3.1.3 with erratum 1690), and a domain of at least two labels.
///
/// Non-ASCII letters before the `@` are lower-cased too, because the database ignores the case of ASCII letters only,
/// which is the same in every locale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    pub const MAX_LENGTH: usize = 254;

    /// # Errors
    /// `MISSING_FIELD`; `BAD_FORMAT`; `TOO_LONG` for more than 254 characters, or more than 64 bytes before the `@`.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        // NFC, as RFC 6532 (3.1) recommends: an accented letter then has one encoding.
        let trimmed: String = text.trim().nfc().collect();
        if trimmed.chars().count() > Self::MAX_LENGTH {
            return Err(InvalidValue::new(Reason::TooLong, "must have at most 254 characters"));
        }
        let options = Options { minimum_sub_domains: 2, allow_domain_literal: false, allow_display_text: false };
        let invalid = || InvalidValue::new(Reason::BadFormat, "must be an e-mail address, such as bella@example.com");
        match EmailAddress::parse_with_options(&trimmed, options) {
            Ok(_) if trimmed.chars().any(|ch| ch.is_control() || ch.is_whitespace()) => Err(invalid()),
            Ok(address) if !is_host_name(address.domain()) => Err(invalid()),
            Ok(address) => Ok(Self(normalized(address.local_part(), address.domain()))),
            Err(email_address::Error::LocalPartTooLong) => {
                Err(InvalidValue::new(Reason::TooLong, "must have at most 64 bytes before the @"))
            }
            Err(_) => Err(invalid()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether the domain has only characters of host names. The library also accepts those allowed before the `@`.
fn is_host_name(domain: &str) -> bool {
    domain.chars().all(|ch| ch.is_alphanumeric() || matches!(ch, '-' | '.'))
}

fn normalized(local_part: &str, domain: &str) -> String {
    let mut address = String::with_capacity(local_part.len() + domain.len() + 1);
    address.extend(local_part.chars().map(|ch| if ch.is_ascii() { ch } else { to_lowercase_single(ch) }));
    address.push('@');
    address.extend(domain.chars().map(to_lowercase_single));
    address
}

/// Leaves a letter unchanged if its lower case has several characters (`İ`): the result would not be a valid address.
fn to_lowercase_single(ch: char) -> char {
    let mut lower = ch.to_lowercase();
    lower.next().filter(|_| lower.next().is_none()).unwrap_or(ch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_email_address_is_trimmed_and_its_domain_lower_cased() {
        for (text, expected) in [
            ("bella@example.com", "bella@example.com"),
            ("  Bella.Rossi+Spam@Example.COM\n", "Bella.Rossi+Spam@example.com"),
            ("o'neill@sub.example.co.uk", "o'neill@sub.example.co.uk"),
            ("Ömer@BÜCHER.example", "ömer@bücher.example"),
            ("jose\u{301}@example.com", "josé@example.com"),
            ("İlke@example.com", "İlke@example.com"),
        ] {
            assert_eq!(Email::parse(text).unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn an_email_address_has_at_most_254_characters() {
        let domain = format!("{}.{}.{}", "b".repeat(63), "c".repeat(63), "d".repeat(61));
        let longest = format!("{}@{domain}", "a".repeat(64));
        assert_eq!((longest.len(), Email::parse(&longest).unwrap().as_str()), (Email::MAX_LENGTH, longest.as_str()));
        assert_eq!(Email::parse(&format!("{longest}d")).unwrap_err().reason, Reason::TooLong);
    }

    #[test]
    fn an_invalid_email_address_is_rejected_with_its_reason() {
        for (text, expected) in [
            ("", Reason::MissingField),
            ("  ", Reason::BadFormat),
            ("bella", Reason::BadFormat),
            ("bella@", Reason::BadFormat),
            ("@example.com", Reason::BadFormat),
            ("bella@localhost", Reason::BadFormat),
            ("bella@[127.0.0.1]", Reason::BadFormat),
            ("bella@@example.com", Reason::BadFormat),
            ("bella@example..com", Reason::BadFormat),
            ("bella@-example.com", Reason::BadFormat),
            ("bella..rossi@example.com", Reason::BadFormat),
            ("bella@exa!mple.com", Reason::BadFormat),
            ("bella@x{y}.z", Reason::BadFormat),
            ("bella rossi@example.com", Reason::BadFormat),
            ("\"bella rossi\"@example.com", Reason::BadFormat),
            ("bel\0la@example.com", Reason::BadFormat),
            ("Bella <bella@example.com>", Reason::BadFormat),
            ("bella@example.com, omer@example.com", Reason::BadFormat),
            (&format!("{}@example.com", "a".repeat(65)), Reason::TooLong),
            (&format!("bella@{}.com", "a.".repeat(130)), Reason::TooLong),
        ] {
            assert_eq!(Email::parse(text).unwrap_err().reason, expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_normalized_email_address_parses_to_itself(text in "\\PC{1,12}@\\PC{1,12}\\.\\PC{1,4}") {
            if let Ok(email) = Email::parse(&text) {
                prop_assert_eq!(Email::parse(email.as_str()), Ok(email.clone()));
            }
        }
    }
}
