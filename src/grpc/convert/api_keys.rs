//! Messages about API keys after a tenant's first.

use prost_types::Duration as PbDuration;
use secrecy::{ExposeSecret, SecretString};
use time::Duration;

use super::{durations, timestamp};
use crate::{
    domain::{
        ApiKey, InvalidValue, KeyStatus, KeyVerdict, RequestId, TenantId, Violations,
        api_key::{KeyRotation, RotateApiKey},
    },
    grpc::pb,
};

const DEFAULT_OVERLAP: Duration = Duration::hours(24);
const MAX_OVERLAP: Duration = Duration::days(30);

impl TryFrom<pb::RotateApiKeyRequest> for RotateApiKey {
    type Error = Violations;

    fn try_from(request: pb::RotateApiKeyRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        let overlap = fields.check_optional("overlap", request.overlap, overlap).unwrap_or(DEFAULT_OVERLAP);
        let request_id = fields.check_optional("request_id", request.request_id, |text| RequestId::parse(&text));
        fields.into_result(|| Some(Self { tenant_id: tenant_id?, overlap, request_id }))
    }
}

fn overlap(message: PbDuration) -> Result<Duration, InvalidValue> {
    durations::parse(message, &(Duration::ZERO..=MAX_OVERLAP), "must be between 0 and 30 days")
}

impl From<KeyRotation> for pb::RotateApiKeyResponse {
    fn from(rotation: KeyRotation) -> Self {
        Self {
            api_key: Some(rotation.api_key.into()),
            secret_key: rotation.secret_key.map(|secret| secret.expose_secret().to_owned()).unwrap_or_default(),
            replayed: rotation.replayed,
        }
    }
}

/// A malformed key is not a violation: the verdict of an invalid key is the response.
impl TryFrom<pb::VerifyApiKeyRequest> for SecretString {
    type Error = Violations;

    fn try_from(request: pb::VerifyApiKeyRequest) -> Result<Self, Violations> {
        Ok(request.secret_key.into())
    }
}

impl From<KeyVerdict> for pb::VerifyApiKeyResponse {
    fn from(verdict: KeyVerdict) -> Self {
        let KeyVerdict::Authentic { status, tenant_id, tenant_slug, public_key } = verdict else {
            return Self { verdict: pb::Verdict::Invalid.into(), ..Self::default() };
        };
        let verdict = match status {
            KeyStatus::Valid => pb::Verdict::Valid,
            KeyStatus::Expired => pb::Verdict::Expired,
            KeyStatus::Revoked => pb::Verdict::Revoked,
            KeyStatus::TenantSuspended => pb::Verdict::TenantSuspended,
        };
        Self { verdict: verdict.into(), tenant_id: tenant_id.to_string(), tenant_slug, public_key }
    }
}

impl From<ApiKey> for pb::ApiKey {
    fn from(key: ApiKey) -> Self {
        Self {
            public_key: key.public_key,
            tenant_id: key.tenant_id.to_string(),
            created_at: Some(timestamp(key.created_at)),
            expires_at: key.expires_at.map(timestamp),
            revoked_at: key.revoked_at.map(timestamp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Reason;

    #[test]
    fn an_overlap_is_between_zero_and_thirty_days() {
        let parsed = |seconds, nanos| overlap(PbDuration { seconds, nanos }).map_err(|invalid| invalid.reason);
        assert_eq!(parsed(0, 0), Ok(Duration::ZERO));
        assert_eq!(parsed(1, 500_000_000), Ok(Duration::milliseconds(1_500)));
        assert_eq!(parsed(2_592_000, 0), Ok(Duration::days(30)));
        assert_eq!(parsed(2_592_000, 1), Err(Reason::OutOfRange));
        assert_eq!(parsed(i64::MAX, 0), Err(Reason::OutOfRange));
        assert_eq!(parsed(0, -1), Err(Reason::OutOfRange));
        assert_eq!(parsed(i64::MIN, -1), Err(Reason::OutOfRange));
        assert_eq!(parsed(1, -1), Err(Reason::BadFormat));
        assert_eq!(parsed(0, 1_000_000_000), Err(Reason::BadFormat));
        assert_eq!(parsed(0, i32::MIN), Err(Reason::BadFormat));
    }
}
