//! The verdict on a presented API key: how it is found, and what its caller may learn of it.

use time::OffsetDateTime;

use super::{
    api_key::{ApiKey, ApiKeyScope},
    ids::TenantId,
    legacy_key::LegacyKeyHash,
};

/// What a presented key is found by.
#[derive(Debug, Clone)]
pub enum KeyLookup {
    /// The id of a key in the current format, whose secret is compared afterwards.
    Id(String),
    /// The hash of a whole key in the old format.
    LegacyHash(LegacyKeyHash),
}

/// A key that was found, with everything that the verdict depends on.
#[derive(Debug, Clone)]
pub struct StoredApiKey {
    pub key: ApiKey,
    pub tenant_slug: String,
    /// Argon2id in PHC format, or the text of a [`LegacyKeyHash`].
    pub secret_hash: String,
    pub tenant_is_active: bool,
    pub tenant_is_deleted: bool,
}

/// The result of verifying a secret key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyVerdict {
    /// Malformed, unknown, with a wrong secret, or of a deleted tenant. The caller does not learn which.
    Invalid,
    Authentic {
        status: KeyStatus,
        tenant_id: TenantId,
        tenant_slug: String,
        public_key: String,
        scope: ApiKeyScope,
    },
}

/// Whether an authentic key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    Valid,
    Expired,
    Revoked,
    TenantSuspended,
}

impl StoredApiKey {
    /// Returns the verdict for a caller that presented the correct secret. A permanent status takes precedence over a
    /// temporary one.
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
        let ApiKey { tenant_id, public_key, scope, .. } = self.key;
        KeyVerdict::Authentic { status, tenant_id, tenant_slug: self.tenant_slug, public_key, scope }
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use uuid::Uuid;

    use super::*;

    fn status(expires: Option<i64>, is_revoked: bool, is_active: bool, is_deleted: bool) -> Option<KeyStatus> {
        let now = OffsetDateTime::UNIX_EPOCH;
        let key = ApiKey {
            expires_at: expires.map(|micros| now + Duration::microseconds(micros)),
            revoked_at: is_revoked.then_some(now),
            ..ApiKey::new("pk".to_owned(), TenantId::from_uuid(Uuid::nil()), now)
        };
        let stored = StoredApiKey {
            key,
            tenant_slug: "bella".to_owned(),
            secret_hash: String::new(),
            tenant_is_active: is_active,
            tenant_is_deleted: is_deleted,
        };
        match stored.verdict(now) {
            KeyVerdict::Invalid => None,
            KeyVerdict::Authentic { status, .. } => Some(status),
        }
    }

    #[test]
    fn a_key_is_valid_until_the_moment_it_expires() {
        assert_eq!(status(None, false, true, false), Some(KeyStatus::Valid));
        assert_eq!(status(Some(1), false, true, false), Some(KeyStatus::Valid));
        assert_eq!(status(Some(0), false, true, false), Some(KeyStatus::Expired));
    }

    #[test]
    fn a_permanent_key_status_takes_precedence_over_a_temporary_one() {
        assert_eq!(status(None, false, false, false), Some(KeyStatus::TenantSuspended));
        assert_eq!(status(Some(-1), false, false, false), Some(KeyStatus::Expired));
        assert_eq!(status(Some(-1), true, false, false), Some(KeyStatus::Revoked));
        assert_eq!(status(Some(-1), true, false, true), None, "the key of a deleted tenant is invalid");
    }
}
