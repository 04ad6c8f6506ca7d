//! Permanently deletes tenants that were soft-deleted some time ago.

use sqlx::error::DatabaseError;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, pool::PooledConnection};
use crate::{
    domain::{Actor, TenantId},
    error::{Error, Result},
};

/// A concurrent call that read the tenant before its deletion may still insert a row. The foreign key or a deadlock then
/// fails the statement; it is retried.
const MAX_ATTEMPTS: usize = 3;

impl Store {
    /// Returns the number of tenants deleted before this time, and the slugs of up to `limit` of them, oldest deletion
    /// first.
    pub async fn list_purgeable(&self, before: OffsetDateTime, limit: i64) -> Result<(i64, Vec<String>)> {
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM tenants WHERE deleted_at < $1"#, before)
            .fetch_one(&mut self.acquire("list_purgeable").await?)
            .await?;
        let slugs = sqlx::query_scalar!(
            "SELECT slug FROM tenants WHERE deleted_at < $1 ORDER BY deleted_at LIMIT $2",
            before,
            limit,
        )
        .fetch_all(&mut self.acquire("list_purgeable").await?)
        .await?;
        Ok((count, slugs))
    }

    /// Purges up to `limit` tenants that were deleted before this time, with all their rows, in one statement. Returns
    /// their ids: fewer than `limit` if no more are left or if others are locked by a concurrent transaction.
    ///
    /// # Errors
    /// [`Error::Conflict`] if concurrent calls inserted rows of these tenants in each attempt.
    pub async fn purge_tenants(
        &self,
        before: OffsetDateTime,
        limit: usize,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<Vec<TenantId>> {
        let limit = i64::try_from(limit).map_err(Error::internal)?;
        for _ in 0..MAX_ATTEMPTS {
            match try_purge(&mut self.acquire("purge_tenants").await?, before, limit, actor, now).await {
                Err(error) if error.as_database_error().is_some_and(has_lost_race) => {}
                purged => return Ok(purged?.into_iter().map(TenantId::from_uuid).collect()),
            }
        }
        Err(Error::Conflict)
    }
}

fn has_lost_race(error: &dyn DatabaseError) -> bool {
    const DEADLOCK_DETECTED: &str = "40P01";
    error.is_foreign_key_violation() || error.code().as_deref() == Some(DEADLOCK_DETECTED)
}

async fn try_purge(
    connection: &mut PooledConnection,
    before: OffsetDateTime,
    limit: i64,
    actor: &Actor,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<Uuid>> {
    // Foreign keys are checked at the end of the statement, so the order of the CTEs does not matter. Idempotency
    // records and usage counters are deleted with their tenant (ON DELETE CASCADE).
    sqlx::query_scalar!(
        "
        WITH locked AS MATERIALIZED (
            -- Each tenant's lock precedes the first write. Two concurrent purges take different tenants.
            SELECT id
              FROM tenants
             WHERE deleted_at < $1 AND pg_try_advisory_xact_lock(tenant_lock_key(id))
             ORDER BY deleted_at
             LIMIT $2
        ), purged AS (
            SELECT id
              FROM tenants
             WHERE id IN (SELECT id FROM locked) AND deleted_at < $1
               FOR UPDATE SKIP LOCKED
        ), deleted_packages AS (
            DELETE FROM packages USING purged WHERE packages.tenant_id = purged.id
        ), deleted_segments AS (
            DELETE FROM segments USING purged WHERE segments.tenant_id = purged.id
        ), deleted_keys AS (
            DELETE FROM api_keys USING purged WHERE api_keys.tenant_id = purged.id
        ), deleted_owners AS (
            DELETE FROM owners USING purged WHERE owners.tenant_id = purged.id
        ), deleted_events AS (
            DELETE FROM events USING purged WHERE events.tenant_id = purged.id
        ), deleted_tenant AS (
            DELETE FROM tenants USING purged WHERE tenants.id = purged.id RETURNING tenants.id
        ), new_event AS (
            INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
            SELECT 'tenant.purged', $3, id, $4, $5, '{}' FROM purged
        )
        SELECT id FROM deleted_tenant
        ",
        before,
        limit,
        now,
        &*actor.event_caller(),
        actor.trace_id(),
    )
    .fetch_all(connection)
    .await
}
