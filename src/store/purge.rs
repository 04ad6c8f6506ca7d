//! Deleted tenants, removed for good.

use sqlx::error::DatabaseError;
use time::OffsetDateTime;

use super::{Store, pool::PooledConnection};
use crate::error::{Error, Result};

/// A call that found the tenant alive may write a last row that the statement does not see. The next one does.
const ATTEMPTS: usize = 3;

impl Store {
    /// How many tenants were deleted before this moment, and the slugs of up to `limit` of them, oldest deletion first.
    ///
    /// # Errors
    /// Those of the database.
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

    /// Removes up to `limit` tenants that were deleted before this moment, with all they have, in one statement and so
    /// whole or not at all. Answers how many; fewer than `limit` only where no more are left, or where somebody else is
    /// at them this very moment.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn purge_tenants(&self, before: OffsetDateTime, limit: i64) -> Result<u64> {
        for _ in 0..ATTEMPTS {
            match try_purge(&mut self.acquire("purge_tenants").await?, before, limit).await {
                Err(error) if error.as_database_error().is_some_and(DatabaseError::is_foreign_key_violation) => {}
                removed => return Ok(removed?),
            }
        }
        Err(Error::Conflict)
    }
}

async fn try_purge(connection: &mut PooledConnection, before: OffsetDateTime, limit: i64) -> sqlx::Result<u64> {
    // Foreign keys are looked at when the whole statement has ended, so the order of the parts is free.
    let removed = sqlx::query_scalar!(
        r#"
        WITH purged AS (
            SELECT id FROM tenants WHERE deleted_at < $1 ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ), deleted_packages AS (
            DELETE FROM packages USING purged WHERE packages.tenant_id = purged.id
        ), deleted_segments AS (
            DELETE FROM segments USING purged WHERE segments.tenant_id = purged.id
        ), deleted_keys AS (
            DELETE FROM api_keys USING purged WHERE api_keys.tenant_id = purged.id
        ), deleted_owners AS (
            DELETE FROM owners USING purged WHERE owners.tenant_id = purged.id
        ), deleted_tenant AS (
            DELETE FROM tenants USING purged WHERE tenants.id = purged.id RETURNING tenants.id
        )
        SELECT count(*) AS "count!" FROM deleted_tenant
        "#,
        before,
        limit,
    )
    .fetch_one(connection)
    .await?;
    Ok(removed.unsigned_abs())
}
