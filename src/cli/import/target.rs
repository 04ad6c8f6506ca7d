//! The target of an import: a database or a server. It does not retry; [`super`] sends a failed batch again.

use std::{num::NonZeroUsize, thread::available_parallelism};

use secrecy::SecretString;
use time::Duration;

use super::Error;
use crate::{
    cli::database::OpenDatabase,
    config::ImportTarget,
    domain::{
        Argon2Params, Caller, CreateFullyProvisioned, ProvisioningSource, TenantId, api_key::RotateApiKey,
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

/// A tenant with a key whose secret is known.
pub struct ImportedTenant {
    pub tenant_id: TenantId,
    pub public_key: String,
    pub secret_key: SecretString,
}

/// An error of a call to the target. A retryable one fails the batch, which is then sent again. A permanent one rejects
/// a row if the call was for that row only; otherwise it ends the import.
pub struct ImportError {
    /// Whether the same batch may succeed later.
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
                // Each of the concurrent batches hashes its keys in at most `workers` jobs, so the queue has room for
                // all of them. An import hashes no passwords; the password parameters are not used.
                let workers = available_parallelism().map_or(1, NonZeroUsize::get);
                let hashing = HashingSettings {
                    key: key_argon2,
                    password: Argon2Params::PASSWORD,
                    workers,
                    queue_length: workers * concurrency.get(),
                };
                let store = Store::new(database.server.clone(), u32::try_from(concurrency.get())?);
                let service = TenantService::new(store.clone(), Hasher::new(hashing)?, key_mode, Clock::system());
                Ok(Self::Database { database: Box::new(database), store, service: Box::new(service) })
            }
        }
    }

    /// Creates the tenants. Returns one result per request, in order: the tenant, or why it was rejected.
    pub async fn create(
        &self,
        requests: &[CreateFullyProvisioned],
    ) -> Result<Vec<Result<ImportedTenant, String>>, ImportError> {
        let mut results = Vec::with_capacity(requests.len());
        match self {
            Self::Database { service, .. } => {
                let items = requests.iter().cloned().map(Ok).collect();
                for outcome in
                    service.batch_create_fully_provisioned(Caller::import(), ProvisioningSource::Import, items).await?
                {
                    results.push(match outcome {
                        Ok(outcome) => fail_batch_if_retryable(self.rotate_if_secret_lost(outcome.into()).await)?,
                        Err(error) => {
                            let rpc_error = status::report(error);
                            Err(format!("{}: {}", rpc_error.reason(), rpc_error.message))
                        }
                    });
                }
            }
            Self::Server(client) => {
                for result in client.batch_create_fully_provisioned(requests).await? {
                    results.push(match result {
                        Ok(key) => fail_batch_if_retryable(self.rotate_if_secret_lost(key).await)?,
                        Err(message) => Err(message),
                    });
                }
            }
        }
        Ok(results)
    }

    /// Returns the tenant with a secret. Rotates the key if it comes from a replay without the secret, for example
    /// after 24 hours. That secret is lost: it is not in the keys file, because rows with a key in the file are not
    /// sent again. All other keys of the tenant expire immediately.
    async fn rotate_if_secret_lost(&self, key: TenantKey) -> Result<ImportedTenant, ImportError> {
        let TenantKey { tenant_id, public_key, secret_key } = key;
        if let Some(secret_key) = secret_key {
            return Ok(ImportedTenant { tenant_id, public_key, secret_key });
        }
        let rotation = RotateApiKey { tenant_id, overlap: Duration::ZERO, request_id: None };
        let TenantKey { public_key, secret_key, .. } = match self {
            Self::Database { service, .. } => {
                let rotation = service.rotate_api_key(Caller::import(), rotation).await?;
                TenantKey { tenant_id, public_key: rotation.api_key.public_key, secret_key: rotation.secret_key }
            }
            Self::Server(client) => client.rotate_api_key(&rotation).await?,
        };
        let secret_key = secret_key.ok_or_else(|| error::Error::internal("the rotation returned no secret"))?;
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
            CreateOutcome::Replayed(replay) => (replay.created.tenant, replay.secret_key),
        };
        Self { tenant_id: tenant.id, public_key: tenant.api_key_public, secret_key }
    }
}

/// Turns a permanent error into the row's result. Returns a retryable one, so that the batch is sent again.
fn fail_batch_if_retryable(
    result: Result<ImportedTenant, ImportError>,
) -> Result<Result<ImportedTenant, String>, ImportError> {
    match result {
        Ok(tenant) => Ok(Ok(tenant)),
        Err(error) if error.retryable => Err(error),
        Err(error) => Ok(Err(error.cause.to_string())),
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
