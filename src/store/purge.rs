//! Permanently deletes tenants that were soft-deleted, with everything that refers to them.

use sqlx::error::DatabaseError;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, pool::PooledConnection, tenant_transaction::TenantTransaction};
use crate::{
    domain::{Actor, Slug, TenantId},
    error::{Error, Result},
};

/// A transaction outside the service, which takes no lock, may insert a row of a tenant that is being purged. The
/// foreign key or a deadlock then fails the statement; it is retried.
const MAX_ATTEMPTS: usize = 3;

/// What a purge of one tenant found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeOutcome {
    Purged,
    NotFound,
    NotDeleted,
    /// The tenant has another slug than the caller expected.
    OtherSlug,
}

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

    /// Purges a deleted tenant that has this slug.
    ///
    /// # Errors
    /// [`Error::Conflict`] if transactions outside the service inserted rows of the tenant, or locked it, in each
    /// attempt.
    pub async fn purge_tenant(
        &self,
        tenant_id: TenantId,
        slug: &Slug,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<PurgeOutcome> {
        for _ in 0..MAX_ATTEMPTS {
            let mut transaction = self.begin_as_provisioner("purge_tenant", tenant_id).await?;
            let tenant = sqlx::query!(
                r#"SELECT slug, deleted_at IS NOT NULL AS "is_deleted!" FROM tenants WHERE id = $1"#,
                tenant_id.as_uuid(),
            )
            .fetch_optional(transaction.connection())
            .await?;
            let refusal = match tenant {
                None => Some(PurgeOutcome::NotFound),
                Some(tenant) if !tenant.is_deleted => Some(PurgeOutcome::NotDeleted),
                Some(tenant) if tenant.slug != slug.as_str() => Some(PurgeOutcome::OtherSlug),
                Some(_) => None,
            };
            if let Some(refusal) = refusal {
                transaction.rollback().await?;
                return Ok(refusal);
            }
            match delete(transaction, &[tenant_id.as_uuid()], None, actor, now).await {
                Err(error) if has_lost_race(&error) => {}
                // A transaction outside the service has locked the tenant.
                Ok(ids) if ids.is_empty() => {}
                deleted => return deleted.map(|_ids| PurgeOutcome::Purged).map_err(Error::from),
            }
        }
        Err(Error::Conflict)
    }

    /// Purges up to `limit` tenants that were deleted before this time, in one transaction. Returns their ids: fewer
    /// than `limit` if no more are left or if others are locked by a concurrent transaction.
    ///
    /// # Errors
    /// As [`Self::purge_tenant`].
    pub async fn purge_tenants(
        &self,
        before: OffsetDateTime,
        limit: usize,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<Vec<TenantId>> {
        let limit = i64::try_from(limit).map_err(Error::internal)?;
        for _ in 0..MAX_ATTEMPTS {
            let mut transaction = self.begin_for_several("purge_tenants").await?;
            let ids = lock_purgeable(transaction.connection(), before, limit).await?;
            match delete(transaction, &ids, Some(before), actor, now).await {
                Err(error) if has_lost_race(&error) => {}
                deleted => return Ok(deleted?.into_iter().map(TenantId::from_uuid).collect()),
            }
        }
        Err(Error::Conflict)
    }
}

fn has_lost_race(error: &sqlx::Error) -> bool {
    const DEADLOCK_DETECTED: &str = "40P01";
    let is_race = |error: &dyn DatabaseError| {
        error.is_foreign_key_violation() || error.code().as_deref() == Some(DEADLOCK_DETECTED)
    };
    error.as_database_error().is_some_and(is_race)
}

/// Takes the locks of tenants to purge. Two concurrent purges take different tenants.
async fn lock_purgeable(
    connection: &mut PooledConnection,
    before: OffsetDateTime,
    limit: i64,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "
        SELECT id
          FROM tenants
         WHERE deleted_at < $1 AND pg_try_advisory_xact_lock(tenant_lock_key(id))
         ORDER BY deleted_at
         LIMIT $2
        ",
        before,
        limit,
    )
    .fetch_all(connection)
    .await
}

/// Deletes those of the tenants that are still deleted, with all their rows, and commits. The transaction holds their
/// locks, so that this statement sees every row that the service has written. Returns their ids.
async fn delete(
    mut transaction: TenantTransaction,
    ids: &[Uuid],
    before: Option<OffsetDateTime>,
    actor: &Actor,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<Uuid>> {
    // Foreign keys are checked at the end of the statement, so the order of the CTEs does not matter. Idempotency
    // records and usage counters are deleted with their tenant (ON DELETE CASCADE).
    let deleted = sqlx::query_scalar!(
        "
        WITH purged AS (
            SELECT id
              FROM tenants
             WHERE id = ANY($1::uuid[]) AND deleted_at < coalesce($2::timestamptz, 'infinity')
               FOR UPDATE SKIP LOCKED
        ), deleted_packages AS (
            DELETE FROM packages USING purged WHERE packages.tenant_id = purged.id
        ), deleted_segments AS (
            DELETE FROM segments USING purged WHERE segments.tenant_id = purged.id
        ), deleted_keys AS (
            DELETE FROM api_keys USING purged WHERE api_keys.tenant_id = purged.id
        ), deleted_owners AS (
            DELETE FROM owners USING purged WHERE owners.tenant_id = purged.id RETURNING canonical_email
        ), deleted_email AS MATERIALIZED (
            -- As `email_hash` in domain/log_in.rs.
            SELECT sha256('email'::bytea || '\\x00'::bytea || convert_to(canonical_email, 'UTF8')) AS hash
              FROM deleted_owners
        ), deleted_attempts AS (
            DELETE FROM password_attempts USING deleted_email WHERE email_hash = deleted_email.hash
        ), deleted_events AS (
            DELETE FROM events USING purged WHERE events.tenant_id = purged.id
        ), deleted_tenants AS (
            DELETE FROM tenants USING purged WHERE tenants.id = purged.id RETURNING tenants.id
        ), new_event AS (
            INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
            SELECT 'tenant.purged', $3, id, $4, $5, '{}' FROM purged
        )
        SELECT id FROM deleted_tenants
        ",
        ids,
        before,
        now,
        &*actor.event_caller(),
        actor.trace_id(),
    )
    .fetch_all(transaction.connection())
    .await?;
    transaction.commit().await?;
    Ok(deleted)
}
