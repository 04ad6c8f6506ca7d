//! Finds API keys by their ids. Those that are asked for while the database answers are looked up together, by the next
//! statement: every call to the platform begins with such a lookup, and the more there are the less each of them costs.

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

/// Upper bound of the lookups in one statement.
const MAX_BATCH_SIZE: usize = 128;

#[derive(Debug)]
struct Lookup {
    key_id: String,
    /// Of the call that waits for it.
    span: Span,
    reply: oneshot::Sender<Result<Option<StoredApiKey>>>,
}

/// Where lookups wait for their turn. Begins to look at the first of them.
#[derive(Debug, Default)]
pub(super) struct KeyLookupQueue(OnceLock<UnboundedSender<Lookup>>);

impl Store {
    /// The key with this id, and what a verdict on it hangs on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find_api_key(&self, key_id: String) -> Result<Option<StoredApiKey>> {
        let lookups = self.lookups.0.get_or_init(|| {
            let (sender, lookups) = mpsc::unbounded_channel();
            tokio::spawn(run_lookup_worker(self.pool.clone(), lookups));
            sender
        });
        let (reply, found) = oneshot::channel();
        // No more wait in line than calls are let in.
        lookups.send(Lookup { key_id, span: Span::current(), reply }).map_err(Error::internal)?;
        found.await.map_err(Error::internal)?
    }
}

/// Ends with the last store that it looks for.
async fn run_lookup_worker(pool: ConnectionPool, mut lookups: UnboundedReceiver<Lookup>) {
    let mut batch = Vec::new();
    while lookups.recv_many(&mut batch, MAX_BATCH_SIZE).await > 0 {
        let looking = look_up(pool.clone(), std::mem::take(&mut batch));
        // In a task of its own: should it panic, those who wait for it hear that nothing came, and the next are served.
        let _ = tokio::spawn(looking).await;
    }
}

async fn look_up(pool: ConnectionPool, lookups: Vec<Lookup>) {
    let key_ids: Vec<String> = lookups.iter().map(|lookup| lookup.key_id.clone()).collect();
    // Told of in the trace of the first.
    let span = lookups.first().map_or_else(Span::none, |lookup| lookup.span.clone());
    let found = find_api_keys(&pool, &key_ids).instrument(span).await;
    for Lookup { key_id, reply, .. } in lookups {
        // Whoever does not wait any more needs no answer.
        let _ = reply.send(found.as_ref().map(|keys| keys.get(&key_id).cloned()).map_err(Clone::clone));
    }
}

async fn find_api_keys(pool: &ConnectionPool, key_ids: &[String]) -> Result<HashMap<String, StoredApiKey>> {
    let rows = sqlx::query!(
        r#"
        SELECT found.key_id, tenant_id, public_key, secret_hash, found.created_at, expires_at, revoked_at, slug,
               is_active, is_deleted AS "is_deleted!"
          FROM unnest((SELECT $1::text[])) AS asked (key_id) -- hidden, or it is planned anew for each number of ids
         CROSS JOIN LATERAL (
               SELECT api_keys.*, tenants.slug, tenants.is_active, tenants.deleted_at IS NOT NULL AS is_deleted
                 FROM api_keys
                 JOIN tenants ON tenants.id = api_keys.tenant_id
                WHERE api_keys.key_id = asked.key_id
                LIMIT 1
               ) AS found
        "#,
        key_ids,
    )
    .fetch_all(&mut pool.acquire("find_api_key").await?)
    .await?;
    let found = rows.into_iter().map(|row| {
        let key = ApiKey {
            public_key: row.public_key,
            tenant_id: TenantId::from_uuid(row.tenant_id),
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        };
        let found = StoredApiKey {
            key,
            tenant_slug: row.slug,
            secret_hash: row.secret_hash,
            tenant_is_active: row.is_active,
            tenant_is_deleted: row.is_deleted,
        };
        (row.key_id, found)
    });
    Ok(found.collect())
}
