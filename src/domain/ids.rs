//! Ids: UUIDv7 (RFC 9562), written in lower case only, so that each id has one text form. `service` generates them.

use std::fmt;

use serde::Deserialize;
use uuid::Uuid;

use super::validation::{InvalidValue, Reason};

/// Accepts only the hyphenated lower-case form, but any version: an id that Turnkey did not create is well-formed and
/// not found.
fn parse_uuid(text: &str) -> Result<Uuid, InvalidValue> {
    if text.is_empty() {
        return Err(InvalidValue::missing());
    }
    let mut buffer = Uuid::encode_buffer();
    match Uuid::try_parse(text) {
        Ok(uuid) if uuid.hyphenated().encode_lower(&mut buffer) == text => Ok(uuid),
        _ => Err(InvalidValue::new(Reason::BadFormat, "must be a UUID in lower-case text with hyphens")),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
        pub struct $name(Uuid);

        impl $name {
            /// # Errors
            /// `MISSING_FIELD` for an empty text, `BAD_FORMAT` for any other text that is not a lower-case UUID.
            pub fn parse(text: &str) -> Result<Self, InvalidValue> {
                parse_uuid(text).map(Self)
            }

            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One business on the platform.
    TenantId
);
id!(
    /// A segment. Unique by itself, but always used together with its [`TenantId`].
    SegmentId
);
id!(
    /// A package. Unique by itself, but always used together with its [`TenantId`].
    PackageId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_text_form() {
        let text = "0192b1a0-7c3e-7def-8123-456789abcdef";
        assert_eq!(TenantId::parse(text).unwrap().to_string(), text);
        for other in [
            "0192B1A0-7C3E-7DEF-8123-456789ABCDEF",
            "0192b1a07c3e7def8123456789abcdef",
            "{0192b1a0-7c3e-7def-8123-456789abcdef}",
            "urn:uuid:0192b1a0-7c3e-7def-8123-456789abcdef",
            "0192b1a0-7c3e-7def-8123-456789abcde",
            "bella-weddings",
            " ",
        ] {
            assert_eq!(TenantId::parse(other).unwrap_err().reason, Reason::BadFormat, "{other}");
        }
        assert_eq!(TenantId::parse("").unwrap_err().reason, Reason::MissingField);
    }
}
