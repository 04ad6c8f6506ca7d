//! A client of `TenantProvisioning`, with the RPCs that `turnkey import` needs.

use std::time::Duration;

use http::{Uri, uri::Scheme};
use prost_types::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::{
    pb::{self, tenant_provisioning_client::TenantProvisioningClient},
    status::code_name,
};
use crate::domain::{ApiKey, CreateFullyProvisioned, TenantId, api_key::RotateApiKey, paging::PageSize};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach the server")]
    Connect(#[from] tonic::transport::Error),
    #[error("the token contains characters that a header cannot")]
    Token,
    #[error("the server returned {}: {}", code_name(.0.code()), .0.message())]
    Status(Status),
    #[error("invalid response from the server: {0}")]
    InvalidResponse(&'static str),
}

const RETRYABLE_CODES: [Code; 4] = [Code::Unavailable, Code::ResourceExhausted, Code::Aborted, Code::DeadlineExceeded];

impl ClientError {
    /// Whether a retry of the same call can succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Status(status) => RETRYABLE_CODES.contains(&status.code()) || is_broken_connection(status),
            Self::Token | Self::InvalidResponse(_) => false,
        }
    }
}

// Not `#[from]`, which would also make the status a source: the message already contains all of it.
impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// Returns the code with this name if a retry can succeed.
fn retryable_code(name: &str) -> Option<Code> {
    RETRYABLE_CODES.into_iter().find(|code| code_name(*code) == name)
}

/// Whether the status was created by this client because the connection broke during the call.
fn is_broken_connection(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Cancelled | Code::Internal)
        && std::error::Error::source(status).is_some()
}

/// A tenant that a call created, and the secret of its first key.
pub struct CreatedTenant {
    pub tenant_id: TenantId,
    /// The first key has the same time.
    pub created_at: OffsetDateTime,
    /// `None` if the server replayed a request whose secret has expired.
    pub secret_key: Option<SecretString>,
}

/// The key that a rotation created.
pub struct RotatedKey {
    pub public_key: String,
    /// `None` if the server replayed a request whose secret has expired.
    pub secret_key: Option<SecretString>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Client {
    provisioning: TenantProvisioningClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// Connects to a URL with the scheme `http`, in plaintext, or `https`.
    pub async fn connect(url: Uri, token: Option<SecretString>) -> Result<Self, ClientError> {
        let is_plaintext = url.scheme() == Some(&Scheme::HTTP);
        let mut endpoint = Endpoint::from(url).connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT);
        if !is_plaintext {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
        }
        let authorization = token.map(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose_secret()))
                .map_err(|_invalid| ClientError::Token)?;
            // Debug output then omits it.
            value.set_sensitive(true);
            Ok::<_, ClientError>(value)
        });
        let authorization = authorization.transpose()?;
        Ok(Self { provisioning: TenantProvisioningClient::new(endpoint.connect().await?), authorization })
    }

    /// Returns a result for each request, in order. The inner errors are messages of single items. An item that can succeed
    /// in a retry of the call fails the call.
    pub async fn batch_create_fully_provisioned(
        &self,
        requests: &[CreateFullyProvisioned],
    ) -> Result<Vec<Result<CreatedTenant, String>>, ClientError> {
        use pb::batch_create_fully_provisioned_result::Result as BatchResult;

        let items = requests.iter().map(|request| pb::CreateFullyProvisionedRequest {
            slug: request.slug.to_string(),
            name: request.name.as_str().to_owned(),
            commission_percent: Some(request.commission.as_f64()),
            request_id: request.request_id.as_ref().map(|id| uuid::Uuid::from_bytes(*id.expose()).to_string()),
            validate_only: request.validate_only,
            external_id: request.external_id.as_ref().map(|id| id.as_str().to_owned()),
            labels: request.labels.clone().into_map(),
        });
        let request = pb::BatchCreateFullyProvisionedRequest { requests: items.collect() };
        let response = self.provisioning.clone().batch_create_fully_provisioned(self.authorized(request)).await?;
        let results = response.into_inner().results;
        if results.len() != requests.len() {
            return Err(ClientError::InvalidResponse("the number of results differs from that of the requests"));
        }
        let provisioned = |result: pb::BatchCreateFullyProvisionedResult| match result.result {
            Some(BatchResult::Provisioned(created)) => {
                let tenant = created.tenant.ok_or(ClientError::InvalidResponse("no tenant"))?;
                let tenant_id = TenantId::parse(&tenant.id);
                let tenant_id = tenant_id.map_err(|_invalid| ClientError::InvalidResponse("no tenant id"))?;
                let created_at = creation_time(tenant.created_at)?;
                Ok(Ok(CreatedTenant { tenant_id, created_at, secret_key: secret_key(created.secret_key) }))
            }
            Some(BatchResult::Error(error)) => match retryable_code(&error.code) {
                Some(code) => Err(Status::new(code, error.message).into()),
                None => Ok(Err(format!("{}: {}", error.reason, error.message))),
            },
            None => Err(ClientError::InvalidResponse("an empty result")),
        };
        results.into_iter().map(provisioned).collect()
    }

    pub async fn rotate_api_key(&self, rotation: &RotateApiKey) -> Result<RotatedKey, ClientError> {
        let request = pb::RotateApiKeyRequest {
            tenant_id: rotation.tenant_id.to_string(),
            overlap: Some(prost_types::Duration {
                seconds: rotation.overlap.whole_seconds(),
                nanos: rotation.overlap.subsec_nanoseconds(),
            }),
            request_id: rotation.request_id.as_ref().map(|id| uuid::Uuid::from_bytes(*id.expose()).to_string()),
            public_key: rotation.public_key.as_ref().map(|key| key.as_str().to_owned()),
        };
        let response = self.provisioning.clone().rotate_api_key(self.authorized(request)).await?.into_inner();
        let key = response.api_key.ok_or(ClientError::InvalidResponse("no API key"))?;
        Ok(RotatedKey { public_key: key.public_key, secret_key: secret_key(response.secret_key) })
    }

    /// Returns the tenant's newest keys, newest first, as many as a page has.
    pub async fn list_api_keys(&self, tenant_id: TenantId, size: PageSize) -> Result<Vec<ApiKey>, ClientError> {
        let page_size = i32::try_from(size.get()).unwrap_or(i32::MAX);
        let request = pb::ListApiKeysRequest { tenant_id: tenant_id.to_string(), page_size, page_token: String::new() };
        let response = self.provisioning.clone().list_api_keys(self.authorized(request)).await?;
        response.into_inner().api_keys.into_iter().map(|key| api_key(tenant_id, key)).collect()
    }

    fn authorized<Message>(&self, message: Message) -> Request<Message> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }
}

fn secret_key(text: String) -> Option<SecretString> {
    (!text.is_empty()).then(|| text.into())
}

fn creation_time(timestamp: Option<Timestamp>) -> Result<OffsetDateTime, ClientError> {
    timestamp.map(time).transpose()?.ok_or(ClientError::InvalidResponse("no creation time"))
}

fn api_key(tenant_id: TenantId, key: pb::ApiKey) -> Result<ApiKey, ClientError> {
    let created_at = creation_time(key.created_at)?;
    let (expires_at, revoked_at) = (key.expires_at.map(time).transpose()?, key.revoked_at.map(time).transpose()?);
    Ok(ApiKey { expires_at, revoked_at, ..ApiKey::new(key.public_key, tenant_id, created_at) })
}

fn time(timestamp: Timestamp) -> Result<OffsetDateTime, ClientError> {
    let nanos = i128::from(timestamp.seconds) * 1_000_000_000 + i128::from(timestamp.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_range| ClientError::InvalidResponse("an invalid time"))
}
