//! A caller's side of the API, for the commands that can work on a server.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::{
    pb::{self, tenant_provisioning_client::TenantProvisioningClient},
    status::code_name,
};
use crate::domain::{CreateFullyProvisioned, TenantId, api_key::RotateApiKey};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach the server")]
    Connect(#[from] tonic::transport::Error),
    #[error("the token holds characters that no header can")]
    Token,
    #[error("the server answered {}: {}", code_name(.0.code()), .0.message())]
    Status(Status),
    #[error("the server's answer makes no sense: {0}")]
    InvalidResponse(&'static str),
}

impl ClientError {
    /// Whether the same call may do better a little later.
    pub fn is_retryable(&self) -> bool {
        const RETRYABLE_CODES: [Code; 4] =
            [Code::Unavailable, Code::ResourceExhausted, Code::Aborted, Code::DeadlineExceeded];
        match self {
            Self::Connect(_) => true,
            Self::Status(status) => RETRYABLE_CODES.contains(&status.code()) || is_broken_connection(status),
            Self::Token | Self::InvalidResponse(_) => false,
        }
    }
}

// Not by `#[from]`, which would make a source of it too: it is told in full already.
impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// A server that goes away in the middle of a call is no answer of its own.
fn is_broken_connection(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Cancelled | Code::Internal)
        && std::error::Error::source(status).is_some()
}

/// A tenant, its public key and, unless the repeat came too late for it, the secret one.
pub type Provisioned = (TenantId, String, Option<SecretString>);

/// Cheap to clone.
#[derive(Clone)]
pub struct Client {
    provisioning: TenantProvisioningClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// # Errors
    /// Where the server cannot be reached.
    pub async fn connect(url: &str, token: Option<SecretString>) -> Result<Self, ClientError> {
        let mut endpoint =
            Endpoint::from_shared(url.to_owned())?.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT);
        if url.starts_with("https://") {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
        }
        let authorization = token.map(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose_secret()))
                .map_err(|_unfit| ClientError::Token)?;
            // So that nobody's Debug shows it.
            value.set_sensitive(true);
            Ok::<_, ClientError>(value)
        });
        let authorization = authorization.transpose()?;
        Ok(Self { provisioning: TenantProvisioningClient::new(endpoint.connect().await?), authorization })
    }

    /// One for each wish, in order: what was made, or why not.
    ///
    /// # Errors
    /// Those that befall the whole call.
    pub async fn batch_create_fully_provisioned(
        &self,
        requests: &[CreateFullyProvisioned],
    ) -> Result<Vec<Result<Provisioned, String>>, ClientError> {
        use pb::batch_create_fully_provisioned_result::Result as BatchResult;

        let items = requests.iter().map(|request| pb::CreateFullyProvisionedRequest {
            slug: request.slug.to_string(),
            name: request.name.as_str().to_owned(),
            commission_percent: Some(request.commission.as_f64()),
            request_id: request.request_id.as_ref().map(|id| uuid::Uuid::from_bytes(*id.expose()).to_string()),
            validate_only: request.validate_only,
        });
        let request = pb::BatchCreateFullyProvisionedRequest { requests: items.collect() };
        let answer = self.provisioning.clone().batch_create_fully_provisioned(self.authorized(request)).await?;
        let results = answer.into_inner().results;
        if results.len() != requests.len() {
            return Err(ClientError::InvalidResponse("not every item has a result"));
        }
        let provisioned = |result: pb::BatchCreateFullyProvisionedResult| match result.result {
            Some(BatchResult::Provisioned(made)) => {
                let tenant = made.tenant.ok_or(ClientError::InvalidResponse("no tenant"))?;
                Ok(Ok((tenant_id(&tenant.id)?, tenant.api_key_public, secret(made.secret_key))))
            }
            Some(BatchResult::Error(error)) => Ok(Err(format!("{}: {}", error.reason, error.message))),
            None => Err(ClientError::InvalidResponse("an empty result")),
        };
        results.into_iter().map(provisioned).collect()
    }

    /// The public key and the secret one.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn rotate_api_key(&self, rotation: &RotateApiKey) -> Result<(String, Option<SecretString>), ClientError> {
        let request = pb::RotateApiKeyRequest {
            tenant_id: rotation.tenant_id.to_string(),
            overlap: Some(prost_types::Duration {
                seconds: rotation.overlap.whole_seconds(),
                nanos: rotation.overlap.subsec_nanoseconds(),
            }),
            request_id: rotation.request_id.as_ref().map(|id| uuid::Uuid::from_bytes(*id.expose()).to_string()),
        };
        let answer = self.provisioning.clone().rotate_api_key(self.authorized(request)).await?.into_inner();
        let key = answer.api_key.ok_or(ClientError::InvalidResponse("no key"))?;
        Ok((key.public_key, secret(answer.secret_key)))
    }

    fn authorized<Message>(&self, message: Message) -> Request<Message> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }
}

fn secret(text: String) -> Option<SecretString> {
    (!text.is_empty()).then(|| text.into())
}

fn tenant_id(text: &str) -> Result<TenantId, ClientError> {
    TenantId::parse(text).map_err(|_unfit| ClientError::InvalidResponse("no tenant id"))
}
