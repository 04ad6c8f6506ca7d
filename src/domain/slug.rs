//! Slugs: the names of tenants, segments and packages in URLs. `derived_slug.rs` derives them from display names.

use std::fmt;

use super::validation::{InvalidValue, Reason};

pub const MIN_LENGTH: usize = 3;
pub const MAX_LENGTH: usize = 63;

/// The slug of a segment or package: 3–63 characters of `a-z0-9-` that start with a letter, end with a letter or digit,
/// contain no `--` and do not have the format of a UUID, so that ids and slugs cannot be confused.
///
/// 63 is the maximum length of a label in a host name (RFC 1035, 2.3.4): a tenant's slug can become a subdomain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slug(String);

impl Slug {
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        let bad_format = |description| Err(InvalidValue::new(Reason::BadFormat, description));
        if !text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            return bad_format("must contain only lower-case letters a-z, digits and hyphens");
        }
        if text.len() < MIN_LENGTH {
            return Err(InvalidValue::new(Reason::TooShort, "must have at least 3 characters"));
        }
        if text.len() > MAX_LENGTH {
            return Err(InvalidValue::new(Reason::TooLong, "must have at most 63 characters"));
        }
        if !text.starts_with(|first: char| first.is_ascii_lowercase()) {
            return bad_format("must start with a letter");
        }
        if text.ends_with('-') {
            return bad_format("must end with a letter or a digit");
        }
        if text.contains("--") {
            return bad_format("must not contain two consecutive hyphens");
        }
        if uuid::Uuid::try_parse(text).is_ok() {
            return bad_format("must not have the format of a UUID");
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The slug of a tenant: a [`Slug`] that is not [reserved](is_reserved).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantSlug(Slug);

impl TenantSlug {
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let slug = Slug::parse(text)?;
        if is_reserved(slug.as_str()) {
            return Err(InvalidValue::new(Reason::Reserved, "is reserved for the platform"));
        }
        Ok(Self(slug))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for TenantSlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether the platform itself uses this name, or a visitor would assume so (role mailboxes of RFC 2142 included).
pub fn is_reserved(slug: &str) -> bool {
    RESERVED.binary_search(&slug).is_ok()
}

/// Sorted, as the binary search requires.
const RESERVED: [&str; 42] = [
    "abuse",
    "account",
    "accounts",
    "admin",
    "administrator",
    "api",
    "app",
    "assets",
    "auth",
    "billing",
    "cdn",
    "dashboard",
    "demo",
    "dev",
    "graphql",
    "grpc",
    "health",
    "hostmaster",
    "internal",
    "localhost",
    "login",
    "logout",
    "mail",
    "metrics",
    "oauth",
    "postmaster",
    "private",
    "production",
    "public",
    "root",
    "security",
    "signup",
    "staging",
    "static",
    "status",
    "support",
    "system",
    "test",
    "turnkey",
    "webmaster",
    "widget",
    "www",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(text: &str) -> Option<Reason> {
        TenantSlug::parse(text).err().map(|invalid| invalid.reason)
    }

    #[test]
    fn each_violated_slug_rule_has_its_reason() {
        for (text, expected) in [
            ("bella-weddings", None),
            ("abc", None),
            ("a1b", None),
            ("a-1", None),
            (&"a".repeat(63), None),
            ("", Some(Reason::MissingField)),
            ("ab", Some(Reason::TooShort)),
            (&"a".repeat(64), Some(Reason::TooLong)),
            ("Bella", Some(Reason::BadFormat)),
            ("bella weddings", Some(Reason::BadFormat)),
            (" bella", Some(Reason::BadFormat)),
            ("bella_w", Some(Reason::BadFormat)),
            ("béla", Some(Reason::BadFormat)),
            ("bel\0la", Some(Reason::BadFormat)),
            ("1bella", Some(Reason::BadFormat)),
            ("-bella", Some(Reason::BadFormat)),
            ("bella-", Some(Reason::BadFormat)),
            ("bella--w", Some(Reason::BadFormat)),
            ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", Some(Reason::BadFormat)),
            ("a0eebc999c0b4ef8bb6d6bb9bd380a11", Some(Reason::BadFormat)),
            ("admin", Some(Reason::Reserved)),
            ("turnkey", Some(Reason::Reserved)),
            ("cdn", Some(Reason::Reserved)),
            ("widget", Some(Reason::Reserved)),
            ("public", Some(Reason::Reserved)),
            ("private", Some(Reason::Reserved)),
            ("test", Some(Reason::Reserved)),
            ("staging", Some(Reason::Reserved)),
            ("production", Some(Reason::Reserved)),
            ("dev", Some(Reason::Reserved)),
            ("demo", Some(Reason::Reserved)),
            ("admins", None),
        ] {
            assert_eq!(reason(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_reserved_list_is_sorted_and_contains_only_slugs() {
        assert!(RESERVED.is_sorted());
        for slug in RESERVED {
            assert!(Slug::parse(slug).is_ok(), "{slug}");
        }
    }

    proptest! {
        #[test]
        fn a_text_is_either_rejected_or_kept_unchanged_as_a_slug(text in "\\PC{0,80}") {
            if let Ok(slug) = Slug::parse(&text) {
                prop_assert_eq!(slug.as_str(), &text);
            }
        }

        #[test]
        fn every_text_in_slug_format_is_accepted(text in "[a-z][a-z0-9]{2,9}(-[a-z0-9]{1,9}){0,4}") {
            prop_assert!(Slug::parse(&text).is_ok());
        }
    }
}
