//! Where tenants are imported to: a database, or a server that has one.

use std::num::NonZeroUsize;

use secrecy::SecretString;
use time::Duration;

use super::Error;
use crate::{
    cli::database::OpenDatabase,
    config::ImportTarget,
    domain::{
        Caller, CreateFullyProvisioned, ProvisioningSource, TenantId, api_key::RotateApiKey,
        provisioning::CreateOutcome,
    },
    error,
    grpc::{
        client::{Client, ClientError, TenantKey},
        status,
    },
    secrets::{Hasher, HashingSettings},
    service::{Clock, TenantService},
    store::Store,
};

/// A tenant and its key.
pub struct ImportedTenant {
    pub tenant_id: TenantId,
    pub public_key: String,
    pub secret_key: SecretString,
}

/// Of a whole call.
pub struct ImportError {
    /// Whether the same call may do better a little later.
    pub retryable: bool,
    pub cause: Error,
}

pub enum Target {
    Database { database: Box<OpenDatabase>, store: Store, service: Box<TenantService> },
    Server(Client),
}

impl Target {
    pub async fn open(target: ImportTarget, concurrency: NonZeroUsize) -> Result<Self, Error> {
        match target {
            ImportTarget::Server { url, token } => Ok(Self::Server(Client::connect(&url, token).await?)),
            ImportTarget::Database { database, key_mode, key_argon2 } => {
                let database = OpenDatabase::open_migrated(database).await?;
                let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
                let hashing = HashingSettings {
                    key: key_argon2,
                    password: crate::domain::Argon2Params::PASSWORD,
                    workers,
                    queue_length: workers * concurrency.get(),
                };
                let store = Store::new(database.server.clone(), u32::try_from(concurrency.get())?);
                let service = TenantService::new(store.clone(), Hasher::new(hashing)?, key_mode, Clock::system());
                Ok(Self::Database { database: Box::new(database), store, service: Box::new(service) })
            }
        }
    }

    /// One for each wish, in order: what was made, or why not.
    pub async fn create(
        &self,
        requests: &[CreateFullyProvisioned],
    ) -> Result<Vec<Result<ImportedTenant, String>>, ImportError> {
        let mut answers = Vec::with_capacity(requests.len());
        match self {
            Self::Database { service, .. } => {
                let items = requests.iter().cloned().map(Ok).collect();
                for outcome in
                    service.batch_create_fully_provisioned(Caller::import(), ProvisioningSource::Import, items).await?
                {
                    answers.push(match outcome {
                        Ok(outcome) => row_result(self.with_key(outcome.into()).await)?,
                        Err(refused) => {
                            let refusal = status::report(refused);
                            Err(format!("{}: {}", refusal.reason(), refusal.message))
                        }
                    });
                }
            }
            Self::Server(client) => {
                for answer in client.batch_create_fully_provisioned(requests).await? {
                    answers.push(match answer {
                        Ok(key) => row_result(self.with_key(key).await)?,
                        Err(refused) => Err(refused),
                    });
                }
            }
        }
        Ok(answers)
    }

    /// A repeat that comes after 24 hours has no secret. Nobody has it: it would stand in the file. So the key is changed
    /// for another, and the lost one ends at once.
    async fn with_key(&self, known: TenantKey) -> Result<ImportedTenant, ImportError> {
        let TenantKey { tenant_id, public_key, secret_key } = known;
        if let Some(secret_key) = secret_key {
            return Ok(ImportedTenant { tenant_id, public_key, secret_key });
        }
        let rotation = RotateApiKey { tenant_id, overlap: Duration::ZERO, request_id: None };
        let TenantKey { public_key, secret_key, .. } = match self {
            Self::Database { service, .. } => {
                let rotated = service.rotate_api_key(Caller::import(), rotation).await?;
                TenantKey { tenant_id, public_key: rotated.api_key.public_key, secret_key: rotated.secret_key }
            }
            Self::Server(client) => client.rotate_api_key(&rotation).await?,
        };
        let secret_key = secret_key.ok_or_else(|| error::Error::internal("a new key has no secret"))?;
        Ok(ImportedTenant { tenant_id, public_key, secret_key })
    }

    pub async fn close(self) -> Result<(), Error> {
        if let Self::Database { database, store, .. } = self {
            store.close().await;
            database.close().await?;
        }
        Ok(())
    }
}

impl From<CreateOutcome> for TenantKey {
    fn from(outcome: CreateOutcome) -> Self {
        let (tenant, secret_key) = match outcome {
            CreateOutcome::Created(created) => (created.tenant, Some(created.secret_key)),
            CreateOutcome::Replayed(replay) => (replay.made.tenant, replay.secret_key),
        };
        Self { tenant_id: tenant.id, public_key: tenant.api_key_public, secret_key }
    }
}

/// What befalls one row spoils no other, unless it may pass: then all of them are asked for again.
fn row_result(made: Result<ImportedTenant, ImportError>) -> Result<Result<ImportedTenant, String>, ImportError> {
    match made {
        Ok(made) => Ok(Ok(made)),
        Err(failure) if failure.retryable => Err(failure),
        Err(failure) => Ok(Err(failure.cause.to_string())),
    }
}

impl From<error::Error> for ImportError {
    fn from(error: error::Error) -> Self {
        use error::Error::{Conflict, DatabaseUnavailable, Overloaded};
        Self { retryable: matches!(error, Conflict | DatabaseUnavailable(_) | Overloaded), cause: error.into() }
    }
}

impl From<ClientError> for ImportError {
    fn from(error: ClientError) -> Self {
        Self { retryable: error.is_retryable(), cause: error.into() }
    }
}
