//! Finds API keys by their ids. Every call to the platform begins with a lookup, so concurrent ones share a statement: each
//! costs less the more there are. Nothing is cached (docs/adr/0012-shared-statements.md).

use std::{collections::HashMap, convert::Infallible};

use super::{
    ConnectionPool, Store,
    pool::PooledConnection,
    shared_statements::{Lane, SharedStatement, StatementFailure},
};
use crate::{
    domain::{ApiKey, TenantId, api_key::StoredApiKey},
    error::{Error, Result},
};

/// The statement that resolves lookups.
pub(super) struct KeyLookups(pub ConnectionPool);

impl Store {
    /// Finds a key by its id, with everything that the verdict on it depends on.
    pub async fn find_api_key(&self, key_id: String) -> Result<Option<StoredApiKey>> {
        // The callers bound the waiting lookups: those that present a key as their credential by
        // `grpc::verification_slots` (272 lookups, at most 16 of them for keys that were not valid recently), the calls of
        // `VerifyApiKey` by the limit on concurrent calls.
        self.lookups.run(Lane::Single, key_id).await
    }
}

impl SharedStatement for KeyLookups {
    type Item = String;
    type Key = Infallible;
    type Output = Option<StoredApiKey>;
    type Connection = PooledConnection;

    const MAX_ITEMS: usize = 128;
    /// A flood of wrong keys takes no more than one connection from other calls.
    const MAX_STATEMENTS: usize = 1;

    fn keys(_key_id: &String) -> Vec<Infallible> {
        Vec::new()
    }

    async fn connect(&self) -> Result<PooledConnection> {
        self.0.acquire("find_api_key").await
    }

    async fn run(
        &self,
        connection: PooledConnection,
        key_ids: &[&String],
    ) -> std::result::Result<Vec<Option<StoredApiKey>>, StatementFailure> {
        let found = find_api_keys(connection, key_ids).await;
        // No lookup makes a statement fail for the others, so a second try would not help.
        let found = found.map_err(|error| StatementFailure { error, retry_alone: false })?;
        // Several calls may present the same key.
        Ok(key_ids.iter().map(|key_id| found.get(*key_id).cloned()).collect())
    }

    fn wait_timed_out(&self) -> Error {
        self.0.wait_timed_out()
    }
}

async fn find_api_keys(mut connection: PooledConnection, key_ids: &[&String]) -> Result<HashMap<String, StoredApiKey>> {
    let rows = sqlx::query!(
        r#"
        SELECT stored.key_id, tenant_id, public_key, secret_hash, stored.created_at, expires_at, revoked_at,
               stored.name, scope, last_used_at, rotated_at, slug, is_active, is_deleted AS "is_deleted!"
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
        key_ids as _,
    )
    .fetch_all(&mut connection)
    .await?;
    let keys = rows.into_iter().map(|row| {
        let scope = row.scope.parse().map_err(Error::internal)?;
        let key = ApiKey {
            public_key: row.public_key,
            tenant_id: TenantId::from_uuid(row.tenant_id),
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            name: row.name,
            scope,
            last_used_at: row.last_used_at,
            rotated_at: row.rotated_at,
        };
        let stored = StoredApiKey {
            key,
            tenant_slug: row.slug,
            secret_hash: row.secret_hash,
            tenant_is_active: row.is_active,
            tenant_is_deleted: row.is_deleted,
        };
        Ok((row.key_id, stored))
    });
    keys.collect()
}
