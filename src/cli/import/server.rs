//! The calls of an import through a server. Each is one attempt: [`super`] sends a failed batch again.

use std::time::Duration;

use secrecy::SecretString;
use time::OffsetDateTime;
use turnkey_client::{
    Client, RetryPolicy,
    pb::{self, batch_create_fully_provisioned_result::Result as BatchResult},
    well_known,
};

use super::{
    Error,
    target::{CreatedTenant, RotatedKey},
};
use crate::{
    cli::{client, retry::AttemptError},
    config::{ClientSettings, ServerUrl},
    domain::{ApiKey, CreateFullyProvisioned, RequestId, TenantId, api_key::RotateApiKey, paging::PageSize},
};

/// The server ends a call after this time.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Of items that can succeed in another call.
const RETRYABLE_CODES: [&str; 4] = ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "DEADLINE_EXCEEDED"];

pub struct Server(Client);

impl Server {
    pub async fn connect(url: ServerUrl, settings: ClientSettings) -> Result<Self, Error> {
        let client = client::connect(url, settings).await?;
        Ok(Self(client.with_retry(RetryPolicy::once(CALL_TIMEOUT))))
    }

    /// Returns a result for each request, in order. The inner errors are messages of single items. An item that can
    /// succeed in a retry of the call fails the call.
    pub async fn batch_create_fully_provisioned(
        &self,
        requests: &[CreateFullyProvisioned],
    ) -> Result<Vec<Result<CreatedTenant, String>>, AttemptError> {
        let items = requests.iter().map(|request| pb::CreateFullyProvisionedRequest {
            slug: request.slug.to_string(),
            name: request.name.as_str().to_owned(),
            commission_percent: Some(request.commission.as_f64()),
            request_id: request.request_id.as_ref().map(id_text),
            validate_only: request.validate_only,
            ..Default::default()
        });
        let request = pb::BatchCreateFullyProvisionedRequest { requests: items.collect() };
        let results = self.0.send(request).await?.results;
        if results.len() != requests.len() {
            return Err(invalid("the number of results differs from that of the requests"));
        }
        results.into_iter().map(|result| row_result(result.result)).collect()
    }

    pub async fn rotate_api_key(&self, rotation: &RotateApiKey) -> Result<RotatedKey, AttemptError> {
        let request = pb::RotateApiKeyRequest {
            tenant_id: rotation.tenant_id.to_string(),
            overlap: Some(well_known::Duration {
                seconds: rotation.overlap.whole_seconds(),
                nanos: rotation.overlap.subsec_nanoseconds(),
            }),
            request_id: rotation.request_id.as_ref().map(id_text),
            public_key: rotation.public_key.as_ref().map(|key| key.as_str().to_owned()),
        };
        let response = self.0.send(request).await?;
        let key = response.api_key.ok_or_else(|| invalid("no API key"))?;
        Ok(RotatedKey { public_key: key.public_key, secret_key: secret_key(response.secret_key) })
    }

    /// Returns the tenant's newest keys, newest first, as many as a page has.
    pub async fn list_api_keys(&self, tenant_id: TenantId, size: PageSize) -> Result<Vec<ApiKey>, AttemptError> {
        let page_size = i32::try_from(size.get()).unwrap_or(i32::MAX);
        let request = pb::ListApiKeysRequest { tenant_id: tenant_id.to_string(), page_size, page_token: String::new() };
        self.0.send(request).await?.api_keys.into_iter().map(|key| api_key(tenant_id, key)).collect()
    }
}

impl From<turnkey_client::Error> for AttemptError {
    fn from(error: turnkey_client::Error) -> Self {
        Self { retryable: error.is_retryable(), cause: format!("the server returned {error}").into() }
    }
}

fn row_result(result: Option<BatchResult>) -> Result<Result<CreatedTenant, String>, AttemptError> {
    match result {
        Some(BatchResult::Provisioned(created)) => {
            let tenant = created.tenant.ok_or_else(|| invalid("no tenant"))?;
            let tenant_id = TenantId::parse(&tenant.id).map_err(|_invalid| invalid("no tenant id"))?;
            let created_at = creation_time(tenant.created_at)?;
            Ok(Ok(CreatedTenant { tenant_id, created_at, secret_key: secret_key(created.secret_key) }))
        }
        Some(BatchResult::Error(error)) if RETRYABLE_CODES.contains(&error.code.as_str()) => {
            let cause = format!("the server returned {} / {}: {}", error.code, error.reason, error.message);
            Err(AttemptError { retryable: true, cause: cause.into() })
        }
        Some(BatchResult::Error(error)) => Ok(Err(format!("{}: {}", error.reason, error.message))),
        None => Err(invalid("an empty result")),
    }
}

fn invalid(what: &str) -> AttemptError {
    AttemptError::permanent(format!("invalid response from the server: {what}"))
}

fn id_text(id: &RequestId) -> String {
    uuid::Uuid::from_bytes(*id.expose()).to_string()
}

fn secret_key(text: String) -> Option<SecretString> {
    (!text.is_empty()).then(|| text.into())
}

fn creation_time(timestamp: Option<well_known::Timestamp>) -> Result<OffsetDateTime, AttemptError> {
    timestamp.map(time).transpose()?.ok_or_else(|| invalid("no creation time"))
}

fn api_key(tenant_id: TenantId, key: pb::ApiKey) -> Result<ApiKey, AttemptError> {
    let created_at = creation_time(key.created_at)?;
    let (expires_at, revoked_at) = (key.expires_at.map(time).transpose()?, key.revoked_at.map(time).transpose()?);
    Ok(ApiKey { expires_at, revoked_at, ..ApiKey::new(key.public_key, tenant_id, created_at) })
}

fn time(timestamp: well_known::Timestamp) -> Result<OffsetDateTime, AttemptError> {
    let nanos = i128::from(timestamp.seconds) * 1_000_000_000 + i128::from(timestamp.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_range| invalid("a time out of range"))
}
