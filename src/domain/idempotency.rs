//! Idempotency records, which distinguish a repeated call from a new one. The derivation of a secret from a record is
//! in `secrets`.

use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use strum::IntoStaticStr;
use time::{Duration, OffsetDateTime};

use super::{actor::Actor, api_key::ApiKey, package::Package, request_id::RequestId, segment::Segment, tenant::Tenant};

/// How long a repeated call returns the secret. A dump of the database from within this time contains the salt, so that
/// the request id stays a secret for as long as such a dump exists.
pub const SECRET_LIFETIME: Duration = Duration::hours(24);
/// How long a repeated call is recognized.
pub const RECORD_LIFETIME: Duration = Duration::days(30);

pub type Sha256Digest = [u8; 32];
pub type Salt = [u8; 32];

/// The RPCs that take a request id. The items of a batch count as `CreateFullyProvisioned`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
pub enum IdempotentRpc {
    CreateFullyProvisioned,
    CreateFromSignup,
    CreateApiKey,
    RotateApiKey,
}

impl IdempotentRpc {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Within a scope, a request id identifies one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyScope {
    /// Its caller, not its trace, belongs to the scope.
    pub actor: Actor,
    pub rpc: IdempotentRpc,
}

/// A record to be written. It does not contain the request id itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIdempotencyRecord {
    pub request_hash: Sha256Digest,
    pub fingerprint: Fingerprint,
    pub salt: Salt,
}

/// A SHA-256 of a request's content without the password: a fast hash of a password would make its slow hash pointless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub Sha256Digest);

impl Fingerprint {
    /// Hashes the fields of a request in order. Each is preceded by its length, so that different fields with the same
    /// concatenation have different fingerprints.
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
    pub fn new(request_id: &RequestId, fingerprint: Fingerprint, salt: Salt) -> Self {
        Self { request_hash: request_id.hash(), fingerprint, salt }
    }
}

/// The record of an earlier call, and the current state of what that call created.
#[derive(Debug, Clone)]
pub struct IdempotencyRecord<T> {
    pub request_hash: Sha256Digest,
    pub fingerprint: Fingerprint,
    /// Deleted after [`SECRET_LIFETIME`].
    pub salt: Option<Salt>,
    pub created_at: OffsetDateTime,
    /// `None` if the key was deleted outside the service. If the service has deleted it, the key as it was then.
    pub key: Option<ApiKey>,
    pub created: T,
}

/// What a create call created. Parts that have been deleted since then are missing.
#[derive(Debug, Clone)]
pub struct CreatedTenant {
    pub tenant: Tenant,
    pub segment: Option<Segment>,
    pub packages: Vec<Package>,
    /// Only for a sign-up.
    pub password_hash: Option<String>,
    /// The bytes of all texts, as the database measures them.
    pub text_bytes: usize,
}

impl<T> IdempotencyRecord<T> {
    /// Returns the salt and the public key from which the secret is derived, for 24 hours and only while the key is
    /// neither rotated nor revoked.
    pub fn secret_inputs(&self, now: OffsetDateTime) -> Option<(Salt, &str)> {
        let is_in_time = now < self.created_at + SECRET_LIFETIME;
        let key = self.key.as_ref().filter(|key| key.rotated_at.is_none() && key.revoked_at.is_none())?;
        self.salt.filter(|_| is_in_time).map(|salt| (salt, key.public_key.as_str()))
    }
}

/// The result of a repeated create call.
#[derive(Debug)]
pub struct Replay {
    pub created: CreatedTenant,
    /// `None` once the secret can no longer be derived.
    pub secret_key: Option<SecretString>,
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::TenantId;

    #[test]
    fn fields_with_the_same_concatenation_have_different_fingerprints() {
        assert_eq!(Fingerprint::compute(&[b"ab", b"c"]), Fingerprint::compute(&[b"ab", b"c"]));
        assert_ne!(Fingerprint::compute(&[b"ab", b"c"]), Fingerprint::compute(&[b"a", b"bc"]));
        assert_ne!(Fingerprint::compute(&[b"ab"]), Fingerprint::compute(&[b"ab", b""]));
    }

    #[test]
    fn the_secret_can_be_derived_for_24_hours_unless_its_key_is_rotated_or_revoked() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let key = ApiKey::new("pk".to_owned(), TenantId::from_uuid(Uuid::nil()), start);
        let record = IdempotencyRecord {
            request_hash: [0; 32],
            fingerprint: Fingerprint([0; 32]),
            salt: Some([7; 32]),
            created_at: start,
            key: Some(key.clone()),
            created: (),
        };
        let last_moment = start + SECRET_LIFETIME - Duration::microseconds(1);
        assert_eq!(record.secret_inputs(last_moment), Some(([7; 32], "pk")));
        assert_eq!(record.secret_inputs(start + SECRET_LIFETIME), None);
        assert_eq!(IdempotencyRecord { salt: None, ..record.clone() }.secret_inputs(start), None);
        assert_eq!(IdempotencyRecord { key: None, ..record.clone() }.secret_inputs(start), None);
        let with_expiry = ApiKey { expires_at: Some(start + Duration::days(9)), ..key.clone() };
        let with_expiry = IdempotencyRecord { key: Some(with_expiry), ..record.clone() };
        assert_eq!(with_expiry.secret_inputs(start), Some(([7; 32], "pk")), "the expiry it was created with");
        let rotated = ApiKey { rotated_at: Some(start), ..key.clone() };
        assert_eq!(IdempotencyRecord { key: Some(rotated), ..record.clone() }.secret_inputs(start), None);
        let revoked = ApiKey { revoked_at: Some(start), ..key };
        assert_eq!(IdempotencyRecord { key: Some(revoked), ..record }.secret_inputs(start), None);
    }
}
