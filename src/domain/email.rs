//! E-mail addresses of owners: parsing, and the form in which they are compared. Whether an address exists is not
//! checked.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization as _;

use super::{
    unicode::{fold_case, is_default_ignorable, is_visible, is_visible_mark},
    validation::{InvalidValue, Reason},
};

/// The address with which an owner signed up, in any script (RFC 6531).
///
/// It is shown as it was entered: trimmed, in NFC, and its domain in lower case. [`Email::canonical`] is the form in
/// which addresses are compared.
///
/// Quoted local parts are rejected. RFC 5321 (4.1.2) advises hosts not to use them, and many are another spelling of an
/// address without quotes: `"bella"@example.com` is `bella@example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    address: String,
    canonical: String,
}

impl Email {
    /// RFC 5321, 4.5.3.1.3 with erratum 1690.
    pub const MAX_LENGTH: usize = 254;
    /// In bytes: RFC 5321, 4.5.3.1.1.
    const MAX_LOCAL_PART_LENGTH: usize = 64;

    /// # Errors
    /// `MISSING_FIELD`; `BAD_FORMAT`; `TOO_LONG` for more than 254 characters, also if the domain is written in ASCII,
    /// or more than 64 bytes before the `@`.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        let too_long = |description: &'static str| Err(InvalidValue::new(Reason::TooLong, description));
        let invalid = || InvalidValue::new(Reason::BadFormat, "must be an e-mail address, such as bella@example.com");
        // NFC, as RFC 6532 (3.1) recommends: an accented letter then has one encoding.
        let trimmed: String = text.trim().nfc().collect();
        if trimmed.chars().count() > Self::MAX_LENGTH {
            return too_long("must have at most 254 characters");
        }
        let (local_part, domain) = trimmed.rsplit_once('@').ok_or_else(invalid)?;
        if !is_dot_atom(local_part) {
            return Err(invalid());
        }
        if local_part.len() > Self::MAX_LOCAL_PART_LENGTH {
            return too_long("must have at most 64 bytes before the @");
        }
        let domain = Domain::parse(domain).ok_or_else(invalid)?;
        let canonical = format!("{}@{}", canonical_local_part(local_part), domain.ascii);
        if local_part.chars().count() + "@".len() + domain.ascii.len() > Self::MAX_LENGTH {
            return too_long("must have at most 254 characters, with its domain in ASCII");
        }
        Ok(Self { address: format!("{local_part}@{}", domain.shown), canonical })
    }

    /// Returns the address as it is shown.
    pub fn as_str(&self) -> &str {
        &self.address
    }

    /// Returns the words that zxcvbn should treat as guessable: the address and its local part.
    pub fn user_inputs(&self) -> Vec<String> {
        let local_part = self.address.split_once('@').map(|(local_part, _)| local_part);
        [Some(self.address.as_str()), local_part].into_iter().flatten().map(str::to_owned).collect()
    }

    /// Returns the same text for all spellings of an address: the local part by Unicode case folding, the domain in
    /// its ASCII form by UTS #46.
    ///
    /// Mail servers may treat the local part differently, so send mail to the address itself.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }
}

/// A domain of at least two labels.
struct Domain {
    /// As entered, if it was entered in ASCII; otherwise in Unicode. In lower case.
    shown: String,
    ascii: String,
}

impl Domain {
    fn parse(domain: &str) -> Option<Self> {
        // Labels such as `r3---sn` exist, so only hyphens at the ends of a label are invalid.
        let (deny_list, hyphens) = (AsciiDenyList::STD3, Hyphens::CheckFirstLast);
        let uts46 = Uts46::new();
        let ascii = uts46.to_ascii(domain.as_bytes(), deny_list, hyphens, DnsLength::Verify).ok()?.into_owned();
        let shown = if domain.is_ascii() {
            domain.to_ascii_lowercase()
        } else {
            uts46.to_unicode(domain.as_bytes(), deny_list, hyphens).0.into_owned()
        };
        ascii.contains('.').then_some(Self { shown, ascii })
    }
}

/// `Dot-string` of RFC 5321, 4.1.2, extended by RFC 6531 to the characters of all scripts.
fn is_dot_atom(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atom_character))
}

/// RFC 6531 allows every non-ASCII character. Those that are not shown are rejected, because two addresses could then
/// look the same; only the joiners are parts of words (RFC 5892, A.1 and A.2). Unassigned characters are rejected,
/// because their case folding is not known yet.
fn is_atom_character(ch: char) -> bool {
    const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];
    if ch.is_ascii() {
        ch.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(ch)
    } else {
        is_visible(ch) || is_visible_mark(ch) || JOINERS.contains(&ch)
    }
}

/// Joiners are left out, because they are not visible in most scripts.
fn canonical_local_part(local_part: &str) -> String {
    let visible: String = local_part.chars().filter(|&ch| !is_default_ignorable(ch)).collect();
    fold_case(&visible)
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
            ("Ömer@BÜCHER.example", "Ömer@bücher.example"),
            ("anna@XN--BCHER-KVA.example", "anna@xn--bcher-kva.example"),
            ("anna@ｂｕｃｈ。example", "anna@buch.example"),
            ("jose\u{301}@example.com", "josé@example.com"),
            ("İlke@example.com", "İlke@example.com"),
        ] {
            assert_eq!(Email::parse(text).unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn addresses_that_differ_in_case_or_in_the_spelling_of_the_domain_are_the_same() {
        for (one, other) in [
            ("Bella@Example.com", "bella@EXAMPLE.COM"),
            ("ΓΙΏΡΓΟΣ@example.com", "γιώργος@example.com"),
            ("ΓΙΏΡΓΟΣ@example.com", "γιώργοσ@example.com"),
            ("josé@example.com", "JOSE\u{301}@example.com"),
            ("Straße@example.com", "STRASSE@example.com"),
            ("ЮЛИЯ@example.com", "юлия@example.com"),
            ("İlke@example.com", "i\u{307}lke@example.com"),
            ("anna@bücher.example", "anna@xn--bcher-kva.example"),
            ("anna@BÜCHER.example", "anna@bu\u{308}cher.example"),
            ("anna@ｂücher．example", "anna@bücher.example"),
            ("anna@bü\u{ad}cher.example", "anna@bücher.example"),
            ("anna@faß.example", "anna@xn--fa-hia.example"),
            ("می\u{200c}خواهم@example.com", "میخواهم@example.com"),
        ] {
            let canonical = |text: &str| Email::parse(text).unwrap().canonical().to_owned();
            assert_eq!(canonical(one), canonical(other), "{one} {other}");
        }
        assert_eq!(Email::parse("Anna@Bücher.example").unwrap().canonical(), "anna@xn--bcher-kva.example");
    }

    #[test]
    fn different_addresses_differ() {
        for (one, other) in [
            ("bella@example.com", "bella@example.org"),
            ("jose@example.com", "josé@example.com"),
            ("ılke@example.com", "ilke@example.com"),
            // Compatibility characters are different mailboxes before the `@` (RFC 6532, 3.1).
            ("ｂella@example.com", "bella@example.com"),
            ("anna@faß.example", "anna@fass.example"),
        ] {
            let canonical = |text: &str| Email::parse(text).unwrap().canonical().to_owned();
            assert_ne!(canonical(one), canonical(other), "{one} {other}");
        }
    }

    #[test]
    fn addresses_of_every_script_are_accepted() {
        for text in [
            "राम@मेल.भारत",
            "हिन्दी@उदाहरण.परीक्षा",
            "தமிழ்@உதாரணம்.பரிட்சை",
            "อีเมล@ตัวอย่าง.ไทย",
            "用户@例子.广告",
            "ユーザー@例え.テスト",
            "사용자@예시.테스트",
            "مستخدم@مثال.إختبار",
            "משתמש@דוגמה.טעסט",
            "пользователь@пример.испытание",
            "οδηγός@παράδειγμα.δοκιμή",
            "օգտվող@օրինակ.հայ",
            "მომხმარებელი@მაგალითი.გე",
            "🎂@example.com",
        ] {
            assert_eq!(Email::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn an_email_address_has_at_most_254_characters() {
        let domain = format!("{}.{}.{}", "b".repeat(63), "c".repeat(63), "d".repeat(61));
        let longest = format!("{}@{domain}", "a".repeat(64));
        assert_eq!((longest.len(), Email::parse(&longest).unwrap().as_str()), (Email::MAX_LENGTH, longest.as_str()));
        assert_eq!(Email::parse(&format!("{longest}d")).unwrap_err().reason, Reason::TooLong);
        // `xn--…` is longer than the label.
        let in_unicode = format!("{}@{}.{}.ü{}", "a".repeat(64), "b".repeat(63), "c".repeat(63), "d".repeat(55));
        assert_eq!((in_unicode.chars().count(), Email::parse(&in_unicode).unwrap_err().reason), (249, Reason::TooLong));
        // 255 and 254 characters in ASCII.
        assert_eq!(Email::parse(&in_unicode[1..]).unwrap_err().reason, Reason::TooLong);
        assert!(Email::parse(&in_unicode[2..]).is_ok());
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
            ("bella＠example.com", Reason::BadFormat),
            ("bella@example..com", Reason::BadFormat),
            ("bella@example.com.", Reason::BadFormat),
            ("bella@-example.com", Reason::BadFormat),
            ("bella@my_host.example", Reason::BadFormat),
            ("bella@xn--a.example", Reason::BadFormat),
            (&format!("bella@{}.example", "b".repeat(64)), Reason::BadFormat),
            ("bella..rossi@example.com", Reason::BadFormat),
            (".bella@example.com", Reason::BadFormat),
            ("bella@exa!mple.com", Reason::BadFormat),
            ("bella@x{y}.z", Reason::BadFormat),
            ("bella rossi@example.com", Reason::BadFormat),
            ("bella\u{a0}rossi@example.com", Reason::BadFormat),
            ("bel\u{200b}la@example.com", Reason::BadFormat),
            ("bel\u{202e}la@example.com", Reason::BadFormat),
            ("bel\u{e000}la@example.com", Reason::BadFormat),
            ("bel\u{378}la@example.com", Reason::BadFormat),
            ("bel\0la@example.com", Reason::BadFormat),
            ("\"bella\"@example.com", Reason::BadFormat),
            ("\"bella rossi\"@example.com", Reason::BadFormat),
            ("\"bella@work\"@example.com", Reason::BadFormat),
            ("bella(work)@example.com", Reason::BadFormat),
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

        #[test]
        fn a_canonical_address_is_its_own_canonical_form(
            local in "[\\p{L}\\p{M}\\p{N}.]{1,12}",
            domain in "\\p{L}{1,8}\\.\\p{L}{2,4}",
        ) {
            if let Ok(email) = Email::parse(&format!("{local}@{domain}")) {
                // Folding can make the local part longer than an address allows.
                if let Ok(canonical) = Email::parse(email.canonical()) {
                    prop_assert_eq!(canonical.canonical(), email.canonical());
                }
            }
        }

        /// The constraint `owners_canonical_email_matches_email` checks it, too.
        #[test]
        fn the_canonical_form_of_an_address_that_is_shown_in_ascii_is_its_lower_case(
            text in "[0-z]{1,12}@[0-zｂ]{1,12}\\.[a-zA-Zſ]{1,4}",
        ) {
            if let Some(email) = Email::parse(&text).ok().filter(|email| email.as_str().is_ascii()) {
                prop_assert_eq!(email.canonical(), email.as_str().to_ascii_lowercase());
            }
        }
    }
}
