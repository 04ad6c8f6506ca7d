//! Claims on request ids: how a retry is told from a new call.

use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use super::{
    api_key::ApiKey, caller::Caller, package::Package, request_id::RequestId, segment::Segment, tenant::Tenant,
};

/// How long a repeat gets the secret again. As long, the request id is as secret as the key.
pub const SECRET_LIFETIME: Duration = Duration::hours(24);
/// How long a repeat is recognised.
pub const RECORD_LIFETIME: Duration = Duration::days(30);

/// 32 bytes: a SHA-256 or a salt.
pub type Bytes32 = [u8; 32];

/// The RPCs that can be repeated by request id; the items of a batch count as the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdempotentRpc {
    CreateFullyProvisioned,
    CreateFromSignup,
    RotateApiKey,
}

impl IdempotentRpc {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateFullyProvisioned => "CreateFullyProvisioned",
            Self::CreateFromSignup => "CreateFromSignup",
            Self::RotateApiKey => "RotateApiKey",
        }
    }
}

/// Within which a request id stands for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyScope {
    pub caller: Caller,
    pub rpc: IdempotentRpc,
}

/// A claim to be made. The request id itself stays behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIdempotencyRecord {
    pub request_hash: Bytes32,
    pub fingerprint: Fingerprint,
    pub salt: Bytes32,
}

/// What a request says, in 32 bytes. Never of a password: a fast hash of one would undo the slow one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub Bytes32);

impl Fingerprint {
    /// Of a request's fields in their order. Each goes in with its length, so that no two requests run together.
    pub fn compute(fields: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for field in fields {
            hash.update(field.len().to_be_bytes());
            hash.update(field);
        }
        Self(hash.finalize().into())
    }
}

impl NewIdempotencyRecord {
    pub fn new(request_id: &RequestId, fingerprint: Fingerprint, salt: Bytes32) -> Self {
        Self { request_hash: request_id.hash(), fingerprint, salt }
    }
}

/// A claim that was made before, and what it made, as that is now.
#[derive(Debug, Clone)]
pub struct IdempotencyRecord<Made> {
    pub request_hash: Bytes32,
    pub fingerprint: Fingerprint,
    pub salt: Option<Bytes32>,
    pub created_at: OffsetDateTime,
    /// `None` where somebody deleted it by hand.
    pub key: Option<ApiKey>,
    pub made: Made,
}

/// What a claimed creation made. What was deleted since is missing.
#[derive(Debug, Clone)]
pub struct CreatedTenant {
    pub tenant: Tenant,
    pub segment: Option<Segment>,
    pub packages: Vec<Package>,
    /// Of a sign-up.
    pub password_hash: Option<String>,
}

impl<Made> IdempotencyRecord<Made> {
    /// The salt and the public key to make the secret with again, while callers may have it: for 24 hours, and not after
    /// the key was rotated or revoked.
    pub fn secret_inputs(&self, now: OffsetDateTime) -> Option<(Bytes32, &str)> {
        let is_in_time = now < self.created_at + SECRET_LIFETIME;
        let key = self.key.as_ref().filter(|key| key.expires_at.is_none() && key.revoked_at.is_none())?;
        self.salt.filter(|_| is_in_time).map(|salt| (salt, key.public_key.as_str()))
    }
}

/// The answer to a repeated creation.
#[derive(Debug)]
pub struct Replay {
    pub made: CreatedTenant,
    pub secret_key: Option<SecretString>,
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::TenantId;

    #[test]
    fn fields_do_not_run_together() {
        assert_eq!(Fingerprint::compute(&[b"ab", b"c"]), Fingerprint::compute(&[b"ab", b"c"]));
        assert_ne!(Fingerprint::compute(&[b"ab", b"c"]), Fingerprint::compute(&[b"a", b"bc"]));
        assert_ne!(Fingerprint::compute(&[b"ab"]), Fingerprint::compute(&[b"ab", b""]));
    }

    #[test]
    fn the_secret_can_be_had_again_for_24_hours_unless_its_key_was_rotated_or_revoked() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let key = ApiKey {
            public_key: "pk".to_owned(),
            tenant_id: TenantId::from_uuid(Uuid::nil()),
            created_at: start,
            expires_at: None,
            revoked_at: None,
        };
        let claim = IdempotencyRecord {
            request_hash: [0; 32],
            fingerprint: Fingerprint([0; 32]),
            salt: Some([7; 32]),
            created_at: start,
            key: Some(key.clone()),
            made: (),
        };
        let last_moment = start + SECRET_LIFETIME - Duration::microseconds(1);
        assert_eq!(claim.secret_inputs(last_moment), Some(([7; 32], "pk")));
        assert_eq!(claim.secret_inputs(start + SECRET_LIFETIME), None);
        assert_eq!(IdempotencyRecord { salt: None, ..claim.clone() }.secret_inputs(start), None);
        assert_eq!(IdempotencyRecord { key: None, ..claim.clone() }.secret_inputs(start), None);
        let rotated = ApiKey { expires_at: Some(start + Duration::days(9)), ..key.clone() };
        assert_eq!(IdempotencyRecord { key: Some(rotated), ..claim.clone() }.secret_inputs(start), None);
        let revoked = ApiKey { revoked_at: Some(start), ..key };
        assert_eq!(IdempotencyRecord { key: Some(revoked), ..claim }.secret_inputs(start), None);
    }
}
