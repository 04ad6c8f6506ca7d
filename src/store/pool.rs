//! The connection pool. It reuses a connection only if the state of its session is known. [`super::executor`] runs the
//! statements.
//!
//! sqlx's own pool is not used: when the network drops packets silently, it blocks on release forever and leaks the
//! slot (<https://github.com/transact-rs/sqlx/issues/4349>), and it pings on every release. deadpool manages the
//! connections instead.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgDatabaseError, PgSeverity},
};
use tokio::{
    sync::{OnceCell, watch},
    time::timeout,
};

use super::{
    DatabaseHosts, NotReady,
    citus::{self, Engine},
    tenant_queue::TenantTurn,
};
use crate::{
    error::{Error, Result},
    telemetry::metrics::PoolStats,
};

/// How long a call waits for a connection before it fails as overloaded.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that has been idle for longer is pinged before it is reused. Pinging each time would cost every call a
/// round trip.
const PING_AFTER_IDLE: Duration = Duration::from_secs(5);
/// How long a connection may take to respond to the ping.
const PING_TIMEOUT: Duration = Duration::from_millis(250);
/// Connections are replaced at this age, so that a changed DNS entry takes effect.
const MAX_LIFETIME: Duration = Duration::from_mins(30);
/// Connections that have been idle for this long are closed.
const MAX_IDLE: Duration = Duration::from_mins(10);

/// The connections of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ConnectionPool {
    pool: Pool<Connector>,
    pub probed: Arc<watch::Sender<Probed>>,
    /// How long to wait for the response to a statement; `None` is unlimited.
    pub response_timeout: Option<Duration>,
}

/// What the probe last found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Probed {
    /// No probe runs, as in a command, which has checked the database itself.
    #[default]
    Never,
    /// The first check has not ended. Calls wait for it.
    NotYet,
    Reachable,
    Unreachable,
    /// Statements could run in place of others: [`NotReady::PreparedStatementsDropped`]. No call runs one.
    Unsafe,
}

#[derive(Debug)]
struct Connector {
    hosts: DatabaseHosts,
    /// Found by the first connection.
    engine: OnceCell<Engine>,
    /// When a ping last timed out. Connections that were last used before that are presumed dead, too.
    last_ping_timeout: Mutex<Option<Instant>>,
}

impl Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> sqlx::Result<PgConnection> {
        // Boxed: otherwise the future of every call would contain the large future that connects.
        Box::pin(async {
            let mut connection = self.hosts.connect().await?;
            if *self.engine.get_or_try_init(|| Engine::detect(&mut connection)).await? == Engine::Citus {
                citus::set_up_session(&mut connection).await?;
            }
            Ok(connection)
        })
        .await
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.age() > MAX_LIFETIME {
            return Err(RecycleError::message("maximum lifetime exceeded"));
        }
        if metrics.last_used() <= PING_AFTER_IDLE {
            return Ok(());
        }
        if self.last_ping_timeout().is_some_and(|at| metrics.recycled.unwrap_or(metrics.created) < at) {
            return Err(RecycleError::message("last used before the last ping timeout"));
        }
        let Ok(result) = timeout(PING_TIMEOUT, connection.ping()).await else {
            *self.last_ping_timeout() = Some(Instant::now());
            return Err(RecycleError::message("ping timed out"));
        };
        Ok(result?)
    }
}

impl Connector {
    fn last_ping_timeout(&self) -> MutexGuard<'_, Option<Instant>> {
        // No code panics while it holds the lock.
        self.last_ping_timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionPool {
    /// Creates an empty pool of at most `max` connections.
    pub fn new(hosts: DatabaseHosts, max: u32, response_timeout: Option<Duration>) -> Self {
        let pool = Pool::builder(Connector { hosts, engine: OnceCell::new(), last_ping_timeout: Mutex::default() })
            .max_size(usize::try_from(max).unwrap_or(usize::MAX))
            // Prefer the most recently used connection; the others become idle and are closed.
            .queue_mode(QueueMode::Lifo)
            .build();
        // `build` fails only if a timeout is set without a runtime; no timeout is set.
        let pool = pool.unwrap_or_else(|error| unreachable!("{error}"));
        Self { pool, probed: Arc::default(), response_timeout }
    }

    /// The engine of the connections; plain Postgres before the first.
    pub fn engine(&self) -> Engine {
        self.pool.manager().engine.get().copied().unwrap_or(Engine::Postgres)
    }

    pub fn is_reachable(&self) -> bool {
        *self.probed.borrow() == Probed::Reachable
    }

    /// Records the result of the probe. While it does not reach the database, statements wait only briefly for their
    /// response.
    pub fn set_probed(&self, probed: Probed) {
        self.probed.send_replace(probed);
        if matches!(probed, Probed::Unreachable | Probed::Unsafe) {
            self.evict_idle();
        }
    }

    /// Drops all idle connections after one failed: they lead to the same host, which may no longer be the primary.
    fn evict_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    pub fn close_idle(&self) {
        self.pool.retain(|_, metrics| metrics.last_used() < MAX_IDLE);
    }

    /// Closes the pool. Called when no connection is in use any more.
    pub async fn close(&self) {
        let idle = self.pool.retain(|_, _| false);
        self.pool.close();
        for connection in idle.removed {
            // An error is irrelevant: the connection is dropped in any case.
            let _ = connection.close().await;
        }
    }

    pub fn stats(&self) -> PoolStats {
        let status = self.pool.status();
        let as_u64 = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        PoolStats {
            used: as_u64(status.size.saturating_sub(status.available)),
            idle: as_u64(status.available),
            max: as_u64(status.max_size),
            pending: as_u64(status.waiting),
        }
    }

    /// Waits for a free connection, at most [`ACQUIRE_TIMEOUT`].
    ///
    /// # Errors
    /// [`Error::Overloaded`] if all connections are in use, [`Error::DatabaseUnavailable`] if none can be had. The pool
    /// cannot tell the two apart when it times out; the last result of the probe can.
    pub async fn acquire(&self, operation: &'static str) -> Result<PooledConnection> {
        let object = timeout(ACQUIRE_TIMEOUT, self.get()).await.map_err(|_elapsed| self.wait_timed_out())??;
        Ok(PooledConnection { object: Some(object), is_reusable: true, pool: self.clone(), operation, turn: None })
    }

    async fn get(&self) -> Result<Object<Connector>> {
        if *self.probed.borrow() == Probed::NotYet {
            // An error is impossible: `self` has the sender.
            let _ = self.probed.subscribe().wait_for(|&probed| probed != Probed::NotYet).await;
        }
        if *self.probed.borrow() == Probed::Unsafe {
            return Err(Error::DatabaseUnavailable(Arc::new(NotReady::PreparedStatementsDropped)));
        }
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Closed => sqlx::Error::PoolClosed.into(),
            _ => self.wait_timed_out(),
        })
    }

    /// Returns the error of a call that has waited too long for a connection, or for its turn.
    pub fn wait_timed_out(&self) -> Error {
        if self.is_reachable() { Error::Overloaded } else { sqlx::Error::PoolTimedOut.into() }
    }
}

/// A connection in use. When dropped it returns to the pool, or is closed if the state of its session is unknown.
#[derive(Debug)]
pub(super) struct PooledConnection {
    /// `None` only while the connection is dropped.
    object: Option<Object<Connector>>,
    is_reusable: bool,
    pub pool: ConnectionPool,
    /// The store method that uses the connection; the name of its statements in spans and metrics.
    pub operation: &'static str,
    /// The tenant's turn in which the connection is used. The last field: it ends after the connection has returned.
    turn: Option<TenantTurn>,
}

impl PooledConnection {
    /// Ends the turn when the connection is dropped.
    pub fn keep_turn(&mut self, turn: TenantTurn) {
        self.turn = Some(turn);
    }

    pub fn set_operation(&mut self, operation: &'static str) {
        self.operation = operation;
    }

    pub fn is_reusable(&self) -> bool {
        self.is_reusable
    }

    /// Marks the connection non-reusable: it is closed when it is dropped.
    pub fn close_on_drop(&mut self) {
        self.is_reusable = false;
    }

    /// Marks the connection non-reusable until its next response is read. If the future is dropped in between, a stale
    /// response may still be in flight.
    pub fn begin_use(&mut self) -> sqlx::Result<&mut PgConnection> {
        self.is_reusable = false;
        self.object.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Decides whether the connection can be reused after this response.
    pub fn record_result<T>(&mut self, result: &sqlx::Result<T>) {
        match result {
            Ok(_) => self.is_reusable = true,
            Err(sqlx::Error::Database(error)) => {
                let error = error.try_downcast_ref::<PgDatabaseError>();
                self.is_reusable = error.is_some_and(|error| session_is_usable_after(error.severity(), error.code()));
            }
            Err(_) => {}
        }
        if !self.is_reusable {
            self.pool.evict_idle();
        }
    }
}

/// Whether the session survives this error and can write.
fn session_is_usable_after(severity: PgSeverity, code: &str) -> bool {
    const READ_ONLY_SQL_TRANSACTION: &str = "25006";
    !matches!(severity, PgSeverity::Fatal | PgSeverity::Panic) && code != READ_ONLY_SQL_TRANSACTION
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if !self.is_reusable {
            drop(self.object.take().map(Object::take));
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgConnectOptions;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_exhausted_pool_is_overload_only_while_the_database_is_reachable() {
        let pool = ConnectionPool::new(PgConnectOptions::new_without_pgpass().into(), 0, None);
        pool.set_probed(Probed::Reachable);
        let began = tokio::time::Instant::now();
        assert!(matches!(pool.acquire("test").await, Err(Error::Overloaded)));
        // Time is paused: it passes only while the pool waits for its own timer, which has a resolution of 1 ms.
        let waited = began.elapsed();
        assert!((Duration::from_secs(1)..=Duration::from_millis(1_001)).contains(&waited), "{waited:?}");
        pool.set_probed(Probed::Unreachable);
        assert!(matches!(pool.acquire("test").await, Err(Error::DatabaseUnavailable(_))));
    }
}
