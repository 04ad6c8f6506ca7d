//! Finds API keys by their ids. While a statement runs, further lookups queue up, and the next statement resolves them
//! together: every call to the platform begins with a lookup, and each costs less the more there are.
//!
//! Nothing is cached, and a single lookup is sent at once (docs/adr/0012-batched-key-lookups.md).

use std::{collections::HashMap, sync::OnceLock};

use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};
use tracing::{Instrument as _, Span};

use super::{ConnectionPool, Store};
use crate::{
    domain::{ApiKey, TenantId, api_key::StoredApiKey},
    error::{Error, Result},
};

/// Maximum number of lookups in one statement.
const MAX_BATCH_SIZE: usize = 128;

#[derive(Debug)]
struct Lookup {
    key_id: String,
    /// The span of the waiting call.
    span: Span,
    reply: oneshot::Sender<Result<Option<StoredApiKey>>>,
}

/// Pending lookups. The first one starts the worker.
#[derive(Debug, Default)]
pub(super) struct KeyLookupQueue(OnceLock<UnboundedSender<Lookup>>);

impl Store {
    /// Finds a key by its id, with everything that the verdict on it depends on.
    pub async fn find_api_key(&self, key_id: String) -> Result<Option<StoredApiKey>> {
        let queue = self.lookups.0.get_or_init(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(run_lookup_worker(self.pool.clone(), receiver));
            sender
        });
        let (reply, result) = oneshot::channel();
        // The callers bound the queue: those that present a key as their credential by `grpc::verification_slots` (272
        // lookups, at most 16 of them for keys that were not valid recently), the calls of `VerifyApiKey` by the limit on
        // concurrent calls.
        queue.send(Lookup { key_id, span: Span::current(), reply }).map_err(Error::internal)?;
        result.await.map_err(Error::internal)?
    }
}

/// Runs until every [`Store`] handle, and with it every sender, has been dropped.
async fn run_lookup_worker(pool: ConnectionPool, mut queue: UnboundedReceiver<Lookup>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, MAX_BATCH_SIZE).await > 0 {
        let work = resolve_batch(pool.clone(), std::mem::take(&mut batch));
        // Runs in its own task, so that a panic fails only the callers of this batch and not the worker.
        let _ = tokio::spawn(work).await;
    }
}

async fn resolve_batch(pool: ConnectionPool, batch: Vec<Lookup>) {
    let key_ids: Vec<String> = batch.iter().map(|lookup| lookup.key_id.clone()).collect();
    // The statement appears in the trace of the first call.
    let span = batch.first().map_or_else(Span::none, |lookup| lookup.span.clone());
    let found = find_api_keys(&pool, &key_ids).instrument(span).await;
    for Lookup { key_id, reply, .. } in batch {
        // Sending fails if the call no longer waits, which is fine.
        let _ = reply.send(found.as_ref().map(|keys| keys.get(&key_id).cloned()).map_err(Clone::clone));
    }
}

async fn find_api_keys(pool: &ConnectionPool, key_ids: &[String]) -> Result<HashMap<String, StoredApiKey>> {
    let rows = sqlx::query!(
        r#"
        SELECT stored.key_id, tenant_id, public_key, secret_hash, stored.created_at, expires_at, revoked_at, slug,
               is_active, is_deleted AS "is_deleted!"
          -- The subquery hides the array's length from the planner, which would otherwise make a plan for each length.
          FROM unnest((SELECT $1::text[])) AS requested (key_id)
         CROSS JOIN LATERAL (
               SELECT api_keys.*, tenants.slug, tenants.is_active, tenants.deleted_at IS NOT NULL AS is_deleted
                 FROM api_keys
                 JOIN tenants ON tenants.id = api_keys.tenant_id
                WHERE api_keys.key_id = requested.key_id
                LIMIT 1
               ) AS stored
        "#,
        key_ids,
    )
    .fetch_all(&mut pool.acquire("find_api_key").await?)
    .await?;
    let keys = rows.into_iter().map(|row| {
        let key = ApiKey {
            public_key: row.public_key,
            tenant_id: TenantId::from_uuid(row.tenant_id),
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        };
        let stored = StoredApiKey {
            key,
            tenant_slug: row.slug,
            secret_hash: row.secret_hash,
            tenant_is_active: row.is_active,
            tenant_is_deleted: row.is_deleted,
        };
        (row.key_id, stored)
    });
    Ok(keys.collect())
}
