//! The target of an import: a database or a server. It does not retry; [`super`] sends a failed batch again. A
//! retryable error fails the batch. A permanent one rejects a row if the call was for that row only; otherwise it ends
//! the import.

use std::{num::NonZeroUsize, thread::available_parallelism};

use secrecy::SecretString;
use time::OffsetDateTime;

use super::{Error, journal::Journal, lost_keys, server::Server};
use crate::{
    cli::{
        database::{OpenDatabase, is_embedded_in_use},
        retry::{AttemptError, is_retryable},
    },
    config::ImportTarget,
    domain::{
        Actor, Argon2Params, Caller, CreateFullyProvisioned, ParsedSecretKey, ProvisioningSource, PublicKey, Quotas,
        TenantId,
        api_key::{ListApiKeys, RotateApiKey},
        paging::PageSize,
        provisioning::CreateOutcome,
    },
    error,
    grpc::status,
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

impl ImportedTenant {
    /// Takes the public key from the secret one: the tenant may have newer keys.
    pub fn new(tenant_id: TenantId, secret_key: SecretString) -> Result<Self, AttemptError> {
        let key = ParsedSecretKey::parse(&secret_key);
        let key = key.ok_or_else(|| AttemptError::permanent("the target returned a malformed secret key"))?;
        Ok(Self { tenant_id, public_key: key.public_key, secret_key })
    }
}

/// A tenant that a call created, and the secret of its first key.
pub struct CreatedTenant {
    pub tenant_id: TenantId,
    /// The first key has the same time.
    pub created_at: OffsetDateTime,
    /// `None` if the target replayed a request whose secret has expired.
    pub secret_key: Option<SecretString>,
}

/// The key that a rotation created.
pub struct RotatedKey {
    pub public_key: String,
    /// `None` if the target replayed a request whose secret has expired.
    pub secret_key: Option<SecretString>,
}

pub enum Target {
    Database { database: Box<OpenDatabase>, store: Store, service: Box<TenantService> },
    Server(Server),
}

impl Target {
    pub async fn open(target: ImportTarget, concurrency: NonZeroUsize) -> Result<Self, Error> {
        match target {
            ImportTarget::Server { url, client } => Ok(Self::Server(Server::connect(url, client).await?)),
            ImportTarget::Database { database, key_mode, key_argon2 } => {
                let database = OpenDatabase::open_migrated(database).await.map_err(suggest_server)?;
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
                let service = TenantService::new(
                    store.clone(),
                    Hasher::new(hashing)?,
                    key_mode,
                    Clock::system(),
                    Quotas::DEFAULT,
                );
                Ok(Self::Database { database: Box::new(database), store, service: Box::new(service) })
            }
        }
    }

    /// Creates the tenants. Returns one result per request, in order: the tenant, or why it was rejected.
    pub async fn create(
        &self,
        requests: &[CreateFullyProvisioned],
        journal: &Journal,
    ) -> Result<Vec<Result<ImportedTenant, String>>, AttemptError> {
        let created = match self {
            Self::Database { service, .. } => {
                let items = requests.iter().cloned().map(Ok).collect();
                let actor = Actor::command(Caller::import());
                let outcomes = service.batch_create_fully_provisioned(actor, ProvisioningSource::Import, items).await?;
                outcomes.into_iter().map(into_row_result).collect::<Result<_, _>>()?
            }
            Self::Server(server) => server.batch_create_fully_provisioned(requests).await?,
        };
        let mut results = Vec::with_capacity(requests.len());
        for (request, created) in requests.iter().zip(created) {
            results.push(match created {
                Ok(CreatedTenant { tenant_id, secret_key: Some(secret_key), .. }) => {
                    Ok(ImportedTenant::new(tenant_id, secret_key)?)
                }
                Ok(CreatedTenant { tenant_id, created_at, secret_key: None }) => {
                    let slug = request.slug.as_str();
                    let replaced = lost_keys::replace(self, journal, slug, tenant_id, created_at).await;
                    fail_batch_if_retryable(replaced)?
                }
                Err(message) => Err(message),
            });
        }
        Ok(results)
    }

    pub async fn rotate_key(&self, rotation: RotateApiKey) -> Result<RotatedKey, AttemptError> {
        match self {
            Self::Database { service, .. } => {
                let added = service.rotate_api_key(Actor::command(Caller::import()), rotation).await?;
                Ok(RotatedKey { public_key: added.api_key.public_key, secret_key: added.secret_key })
            }
            Self::Server(server) => server.rotate_api_key(&rotation).await,
        }
    }

    /// Returns the key that was created with the tenant, if it is among the newest 500.
    pub async fn first_key(
        &self,
        tenant_id: TenantId,
        created_at: OffsetDateTime,
    ) -> Result<Option<PublicKey>, AttemptError> {
        let keys = match self {
            Self::Database { service, .. } => {
                let list = ListApiKeys { size: PageSize::MAX, after: None };
                service.list_api_keys(tenant_id, list).await?.items
            }
            Self::Server(server) => server.list_api_keys(tenant_id, PageSize::MAX).await?,
        };
        let first = keys.into_iter().find(|key| key.created_at == created_at);
        Ok(first.and_then(|key| PublicKey::parse(&key.public_key).ok()))
    }

    pub async fn close(self) -> Result<(), Error> {
        if let Self::Database { database, store, .. } = self {
            store.close().await;
            database.close().await?;
        }
        Ok(())
    }
}

impl From<CreateOutcome> for CreatedTenant {
    fn from(outcome: CreateOutcome) -> Self {
        let (tenant, secret_key) = match outcome {
            CreateOutcome::Created(created) => (created.tenant, Some(created.secret_key)),
            CreateOutcome::Replayed(replay) => (replay.created.tenant, replay.secret_key),
        };
        Self { tenant_id: tenant.id, created_at: tenant.created_at, secret_key }
    }
}

/// Adds to the error what to do if a running server uses the embedded Postgres.
fn suggest_server(error: Error) -> Error {
    if is_embedded_in_use(&error) {
        format!(
            "{error}. To import through the running server, pass --server with its URL, such as http://127.0.0.1:50051"
        )
        .into()
    } else {
        error
    }
}

/// Turns the outcome of an item into the row's result. A retryable error fails the batch, so that it is sent again.
fn into_row_result(outcome: error::Result<CreateOutcome>) -> Result<Result<CreatedTenant, String>, AttemptError> {
    match outcome {
        Ok(created) => Ok(Ok(created.into())),
        Err(error) if is_retryable(&error) => Err(error.into()),
        Err(error) => {
            let rpc_error = status::report(error);
            Ok(Err(format!("{}: {}", rpc_error.reason(), rpc_error.message)))
        }
    }
}

/// Turns a permanent error into the row's result. Returns a retryable one, so that the batch is sent again.
fn fail_batch_if_retryable(
    result: Result<ImportedTenant, AttemptError>,
) -> Result<Result<ImportedTenant, String>, AttemptError> {
    match result {
        Ok(tenant) => Ok(Ok(tenant)),
        Err(error) if error.retryable => Err(error),
        Err(error) => Ok(Err(error.cause.to_string())),
    }
}
