//! Transactions that change what one tenant has. A change to a catalog reaches the database in no other way than by one that
//! can see nobody else; for reads see [`super::tenant_read`].

use sqlx::AssertSqlSafe;

use super::{Store, pool::PooledConnection};
use crate::{domain::TenantId, error::Result};

/// A transaction about one tenant.
///
/// The connection goes back to the pool when COMMIT or ROLLBACK has been answered. On every other way out it is closed,
/// because nobody knows what state it is in: an opening query that fails in the middle, at the lock for instance, leaves
/// a transaction open that sqlx does not know of.
pub(super) struct TenantTransaction {
    connection: PooledConnection,
    has_ended: bool,
}

/// From here to the end of the transaction: as the catalog role, under row-level security that shows it this tenant alone.
pub(super) fn set_catalog_role_sql(tenant_id: TenantId) -> String {
    format!("SET LOCAL ROLE turnkey_catalog; SET LOCAL turnkey.tenant_id = '{tenant_id}'")
}

impl Store {
    /// Begins to change a tenant's catalog, as the role that may do nothing else.
    pub(super) async fn begin_as_catalog(
        &self,
        operation: &'static str,
        tenant_id: TenantId,
    ) -> Result<TenantTransaction> {
        self.begin(operation, &format!("{}; ", set_catalog_role_sql(tenant_id)), tenant_id).await
    }

    /// Begins as the service itself, which may do more than keep a catalog.
    pub(super) async fn begin_as_provisioner(
        &self,
        operation: &'static str,
        tenant_id: TenantId,
    ) -> Result<TenantTransaction> {
        self.begin(operation, "", tenant_id).await
    }

    /// Begins, and waits for its turn, all in one round trip: rules over several rows (the last package, slugs and places
    /// made up) hold only if one at a time looks and writes. The lock comes before the statement that looks: taken inside
    /// it, it would come after its snapshot.
    async fn begin(&self, operation: &'static str, role: &str, tenant_id: TenantId) -> Result<TenantTransaction> {
        let connection = self.acquire("BEGIN").await?;
        let mut transaction = TenantTransaction { connection, has_ended: false };
        let lock = lock_key(tenant_id);
        // Several statements in one query take no parameters; a UUID and a number need no quoting.
        let opening = AssertSqlSafe(format!("BEGIN; {role}SELECT pg_advisory_xact_lock({lock})"));
        sqlx::raw_sql(opening).execute(transaction.connection()).await?;
        transaction.connection.set_operation(operation);
        Ok(transaction)
    }
}

impl TenantTransaction {
    pub(super) fn connection(&mut self) -> &mut PooledConnection {
        &mut self.connection
    }

    /// Deferred constraints are checked here: the caller maps the violation of one that it knows.
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

/// The last 8 bytes of the id, which are random: two tenants that share a lock merely wait for each other.
fn lock_key(tenant_id: TenantId) -> i64 {
    let (_, random) = tenant_id.as_uuid().as_u64_pair();
    random.cast_signed()
}
