//! What can be said of an API key without its secret.

use secrecy::SecretString;
use time::{Duration, OffsetDateTime};

use super::{
    idempotency::Fingerprint,
    ids::TenantId,
    request_id::RequestId,
    validation::{InvalidValue, Reason},
};

/// Base62 digits of a key's id.
pub const KEY_ID_LENGTH: usize = 16;
/// The longest stem: the slug up to its first `-`, cut here. Enough for a person to recognise whose key it is.
pub const STEM_MAX_LENGTH: usize = 16;

/// Whether keys open the real platform or a rehearsal of it; stands in every key as `live` or `test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyMode {
    #[default]
    Live,
    Test,
}

impl KeyMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

impl std::str::FromStr for KeyMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "live" => Ok(Self::Live),
            "test" => Ok(Self::Test),
            _ => Err("must be live or test"),
        }
    }
}

/// The id in a key without its `pk_` or `sk_` and without its secret: `<mode>_<stem>_<keyid>`.
pub fn parse_key_id(name: &str) -> Option<&str> {
    let mut parts = name.split('_');
    let (mode, stem, key_id) = (parts.next()?, parts.next()?, parts.next()?);
    let is_well_formed = parts.next().is_none()
        && mode.parse::<KeyMode>().is_ok()
        && (1..=STEM_MAX_LENGTH).contains(&stem.len())
        && stem.bytes().all(|ch| ch.is_ascii_lowercase() || ch.is_ascii_digit())
        && key_id.len() == KEY_ID_LENGTH
        && key_id.bytes().all(|digit| digit.is_ascii_alphanumeric());
    is_well_formed.then_some(key_id)
}

/// The public half of a key, `pk_live_<stem>_<keyid>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(String);

impl PublicKey {
    const PREFIX: &str = "pk_";

    /// # Errors
    /// `BAD_FORMAT`; the sentence never repeats the text, which may be a secret key by mistake.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::missing());
        }
        match text.strip_prefix(Self::PREFIX).and_then(parse_key_id) {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err(InvalidValue::new(
                Reason::BadFormat,
                "must be a public key, such as pk_live_bella_4fT9cQ2mXw7LzR1k",
            )),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the key is found by.
    pub fn key_id(&self) -> &str {
        &self.0[self.0.len() - KEY_ID_LENGTH..]
    }
}

/// A key as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub public_key: String,
    pub tenant_id: TenantId,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub revoked_at: Option<OffsetDateTime>,
}

/// A caller's wish for another key.
#[derive(Debug, Clone)]
pub struct RotateApiKey {
    pub tenant_id: TenantId,
    /// How long the older keys go on.
    pub overlap: Duration,
    pub request_id: Option<RequestId>,
}

impl RotateApiKey {
    pub fn fingerprint(&self) -> Fingerprint {
        let overlap = self.overlap.whole_nanoseconds().to_be_bytes();
        Fingerprint::compute(&[self.tenant_id.as_uuid().as_bytes(), &overlap])
    }
}

/// What came of that.
#[derive(Debug)]
pub struct KeyRotation {
    pub api_key: ApiKey,
    /// `None` where a repeat comes too late for it.
    pub secret_key: Option<SecretString>,
    pub replayed: bool,
}

/// A key that was found by its id, with all that a verdict hangs on.
#[derive(Debug, Clone)]
pub struct StoredApiKey {
    pub key: ApiKey,
    pub tenant_slug: String,
    /// Argon2id in PHC form.
    pub secret_hash: String,
    pub tenant_is_active: bool,
    pub tenant_is_deleted: bool,
}

/// Whose a presented secret is, and what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyVerdict {
    /// Malformed, unknown, wrong, or of a deleted tenant. Which of these is not told.
    Invalid,
    Authentic {
        status: KeyStatus,
        tenant_id: TenantId,
        tenant_slug: String,
        public_key: String,
    },
}

/// What the right secret of a living tenant is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    Valid,
    Expired,
    Revoked,
    TenantSuspended,
}

impl StoredApiKey {
    /// The verdict on the right secret of this key at this moment. What is final comes before what may pass.
    pub fn verdict(self, now: OffsetDateTime) -> KeyVerdict {
        if self.tenant_is_deleted {
            return KeyVerdict::Invalid;
        }
        let status = if self.key.revoked_at.is_some() {
            KeyStatus::Revoked
        } else if self.key.expires_at.is_some_and(|end| end <= now) {
            KeyStatus::Expired
        } else if self.tenant_is_active {
            KeyStatus::Valid
        } else {
            KeyStatus::TenantSuspended
        };
        let ApiKey { tenant_id, public_key, .. } = self.key;
        KeyVerdict::Authentic { status, tenant_id, tenant_slug: self.tenant_slug, public_key }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_public_key_has_one_form() {
        let key = PublicKey::parse("pk_live_bella_4fT9cQ2mXw7LzR1k").unwrap();
        assert_eq!(key.key_id(), "4fT9cQ2mXw7LzR1k");
        assert!(PublicKey::parse("pk_test_b2_4fT9cQ2mXw7LzR1k").is_ok());
        assert_eq!(PublicKey::parse("").unwrap_err().reason, Reason::MissingField);
        for other in [
            "pk_live_bella_4fT9cQ2mXw7LzR1",
            "pk_live_bella_4fT9cQ2mXw7LzR1kk",
            "pk_live_bella_4fT9cQ2mXw7Lz-1k",
            "pk_live__4fT9cQ2mXw7LzR1k",
            "pk_live_photographyandmor_4fT9cQ2mXw7LzR1k",
            "pk_dead_bella_4fT9cQ2mXw7LzR1k",
            "pk_live_Bella_4fT9cQ2mXw7LzR1k",
            "sk_live_bella_4fT9cQ2mXw7LzR1k",
            "pk_live_bella_4fT9cQ2mXw7LzR1k_secret",
            "bella",
        ] {
            assert_eq!(PublicKey::parse(other).unwrap_err().reason, Reason::BadFormat, "{other}");
        }
    }

    fn found(expires: Option<i64>, is_revoked: bool, is_active: bool, is_deleted: bool) -> Option<KeyStatus> {
        let now = OffsetDateTime::UNIX_EPOCH;
        let key = ApiKey {
            public_key: "pk".to_owned(),
            tenant_id: TenantId::from_uuid(Uuid::nil()),
            created_at: now,
            expires_at: expires.map(|micros| now + Duration::microseconds(micros)),
            revoked_at: is_revoked.then_some(now),
        };
        let found = StoredApiKey {
            key,
            tenant_slug: "bella".to_owned(),
            secret_hash: String::new(),
            tenant_is_active: is_active,
            tenant_is_deleted: is_deleted,
        };
        match found.verdict(now) {
            KeyVerdict::Invalid => None,
            KeyVerdict::Authentic { status, .. } => Some(status),
        }
    }

    #[test]
    fn a_key_is_good_up_to_the_moment_it_expires() {
        assert_eq!(found(None, false, true, false), Some(KeyStatus::Valid));
        assert_eq!(found(Some(1), false, true, false), Some(KeyStatus::Valid));
        assert_eq!(found(Some(0), false, true, false), Some(KeyStatus::Expired));
    }

    #[test]
    fn what_is_final_comes_before_what_may_pass() {
        assert_eq!(found(None, false, false, false), Some(KeyStatus::TenantSuspended));
        assert_eq!(found(Some(-1), false, false, false), Some(KeyStatus::Expired));
        assert_eq!(found(Some(-1), true, false, false), Some(KeyStatus::Revoked));
        assert_eq!(found(Some(-1), true, false, true), None, "a deleted tenant's key tells nothing");
    }
}
