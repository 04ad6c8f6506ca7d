//! The database: every line of SQL, and nothing that decides.
//!
//! Files are named after what they keep. A method is named after the RPC it serves, takes parsed values and makes one
//! round trip where it can; its SQL stands inline, checked against the schema when it is compiled, with row types that
//! stay private. [`Store`] alone begins and commits.

mod api_keys;
mod claims;
mod error;
mod integrity;
mod migrate;
mod owners;
mod package_upsert;
mod packages;
mod probe;
mod provisioning;
mod purge;
mod segments;
mod tenant_transaction;
mod tenants;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use integrity::Remedies;
pub use migrate::{MigrateError, grant_provisioner, migrate};
pub use owners::Owner;
pub use package_upsert::NewIds;
pub use probe::{NotReady, Probe};

use crate::error::Error;

/// How long a caller waits for a connection before it hears that the service is overloaded.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection idle for longer is tried before it is lent; trying every time would cost each call a round trip.
const TRUST_IDLE_FOR: Duration = Duration::from_secs(5);
/// Connections are made anew after this, so that a moved host name is followed.
const MAX_LIFETIME: Duration = Duration::from_mins(30);
const STATEMENT_TIMEOUT_MS: &str = "4000";
const NO_TIMEOUT_MS: &str = "0";
const LOCK_TIMEOUT_MS: &str = "2000";
const IDLE_IN_TRANSACTION_TIMEOUT_MS: &str = "5000";

/// The pool, and whether the database behind it answered lately. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    reachable: Arc<AtomicBool>,
}

impl Store {
    /// Connects when first used, so that a service can start before its database.
    #[must_use]
    pub fn new(options: PgConnectOptions, max_connections: u32) -> Self {
        Self::with(session(options, STATEMENT_TIMEOUT_MS), max_connections)
    }

    /// For work that no caller waits for: one connection, on which a statement takes the time it needs.
    #[must_use]
    pub fn unhurried(options: PgConnectOptions) -> Self {
        Self::with(session(options, NO_TIMEOUT_MS), 1)
    }

    fn with(options: PgConnectOptions, max_connections: u32) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .max_lifetime(MAX_LIFETIME)
            .test_before_acquire(false)
            .before_acquire(|connection, metadata| {
                Box::pin(async move {
                    if metadata.idle_for > TRUST_IDLE_FOR {
                        sqlx::Connection::ping(connection).await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options);
        Self { pool, reachable: Arc::new(AtomicBool::new(true)) }
    }

    /// What the probe saw last. A pool that gives no connection is full if the database is there, and empty if not; the
    /// pool itself cannot tell which.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn error(&self, error: sqlx::Error) -> Error {
        error::from_sqlx(error, self.reachable.load(Ordering::Relaxed))
    }
}

/// What every session of the service promises the database, so that no call can hold it up for long.
fn session(options: PgConnectOptions, statement_timeout_ms: &str) -> PgConnectOptions {
    options.application_name("turnkey").options([
        // What a statement that waited for another sees when it goes on hangs on it, and so does this service.
        ("default_transaction_isolation", "read committed"),
        // Compiling a statement takes longer than any of these.
        ("jit", "off"),
        ("statement_timeout", statement_timeout_ms),
        ("lock_timeout", LOCK_TIMEOUT_MS),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT_MS),
    ])
}
