//! Transactions that change one tenant. Every change to a catalog runs in a transaction that can see this tenant only.
//! [`super::catalog_read`] has the reads.

use sqlx::AssertSqlSafe;

use super::{Store, pool::PooledConnection};
use crate::{domain::TenantId, error::Result};

/// A transaction that holds the lock of one tenant, or of several.
///
/// The connection returns to the pool only after COMMIT or ROLLBACK has been acknowledged; otherwise it is closed,
/// because its transaction state is unknown. For example, if the opening query fails at the lock, a transaction is open
/// that sqlx does not know of.
pub(super) struct TenantTransaction {
    connection: PooledConnection,
    has_ended: bool,
}

/// As which role a transaction runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Sees one tenant's catalog and nothing else.
    Catalog,
    /// Has all privileges of the service.
    Provisioner,
}

impl Store {
    /// Begins a transaction that takes the locks of several tenants itself, with all privileges of the service.
    pub(super) async fn begin_for_several(&self, operation: &'static str) -> Result<TenantTransaction> {
        let connection = self.acquire("BEGIN").await?;
        let mut transaction = TenantTransaction { connection, has_ended: false };
        let begin = transaction.connection.pool.engine().begin_sql();
        sqlx::raw_sql(begin).execute(transaction.connection()).await?;
        transaction.connection.set_operation(operation);
        Ok(transaction)
    }

    /// Begins a transaction that changes a tenant's catalog, as the role that has no other privileges.
    pub(super) async fn begin_as_catalog(
        &self,
        operation: &'static str,
        tenant_id: TenantId,
    ) -> Result<TenantTransaction> {
        self.begin(operation, Role::Catalog, tenant_id).await
    }

    /// Begins a transaction with all privileges of the service.
    pub(super) async fn begin_as_provisioner(
        &self,
        operation: &'static str,
        tenant_id: TenantId,
    ) -> Result<TenantTransaction> {
        self.begin(operation, Role::Provisioner, tenant_id).await
    }

    /// Begins a transaction and takes the tenant's lock, in one round trip. Preconditions over several rows (the last
    /// package, generated slugs, order) hold only if transactions read and write one after the other. The lock precedes
    /// the statement that reads: inside that statement it would be taken after the snapshot.
    async fn begin(&self, operation: &'static str, role: Role, tenant_id: TenantId) -> Result<TenantTransaction> {
        let connection = self.acquire_for(tenant_id, "BEGIN").await?;
        let mut transaction = TenantTransaction { connection, has_ended: false };
        let (engine, lock) = (transaction.connection.pool.engine(), lock_key(tenant_id));
        let begin = engine.begin_sql();
        let role = match role {
            Role::Catalog => engine.set_catalog_role_sql(tenant_id) + "; ",
            Role::Provisioner => String::new(),
        };
        // A query of several statements cannot have parameters. A UUID and a number need no escaping.
        let opening = AssertSqlSafe(format!("{begin}; {role}SELECT pg_advisory_xact_lock({lock})"));
        sqlx::raw_sql(opening).execute(transaction.connection()).await?;
        transaction.connection.set_operation(operation);
        Ok(transaction)
    }
}

impl TenantTransaction {
    pub(super) fn connection(&mut self) -> &mut PooledConnection {
        &mut self.connection
    }

    /// Commits. Postgres checks deferred constraints here, so the caller maps their violations.
    pub(super) async fn commit(self) -> sqlx::Result<()> {
        self.end("COMMIT").await
    }

    pub(super) async fn rollback(self) -> sqlx::Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> sqlx::Result<()> {
        self.connection.set_operation(statement);
        sqlx::raw_sql(statement).execute(self.connection()).await?;
        self.has_ended = true;
        Ok(())
    }
}

impl Drop for TenantTransaction {
    fn drop(&mut self) {
        if !self.has_ended {
            self.connection.close_on_drop();
        }
    }
}

/// Returns the last 8 bytes of the id, which are random. Two tenants with the same key would only wait for each other.
fn lock_key(tenant_id: TenantId) -> i64 {
    let (_, random) = tenant_id.as_uuid().as_u64_pair();
    random.cast_signed()
}
