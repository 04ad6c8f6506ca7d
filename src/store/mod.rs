//! The database: every line of SQL, and nothing that decides.
//!
//! Files are named after what they keep. A method is named after the RPC it serves, takes parsed values and makes one
//! round trip where it can; its SQL stands inline, checked against the schema when it is compiled, with row types that
//! stay private. [`Store`] alone begins and commits.

mod api_key_lookups;
mod api_keys;
mod catalog_read;
mod claim_rows;
mod error;
mod executor;
mod idempotency;
mod integrity;
mod migrate;
mod owners;
mod package_upsert;
mod packages;
mod pool;
mod probe;
mod provisioning;
mod purge;
mod repair;
mod segments;
mod tenant_transaction;
mod tenants;

use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;

pub use migrate::{MigrateError, grant_provisioner, migrate};
pub use owners::Owner;
pub use package_upsert::NewPackageIds;
pub use probe::{NotReady, Probe};
pub use repair::RepairPlan;

use self::{
    api_key_lookups::KeyLookupQueue,
    executor::STATEMENT_RESPONSE_TIMEOUT,
    pool::{ConnectionPool, PooledConnection},
};
use crate::{error::Result, telemetry::metrics::PoolStats};

const STATEMENT_TIMEOUT_MS: &str = "4000";

/// The database behind its connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: ConnectionPool,
    lookups: Arc<KeyLookupQueue>,
}

impl Store {
    /// Connects when first used, so that a service can start before its database.
    pub fn new(options: PgConnectOptions, max_connections: u32) -> Self {
        Self {
            pool: ConnectionPool::new(
                with_session_settings(options),
                max_connections,
                Some(STATEMENT_RESPONSE_TIMEOUT),
            ),
            lookups: Arc::default(),
        }
    }

    /// For work that no caller waits for: one connection, on which a statement takes the time it needs.
    pub fn for_batch_jobs(options: PgConnectOptions) -> Self {
        let options = with_session_settings(options).options([("statement_timeout", "0"), ("enable_seqscan", "on")]);
        Self { pool: ConnectionPool::new(options, 1, None), lookups: Arc::default() }
    }

    /// What the probe saw last. A pool that gives no connection is full if the database is there, and empty if not; the
    /// pool itself cannot tell which.
    pub fn set_reachable(&self, reachable: bool) {
        self.pool.set_reachable(reachable);
    }

    /// To be called now and then.
    pub fn close_idle_connections(&self) {
        self.pool.close_idle();
    }

    pub fn pool_stats(&self) -> PoolStats {
        self.pool.stats()
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Returns a connection for one statement or one transaction. `operation` names the method in spans and metrics.
    async fn acquire(&self, operation: &'static str) -> Result<PooledConnection> {
        self.pool.acquire(operation).await
    }
}

/// What every session of the service promises the database, so that no call can hold it up for long. Values as
/// `pg_settings` shows them; times are in milliseconds.
const SESSION_SETTINGS: [(&str, &str); 4] = [
    // What a statement that waited for another sees when it goes on hangs on it, and so does this service.
    ("default_transaction_isolation", "read committed"),
    ("statement_timeout", STATEMENT_TIMEOUT_MS),
    ("lock_timeout", "2000"),
    ("idle_in_transaction_session_timeout", "5000"),
];

fn with_session_settings(options: PgConnectOptions) -> PgConnectOptions {
    options.application_name("turnkey").options(SESSION_SETTINGS).options([
        // Compiling a statement takes longer than any of these.
        ("jit", "off"),
        // Every statement finds its rows by a key. What is planned while tables are small is kept when they have grown, the
        // triggers' plans too, and must not read them from end to end then.
        ("enable_seqscan", "off"),
    ])
}
