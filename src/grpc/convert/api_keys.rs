//! API keys after the first.

use prost_types::Duration as PbDuration;
use secrecy::{ExposeSecret, SecretString};
use time::Duration;

use super::{tenants::tenant_id, timestamp};
use crate::{
    domain::{
        ApiKey, InvalidValue, KeyStatus, KeyVerdict, PublicKey, Reason, RequestId, TenantId, Violations,
        api_key::{KeyRotation, RotateApiKey},
    },
    error::Result,
    grpc::pb,
};

const DEFAULT_OVERLAP: Duration = Duration::hours(24);
const MAX_OVERLAP: Duration = Duration::days(30);

pub fn rotate_api_key(request: pb::RotateApiKeyRequest) -> Result<RotateApiKey> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
    let overlap = fields.check_optional("overlap", request.overlap, overlap);
    let request_id = fields.check_optional("request_id", request.request_id, |text| RequestId::parse(&text));
    Ok(fields.finish(|| {
        let overlap = overlap?.unwrap_or(DEFAULT_OVERLAP);
        Some(RotateApiKey { tenant_id: tenant_id?, overlap, request_id: request_id? })
    })?)
}

fn overlap(message: PbDuration) -> std::result::Result<Duration, InvalidValue> {
    let (seconds, nanos) = (message.seconds, message.nanos);
    let is_normal =
        nanos.unsigned_abs() < 1_000_000_000 && (seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0));
    if !is_normal {
        return Err(InvalidValue::new(Reason::BadFormat, "must be a duration whose parts have one sign"));
    }
    let overlap = Duration::new(seconds, nanos);
    if overlap.is_negative() || overlap > MAX_OVERLAP {
        return Err(InvalidValue::new(Reason::OutOfRange, "must be between 0 and 30 days"));
    }
    Ok(overlap)
}

pub fn rotate_api_key_response(rotated: KeyRotation) -> pb::RotateApiKeyResponse {
    pb::RotateApiKeyResponse {
        api_key: Some(api_key(rotated.api_key)),
        secret_key: rotated.secret_key.map(|secret| secret.expose_secret().to_owned()).unwrap_or_default(),
        replayed: rotated.replayed,
    }
}

pub fn list_api_keys(request: pb::ListApiKeysRequest) -> Result<TenantId> {
    tenant_id(&request.tenant_id)
}

pub fn list_api_keys_response(keys: Vec<ApiKey>) -> pb::ListApiKeysResponse {
    pb::ListApiKeysResponse { api_keys: keys.into_iter().map(api_key).collect() }
}

pub fn revoke_api_key(request: pb::RevokeApiKeyRequest) -> Result<(TenantId, PublicKey)> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
    let public_key = fields.check("public_key", PublicKey::parse(&request.public_key));
    Ok(fields.finish(|| Some((tenant_id?, public_key?)))?)
}

pub fn revoke_api_key_response(revoked: ApiKey) -> pb::RevokeApiKeyResponse {
    pb::RevokeApiKeyResponse { api_key: Some(api_key(revoked)) }
}

pub fn verify_api_key(request: pb::VerifyApiKeyRequest) -> Result<SecretString> {
    Ok(request.secret_key.into())
}

pub fn verify_api_key_response(verdict: KeyVerdict) -> pb::VerifyApiKeyResponse {
    match verdict {
        KeyVerdict::Invalid => {
            pb::VerifyApiKeyResponse { verdict: pb::Verdict::Invalid.into(), ..pb::VerifyApiKeyResponse::default() }
        }
        KeyVerdict::Authentic { status, tenant_id, tenant_slug, public_key } => {
            let verdict = match status {
                KeyStatus::Valid => pb::Verdict::Valid,
                KeyStatus::Expired => pb::Verdict::Expired,
                KeyStatus::Revoked => pb::Verdict::Revoked,
                KeyStatus::TenantSuspended => pb::Verdict::TenantSuspended,
            };
            let tenant_id = tenant_id.to_string();
            pb::VerifyApiKeyResponse { verdict: verdict.into(), tenant_id, tenant_slug, public_key }
        }
    }
}

pub(super) fn api_key(key: ApiKey) -> pb::ApiKey {
    pb::ApiKey {
        public_key: key.public_key,
        tenant_id: key.tenant_id.to_string(),
        created_at: Some(timestamp(key.created_at)),
        expires_at: key.expires_at.map(timestamp),
        revoked_at: key.revoked_at.map(timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_between_nothing_and_thirty_days() {
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
