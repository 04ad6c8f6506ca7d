//! Further servers that answer reads of the catalog: the workers of Citus (docs/scaling.md). All else goes to the
//! database.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    DatabaseHosts, Store,
    executor::STATEMENT_RESPONSE_TIMEOUT,
    pool::{ConnectionPool, PooledConnection, Probed},
    with_session_settings,
};
use crate::{
    domain::TenantId,
    error::{Error, Result},
};

#[derive(Debug, Default)]
pub(super) struct CatalogReaders {
    pools: Vec<ConnectionPool>,
    next: AtomicUsize,
}

impl CatalogReaders {
    /// Returns the pool whose turn it is; `None` if there are no such servers.
    fn next(&self) -> Option<&ConnectionPool> {
        // Usually there are none, and then no call writes to the counter, which all threads share.
        if self.pools.is_empty() {
            return None;
        }
        self.pools.get(self.next.fetch_add(1, Ordering::Relaxed) % self.pools.len())
    }

    pub(super) fn close_idle(&self) {
        self.pools.iter().for_each(ConnectionPool::close_idle);
    }

    pub(super) async fn close(&self) {
        for pool in &self.pools {
            pool.close().await;
        }
    }
}

impl Store {
    /// Sends reads of the catalog to these servers in turn, over as many connections to each as to the database.
    #[must_use]
    pub fn with_catalog_readers(mut self, readers: impl Iterator<Item = DatabaseHosts>, max_connections: u32) -> Self {
        let pools = readers.map(|host| {
            let pool =
                ConnectionPool::new(with_session_settings(host), max_connections, Some(STATEMENT_RESPONSE_TIMEOUT));
            // No probe checks it.
            pool.set_probed(Probed::Reachable);
            pool
        });
        self.catalog_readers = CatalogReaders { pools: pools.collect(), next: AtomicUsize::new(0) }.into();
        self
    }

    /// As [`Store::acquire_for`], for one statement that reads the tenant's catalog. Falls back to the database if the
    /// server cannot be reached.
    pub(super) async fn acquire_for_read(
        &self,
        tenant_id: TenantId,
        operation: &'static str,
    ) -> Result<PooledConnection> {
        let Some(reader) = self.catalog_readers.next() else { return self.acquire_for(tenant_id, operation).await };
        let turn = self.tenant_queues.wait_for_turn(tenant_id).await.ok_or_else(|| self.pool.wait_timed_out())?;
        let mut connection = match reader.acquire(operation).await {
            Err(Error::DatabaseUnavailable(_)) => self.pool.acquire(operation).await?,
            connection => connection?,
        };
        connection.keep_turn(turn);
        Ok(connection)
    }
}
