//! Messages about API keys after a tenant's first.

use prost_types::{Duration as PbDuration, Timestamp};
use secrecy::SecretString;
use time::{Duration, OffsetDateTime};

use super::{durations, timestamp};
use crate::{
    domain::{
        ApiKey, ApiKeyScope, DisplayName, InvalidValue, KeyStatus, KeyVerdict, PublicKey, Reason, RequestId, TenantId,
        Violations,
        api_key::{CreateApiKey, ListApiKeys, RotateApiKey},
        paging::PageSize,
    },
    grpc::pb,
};

const DEFAULT_OVERLAP: Duration = Duration::hours(24);
const MAX_OVERLAP: Duration = Duration::days(30);

impl TryFrom<pb::CreateApiKeyRequest> for CreateApiKey {
    type Error = Violations;

    fn try_from(request: pb::CreateApiKeyRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        let name = fields.check_optional("name", request.name, |name| DisplayName::parse(&name));
        let scope = fields.check("scope", scope(request.scope));
        let expires_at = fields.check_optional("expires_at", request.expires_at, parse_timestamp);
        let request_id = fields.check_optional("request_id", request.request_id, |text| RequestId::parse(&text));
        fields.into_result(|| Some(Self { tenant_id: tenant_id?, name, scope: scope?, expires_at, request_id }))
    }
}

fn scope(number: i32) -> Result<ApiKeyScope, InvalidValue> {
    match pb::ApiKeyScope::try_from(number) {
        Ok(pb::ApiKeyScope::Unspecified) => Ok(ApiKeyScope::default()),
        Ok(pb::ApiKeyScope::Catalog) => Ok(ApiKeyScope::Catalog),
        Ok(pb::ApiKeyScope::CatalogRead) => Ok(ApiKeyScope::CatalogRead),
        Err(_) => Err(InvalidValue::new(Reason::BadFormat, "must be a known API key scope")),
    }
}

/// Returns the time in microseconds, the precision of Postgres.
pub(super) fn parse_timestamp(message: Timestamp) -> Result<OffsetDateTime, InvalidValue> {
    let out_of_range = InvalidValue::new(Reason::OutOfRange, "must be a time in the years 1 to 9999");
    let nanos = u32::try_from(message.nanos).ok().filter(|&nanos| nanos < 1_000_000_000);
    let Some(nanos) = nanos else {
        return Err(InvalidValue::new(Reason::BadFormat, "must have nanos from 0 to 999,999,999"));
    };
    let time = OffsetDateTime::from_unix_timestamp(message.seconds).ok().filter(|time| time.year() >= 1);
    time.and_then(|time| time.replace_nanosecond(nanos / 1_000 * 1_000).ok()).ok_or(out_of_range)
}

impl TryFrom<pb::RotateApiKeyRequest> for RotateApiKey {
    type Error = Violations;

    fn try_from(request: pb::RotateApiKeyRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        let overlap = fields.check_optional("overlap", request.overlap, overlap).unwrap_or(DEFAULT_OVERLAP);
        let request_id = fields.check_optional("request_id", request.request_id, |text| RequestId::parse(&text));
        let public_key = fields.check_optional("public_key", request.public_key, |text| PublicKey::parse(&text));
        fields.into_result(|| Some(Self { tenant_id: tenant_id?, public_key, overlap, request_id }))
    }
}

impl TryFrom<pb::ListApiKeysRequest> for (TenantId, ListApiKeys) {
    type Error = Violations;

    fn try_from(request: pb::ListApiKeysRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        let size = fields.check("page_size", PageSize::parse(request.page_size));
        let after = tenant_id.and_then(|tenant_id| {
            fields.check("page_token", ListApiKeys::page_token_scope(tenant_id).decode(&request.page_token))
        });
        fields.into_result(|| Some((tenant_id?, ListApiKeys { size: size?, after: after? })))
    }
}

fn overlap(message: PbDuration) -> Result<Duration, InvalidValue> {
    durations::parse(message, &(Duration::ZERO..=MAX_OVERLAP), "must be between 0 and 30 days")
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
        let KeyVerdict::Authentic { status, tenant_id, tenant_slug, public_key, scope } = verdict else {
            return Self { verdict: pb::Verdict::Invalid.into(), ..Self::default() };
        };
        let verdict = match status {
            KeyStatus::Valid => pb::Verdict::Valid,
            KeyStatus::Expired => pb::Verdict::Expired,
            KeyStatus::Revoked => pb::Verdict::Revoked,
            KeyStatus::TenantSuspended => pb::Verdict::TenantSuspended,
        };
        let scope = pb::ApiKeyScope::from(scope).into();
        Self { verdict: verdict.into(), tenant_id: tenant_id.to_string(), tenant_slug, public_key, scope }
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
            name: key.name,
            scope: pb::ApiKeyScope::from(key.scope).into(),
            last_used_at: key.last_used_at.map(timestamp),
        }
    }
}

impl From<ApiKeyScope> for pb::ApiKeyScope {
    fn from(scope: ApiKeyScope) -> Self {
        match scope {
            ApiKeyScope::Catalog => Self::Catalog,
            ApiKeyScope::CatalogRead => Self::CatalogRead,
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
