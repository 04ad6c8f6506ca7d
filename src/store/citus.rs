//! Everything in the store that differs between plain Postgres and Citus (docs/adr/0023-citus.md).
//!
//! On Citus, segments and packages are distributed by tenant; all other tables stay on the coordinator. `citus.sql`
//! distributes them, and has the procedures that are called here.

use sqlx::{AssertSqlSafe, PgConnection, Row as _, error::DatabaseError};
use uuid::Uuid;

use super::pool::PooledConnection;
use crate::domain::TenantId;

/// What `turnkey migrate` has made of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Postgres,
    Citus,
}

impl Engine {
    pub(super) async fn detect(connection: &mut PgConnection) -> sqlx::Result<Self> {
        let procedure = sqlx::raw_sql("SELECT to_regprocedure('public.enter_catalog(uuid)')::text");
        let is_citus = procedure.fetch_one(connection).await?.try_get::<Option<&str>, _>(0)?.is_some();
        Ok(if is_citus { Self::Citus } else { Self::Postgres })
    }

    /// Returns the SQL that begins a transaction.
    pub(super) const fn begin_sql(self) -> &'static str {
        match self {
            Self::Postgres => "BEGIN",
            // It may write on the coordinator and on one worker.
            Self::Citus => "BEGIN; CALL use_two_phase_commit()",
        }
    }

    /// Returns the SQL that sets the catalog role until the end of the transaction. Row-level security then shows only
    /// this tenant's rows.
    pub(super) fn set_catalog_role_sql(self, tenant_id: TenantId) -> String {
        match self {
            Self::Postgres => format!("SET LOCAL ROLE turnkey_catalog; SET LOCAL turnkey.tenant_id = '{tenant_id}'"),
            // Citus would repeat SET LOCAL on the workers with all other statements of its query.
            Self::Citus => format!("CALL enter_catalog('{tenant_id}')"),
        }
    }
}

/// Whether the database is that of a worker, which cannot be migrated.
pub(super) async fn is_worker(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let has_groups = "SELECT to_regclass('pg_dist_local_group') IS NOT NULL";
    if !sqlx::query_scalar::<_, bool>(has_groups).fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    sqlx::query_scalar("SELECT groupid <> 0 FROM pg_dist_local_group").fetch_one(connection).await
}

/// Distributes the tables of a migrated database that has the extension, unless they are.
pub(super) async fn distribute(connection: &mut PgConnection) -> sqlx::Result<()> {
    // In a transaction of its own: in that of citus.sql, Citus would copy its owner and the roles of its tables to the
    // workers as this user, who may not do that.
    let create_schema = "DO $$
        BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                CREATE SCHEMA IF NOT EXISTS catalog;
            END IF;
        END $$";
    sqlx::raw_sql(create_schema).execute(&mut *connection).await?;
    sqlx::raw_sql(include_str!("citus.sql")).execute(connection).await.map(drop)
}

/// Changes settings of a new session. Citus plans most statements for each execution, because the arguments decide
/// which worker has the rows; and a transaction uses one connection to each worker, so that it sees what it has
/// written. Several workers work at the same time.
pub(super) async fn set_up_session(connection: &mut PgConnection) -> sqlx::Result<()> {
    let settings = "SET plan_cache_mode = auto; SET citus.max_adaptive_executor_pool_size = 1";
    sqlx::raw_sql(settings).execute(connection).await.map(drop)
}

/// Prepares a session for the statement that creates tenants. On Citus, it then writes segments and packages into
/// tables of the coordinator, whose rows a trigger moves to the workers.
pub(super) async fn begin_creation(connection: &mut PooledConnection) -> sqlx::Result<()> {
    match connection.pool.engine() {
        Engine::Postgres => Ok(()),
        Engine::Citus => sqlx::raw_sql("SET search_path = new_tenants, public").execute(connection).await.map(drop),
    }
}

/// Ends what [`begin_creation`] began. A session where that fails is not used again.
pub(super) async fn end_creation(connection: &mut PooledConnection) {
    if connection.pool.engine() == Engine::Citus
        && connection.is_reusable()
        && sqlx::raw_sql("RESET search_path").execute(&mut *connection).await.is_err()
    {
        connection.close_on_drop();
    }
}

/// Makes the row of a tenant on its worker agree with that of the coordinator, as a part of its repair.
pub(super) async fn restore_tenant(connection: &mut PooledConnection, tenant_id: TenantId) -> sqlx::Result<()> {
    match connection.pool.engine() {
        Engine::Postgres => Ok(()),
        Engine::Citus => {
            // A UUID needs no escaping.
            let call = AssertSqlSafe(format!("CALL restore_tenant('{tenant_id}')"));
            sqlx::raw_sql(call).execute(connection).await.map(drop)
        }
    }
}

/// Waits until the transactions that create or purge these tenants have ended on the workers, too. The coordinator
/// commits first, so for a moment a new tenant is there without its catalog. They hold the tenants' locks until then.
pub(super) async fn wait_for_tenants(connection: &mut PooledConnection, tenant_ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock_shared(public.tenant_lock_key(id)) FROM unnest($1::uuid[]) AS id")
        .bind(tenant_ids)
        .execute(connection)
        .await
        .map(drop)
}

/// Whether the error is a violation of this constraint on a shard. The name then has the shard's number, and of an
/// error on a worker, Citus keeps the text only.
pub(super) fn is_violation_on_shard(error: &dyn DatabaseError, constraint: &str) -> bool {
    const INTEGRITY_CONSTRAINT_VIOLATION: &str = "23";
    let is_violation = error.code().is_some_and(|code| code.starts_with(INTEGRITY_CONSTRAINT_VIOLATION));
    is_violation && error.message().split('"').any(|name| is_name_on_shard(name, constraint))
}

fn is_name_on_shard(name: &str, constraint: &str) -> bool {
    let suffix = name.strip_prefix(constraint);
    suffix.is_some_and(|suffix| suffix.strip_prefix('_').unwrap_or(suffix).bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_constraint_on_a_shard_ends_with_the_number_of_the_shard() {
        assert!(is_name_on_shard("packages_slug_key_102032", "packages_slug_key"));
        assert!(is_name_on_shard("tenant_fully_provisioned", "tenant_fully_provisioned"));
        assert!(!is_name_on_shard("packages_slug_key_other", "packages_slug_key"));
        assert!(!is_name_on_shard("segments_slug_key_102032", "packages_slug_key"));
    }
}
