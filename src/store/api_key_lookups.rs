//! Finds presented API keys. Every call to the platform begins with a lookup, so concurrent ones share a statement:
//! each costs less the more there are. Nothing is cached (docs/adr/0012-shared-statements.md).

use std::convert::Infallible;

use super::{
    ConnectionPool, Store, column,
    pool::PooledConnection,
    shared_statements::{Lane, SharedStatement, StatementFailure},
};
use crate::{
    domain::{
        ApiKey, LegacyKeyHash, TenantId,
        key_verdict::{KeyLookup, StoredApiKey},
    },
    error::{Error, Result},
};

/// The statement that resolves lookups.
pub(super) struct KeyLookups(pub ConnectionPool);

impl Store {
    /// Finds a key, with everything that the verdict on it depends on.
    pub async fn find_api_key(&self, lookup: KeyLookup) -> Result<Option<StoredApiKey>> {
        // The callers bound the waiting lookups: those that present a key as their credential by
        // `grpc::verification_slots` (272 lookups, at most 16 of them for keys that were not valid recently), the calls
        // of `VerifyApiKey` by the limit on concurrent calls.
        self.lookups.run(Lane::Single, lookup).await
    }
}

impl SharedStatement for KeyLookups {
    type Item = KeyLookup;
    type Key = Infallible;
    type Output = Option<StoredApiKey>;
    type Connection = PooledConnection;

    const MAX_ITEMS: usize = 128;
    /// A flood of wrong keys takes no more than one connection from other calls.
    const MAX_STATEMENTS: usize = 1;

    fn keys(_lookup: &KeyLookup) -> Vec<Infallible> {
        Vec::new()
    }

    async fn connect(&self) -> Result<PooledConnection> {
        self.0.acquire("find_api_key").await
    }

    async fn run(
        &self,
        connection: PooledConnection,
        lookups: &[&KeyLookup],
    ) -> std::result::Result<Vec<Option<StoredApiKey>>, StatementFailure> {
        let found = find_api_keys(connection, lookups).await;
        // No lookup makes a statement fail for the others, so a second try would not help.
        found.map_err(|error| StatementFailure { error, retry_alone: false })
    }

    fn wait_timed_out(&self) -> Error {
        self.0.wait_timed_out()
    }
}

/// Returns the key of each lookup, in their order.
async fn find_api_keys(mut connection: PooledConnection, lookups: &[&KeyLookup]) -> Result<Vec<Option<StoredApiKey>>> {
    let rows = sqlx::query!(
        r#"
        SELECT ordinal AS "ordinal!", tenant_id, public_key, secret_hash, stored.created_at, expires_at, revoked_at,
               stored.name, scope, last_used_at, rotated_at, slug, is_active, is_deleted AS "is_deleted!"
          -- The subquery hides the array's length from the planner, which would otherwise make a plan for each length.
          FROM unnest((SELECT $1::text[]), $2::text[]) WITH ORDINALITY AS requested (key_id, legacy_hash, ordinal)
         CROSS JOIN LATERAL (
               SELECT api_keys.*, tenants.slug, tenants.is_active, tenants.deleted_at IS NOT NULL AS is_deleted
                 FROM api_keys
                 JOIN tenants ON tenants.id = api_keys.tenant_id
                WHERE api_keys.key_id = coalesce(requested.key_id,
                                                 (SELECT legacy.key_id
                                                    FROM api_keys AS legacy
                                                   WHERE legacy.secret_hash = requested.legacy_hash
                                                     AND starts_with(legacy.secret_hash, 'sha256:')))
                  -- The id of an old key may be presented in a key of the current format, too.
                  AND starts_with(api_keys.secret_hash, 'sha256:') = (requested.key_id IS NULL)
                LIMIT 1
               ) AS stored
        "#,
        &column(lookups, |lookup| match lookup {
            KeyLookup::Id(key_id) => Some(key_id.as_str()),
            KeyLookup::LegacyHash(_) => None,
        }) as _,
        &column(lookups, |lookup| match lookup {
            KeyLookup::Id(_) => None,
            KeyLookup::LegacyHash(hash) => Some(LegacyKeyHash::as_str(hash)),
        }) as _,
    )
    .fetch_all(&mut connection)
    .await?;
    let mut found = vec![None; lookups.len()];
    for row in rows {
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
        let position = usize::try_from(row.ordinal - 1).map_err(Error::internal)?;
        *found.get_mut(position).ok_or_else(|| Error::internal("a key was found for no lookup"))? = Some(stored);
    }
    Ok(found)
}
