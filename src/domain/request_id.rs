//! The id that a caller assigns to a call, so that a retry of the call is recognized.

use std::fmt;

use sha2::{Digest as _, Sha256};
use uuid::{Uuid, Variant};
use zeroize::ZeroizeOnDrop;

use super::{
    idempotency::Sha256Digest,
    validation::{InvalidValue, Reason},
};

/// A UUIDv4 chosen by the caller. For 24 hours, and from a dump of the database from within them at any time, a key's
/// secret can be derived with it. So it is a secret itself: it has no `Display`, its `Debug` does not show it, and its
/// memory is zeroed on drop.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// # Errors
    /// `BAD_FORMAT` for everything but a hyphenated UUID of version 4, in either case.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        const HYPHENATED_LENGTH: usize = 36;
        match Uuid::try_parse(text) {
            Ok(uuid)
                if text.len() == HYPHENATED_LENGTH
                    && uuid.get_version_num() == 4
                    && uuid.get_variant() == Variant::RFC4122 =>
            {
                Ok(Self(uuid.into_bytes()))
            }
            _ => Err(InvalidValue::new(Reason::BadFormat, "must be a UUID of version 4")),
        }
    }

    /// Returns the SHA-256 of the id. The id itself is not stored.
    pub fn hash(&self) -> Sha256Digest {
        Sha256::digest(self.0).into()
    }

    pub const fn expose(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestId([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hyphenated_uuid_of_version_4_is_a_request_id() {
        assert!(RequestId::parse("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").is_ok());
        assert!(RequestId::parse("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11").is_ok());
        for other in [
            "",
            "retry-1",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "0192b1a0-7c3e-7def-8123-456789abcdef",
            "a0eebc99-9c0b-4ef8-cb6d-6bb9bd380a11",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert_eq!(RequestId::parse(other).unwrap_err().reason, Reason::BadFormat, "{other}");
        }
    }

    #[test]
    fn debug_output_does_not_show_the_request_id() {
        let id = RequestId::parse("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").unwrap();
        assert_eq!(format!("{id:?}"), "RequestId([redacted])");
    }
}
