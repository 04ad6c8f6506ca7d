//! The database: all SQL, and no business decisions.
//!
//! There is a file for each kind of row. A method has the name of the RPC that it serves, takes parsed values and makes
//! one round trip where possible. Its SQL is inline and checked against the schema at compile time; its row types are
//! private. Only [`Store`] begins and commits transactions.

mod adoption;
mod api_key_lookups;
mod api_keys;
mod catalog_read;
mod catalog_readers;
mod citus;
mod error;
mod events;
mod excess_privileges;
mod executor;
mod hosts;
mod idempotency;
mod integrity;
mod migrate;
mod owner_tokens;
mod owners;
mod package_upsert;
mod packages;
mod password_attempts;
mod pool;
mod probe;
mod provisioning;
mod purge;
mod repair;
mod segment_upsert;
mod segments;
mod shared_statements;
mod slug_search;
mod tenant_list;
mod tenant_queue;
mod tenant_transaction;
mod tenants;

use std::sync::Arc;

pub use adoption::{AdoptionOutcome, ExistingParts};
pub use hosts::DatabaseHosts;
pub use migrate::{MigrateError, grant_provisioner, migrate};
pub use owner_tokens::{ResetResult, ResetToken};
pub use owners::Owner;
pub use package_upsert::NewPackageIds;
pub use password_attempts::{AttemptEnd, AttemptStart};
pub use probe::{NotReady, Probe, check_migrated};
pub use provisioning::Insertion;
pub use purge::PurgeOutcome;
pub use repair::{RepairPlan, RepairResult};
pub use shared_statements::Lane;

use self::{
    adoption::AdoptionStatement,
    api_key_lookups::KeyLookups,
    catalog_readers::CatalogReaders,
    executor::STATEMENT_RESPONSE_TIMEOUT,
    pool::{ConnectionPool, PooledConnection, Probed},
    provisioning::Provisioning,
    shared_statements::SharedStatements,
    tenant_queue::TenantQueues,
};
use crate::{domain::TenantId, error::Result, telemetry::metrics::PoolStats};

const STATEMENT_TIMEOUT_MS: &str = "4000";

/// Access to the database through a pool of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: ConnectionPool,
    lookups: SharedStatements<KeyLookups>,
    provisioning: SharedStatements<Provisioning>,
    adoption: SharedStatements<AdoptionStatement>,
    tenant_queues: Arc<TenantQueues>,
    catalog_readers: Arc<CatalogReaders>,
}

impl Store {
    /// Creates a store. It connects when it is first used, so that the service can start before the database.
    pub fn new(hosts: DatabaseHosts, max_connections: u32) -> Self {
        let hosts = with_session_settings(hosts);
        Self::with_pool(ConnectionPool::new(hosts, max_connections, Some(STATEMENT_RESPONSE_TIMEOUT)))
    }

    /// Creates a store for commands that no caller waits for: one connection, without a statement timeout.
    pub fn for_batch_jobs(hosts: DatabaseHosts) -> Self {
        let settings = [("statement_timeout", "0"), ("enable_seqscan", "on"), ("plan_cache_mode", "auto")];
        let hosts = with_session_settings(hosts).map(|host| host.options(settings));
        Self::with_pool(ConnectionPool::new(hosts, 1, None))
    }

    /// Creates a store for an adoption, whose statements insert large tenants: without a statement timeout.
    pub fn for_adoption(hosts: DatabaseHosts, max_connections: u32) -> Self {
        let hosts = with_session_settings(hosts).map(|host| host.options([("statement_timeout", "0")]));
        Self::with_pool(ConnectionPool::new(hosts, max_connections, None))
    }

    fn with_pool(pool: ConnectionPool) -> Self {
        Self {
            lookups: SharedStatements::new(KeyLookups(pool.clone())),
            provisioning: SharedStatements::new(Provisioning(pool.clone())),
            adoption: SharedStatements::new(AdoptionStatement(pool.clone())),
            tenant_queues: Arc::default(),
            catalog_readers: Arc::default(),
            pool,
        }
    }

    /// Lets calls wait for the first result of a probe.
    pub fn expect_probe(&self) {
        self.pool.set_probed(Probed::NotYet);
    }

    /// Records the last result of the probe. It distinguishes an exhausted pool from an unreachable database, and calls
    /// fail while statements could run in place of others.
    pub fn record_probe(&self, result: &std::result::Result<(), NotReady>) {
        self.pool.set_probed(match result {
            Err(NotReady::PreparedStatementsDropped) => Probed::Unsafe,
            Err(NotReady::Unreachable(_) | NotReady::Unresponsive) => Probed::Unreachable,
            _ => Probed::Reachable,
        });
    }

    /// Closes connections that have been idle for 10 minutes. Called periodically.
    pub fn close_idle_connections(&self) {
        self.pool.close_idle();
        self.catalog_readers.close_idle();
    }

    pub fn pool_stats(&self) -> PoolStats {
        self.pool.stats()
    }

    /// Closes the store. Call it after the last call has ended: it waits for statements whose calls have ended before
    /// them.
    pub async fn close(&self) {
        self.lookups.close().await;
        self.provisioning.close().await;
        self.adoption.close().await;
        self.catalog_readers.close().await;
        self.pool.close().await;
    }

    /// Returns a connection for one statement or one transaction that concerns no tenant, or several. `operation` names
    /// the method in spans and metrics.
    async fn acquire(&self, operation: &'static str) -> Result<PooledConnection> {
        self.pool.acquire(operation).await
    }

    /// Returns a connection for one statement or one transaction for this tenant, when it is the call's turn among
    /// those of the tenant. A method must not hold two such connections: all its tenant's turns could be used by such
    /// methods.
    ///
    /// # Errors
    /// As [`ConnectionPool::acquire`].
    async fn acquire_for(&self, tenant_id: TenantId, operation: &'static str) -> Result<PooledConnection> {
        let turn = self.tenant_queues.wait_for_turn(tenant_id).await.ok_or_else(|| self.pool.wait_timed_out())?;
        let mut connection = self.pool.acquire(operation).await?;
        connection.keep_turn(turn);
        Ok(connection)
    }
}

/// Returns a value of each item, as an array argument for `unnest`.
fn column<'a, Item, Value>(items: &'a [Item], value: impl Fn(&'a Item) -> Value) -> Vec<Value> {
    items.iter().map(value).collect()
}

/// The settings of every session that the service relies on. The probe compares them with `pg_settings`, so the values
/// have its format; times are in milliseconds.
const SESSION_SETTINGS: [(&str, &str); 4] = [
    // Idempotency relies on READ COMMITTED: a statement that blocked on another transaction must see its committed
    // rows.
    ("default_transaction_isolation", "read committed"),
    ("statement_timeout", STATEMENT_TIMEOUT_MS),
    ("lock_timeout", "2000"),
    ("idle_in_transaction_session_timeout", "5000"),
];

fn with_session_settings(hosts: DatabaseHosts) -> DatabaseHosts {
    let for_speed = [
        // Compiling a statement would take longer than running it.
        ("jit", "off"),
        // Every query uses an index. Otherwise plans that were cached while the tables were small, triggers' plans
        // included, would scan the tables after they have grown.
        ("enable_seqscan", "off"),
        // A statement is planned once in a session. Otherwise Postgres would plan some, such as lists, for each
        // execution, because their cost seems to depend on the arguments: 0.3 ms more for a page of 100,000 tenants.
        ("plan_cache_mode", "force_generic_plan"),
    ];
    hosts.map(|host| host.application_name("turnkey").options(SESSION_SETTINGS).options(for_speed))
}
