//! Lends connections to the database, and keeps those alone that are known to be sound. How they are asked is in
//! [`super::statements`].
//!
//! sqlx has a pool of its own. It is not used: where a network swallows everything without a word it waits for ever, in
//! the place of everybody else (<https://github.com/transact-rs/sqlx/issues/4349>), and it asks the database after every
//! statement once more whether it is there. deadpool keeps the connections instead.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult};
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError, PgSeverity},
};
use tokio::{sync::watch, time::timeout};

use crate::{
    error::{Error, Result},
    telemetry::metrics::PoolStats,
};

/// How long a caller waits for a connection before it hears that the service is overloaded.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection idle for longer is tried before it is lent; trying every time would cost each call a round trip.
const PING_AFTER_IDLE: Duration = Duration::from_secs(5);
/// How long such a connection may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_millis(250);
/// Connections are replaced after this, so that a moved host name is followed.
const MAX_LIFETIME: Duration = Duration::from_mins(30);
/// Connections idle for this long are closed.
const MAX_IDLE: Duration = Duration::from_mins(10);

/// All connections of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ConnectionPool {
    pool: Pool<Connector>,
    /// What the probe saw last; nothing at first.
    pub reachable: Arc<watch::Sender<bool>>,
    /// How long a statement is waited for; none where it takes the time it needs.
    pub response_timeout: Option<Duration>,
}

#[derive(Debug)]
struct Connector {
    options: PgConnectOptions,
    /// When a connection that was tried gave no answer. Those that were last used before are no better.
    last_ping_timeout: Mutex<Option<Instant>>,
}

impl Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> sqlx::Result<PgConnection> {
        // Boxed, or every call would carry the place that making a connection takes, and be moved about with it.
        Box::pin(self.options.connect()).await
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.age() > MAX_LIFETIME {
            return Err(RecycleError::message("old"));
        }
        if metrics.last_used() <= PING_AFTER_IDLE {
            return Ok(());
        }
        if self.last_ping_timeout().is_some_and(|at| metrics.recycled.unwrap_or(metrics.created) < at) {
            return Err(RecycleError::message("as silent as another"));
        }
        let Ok(answer) = timeout(PING_TIMEOUT, connection.ping()).await else {
            *self.last_ping_timeout() = Some(Instant::now());
            return Err(RecycleError::message("silent"));
        };
        Ok(answer?)
    }
}

impl Connector {
    fn last_ping_timeout(&self) -> MutexGuard<'_, Option<Instant>> {
        // Nothing can panic while it is held.
        self.last_ping_timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionPool {
    /// Connects when first used, so that a service can start before its database.
    pub fn new(options: PgConnectOptions, max: u32, response_timeout: Option<Duration>) -> Self {
        let pool = Pool::builder(Connector { options, last_ping_timeout: Mutex::default() })
            .max_size(usize::try_from(max).unwrap_or(usize::MAX))
            // Those used last are the surest, and the others can grow old and go.
            .queue_mode(QueueMode::Lifo)
            .build();
        // Building fails for timeouts that need a runtime; this pool has none.
        let pool = pool.unwrap_or_else(|error| unreachable!("{error}"));
        Self { pool, reachable: Arc::default(), response_timeout }
    }

    pub fn is_reachable(&self) -> bool {
        *self.reachable.borrow()
    }

    /// What the probe saw. Whoever waits for a database that is away gives up soon.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.send_replace(reachable);
        if !reachable {
            self.evict_idle();
        }
    }

    /// A failed connection says something of all others: they lead to the same machine, which may be a primary no more.
    fn evict_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    pub fn close_idle(&self) {
        self.pool.retain(|_, metrics| metrics.last_used() < MAX_IDLE);
    }

    /// To be called when nobody needs a connection any more.
    pub async fn close(&self) {
        let idle = self.pool.retain(|_, _| false);
        self.pool.close();
        for connection in idle.removed {
            // That it could not say good-bye is no matter now.
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
        let object = match timeout(ACQUIRE_TIMEOUT, self.pool.get()).await {
            Ok(Ok(object)) => object,
            Ok(Err(PoolError::Backend(error))) => return Err(error.into()),
            Ok(Err(PoolError::Closed)) => return Err(sqlx::Error::PoolClosed.into()),
            Ok(Err(_)) | Err(_) if self.is_reachable() => return Err(Error::Overloaded),
            Ok(Err(_)) | Err(_) => return Err(sqlx::Error::PoolTimedOut.into()),
        };
        Ok(PooledConnection { object: Some(object), is_reusable: true, pool: self.clone(), operation })
    }
}

/// A connection that is somebody's for a while. It goes back when it is dropped, unless nobody knows what state it is in.
#[derive(Debug)]
pub(super) struct PooledConnection {
    /// None only while it is dropped.
    object: Option<Object<Connector>>,
    is_reusable: bool,
    pub pool: ConnectionPool,
    /// For whose sake; the name that its statements are measured by.
    pub operation: &'static str,
}

impl PooledConnection {
    pub fn set_operation(&mut self, operation: &'static str) {
        self.operation = operation;
    }

    /// It is closed when it is dropped, and no one else gets it.
    pub fn close_on_drop(&mut self) {
        self.is_reusable = false;
    }

    /// To be judged by its next answer. Should the wait for that be cut short, nobody knows what is still to come.
    pub fn begin_use(&mut self) -> sqlx::Result<&mut PgConnection> {
        self.is_reusable = false;
        self.object.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    pub fn record_result<T>(&mut self, answer: &sqlx::Result<T>) {
        match answer {
            Ok(_) => self.is_reusable = true,
            Err(sqlx::Error::Database(reply)) => {
                let reply = reply.try_downcast_ref::<PgDatabaseError>();
                self.is_reusable = reply.is_some_and(|reply| session_is_usable_after(reply.severity(), reply.code()));
            }
            Err(_) => {}
        }
        if !self.is_reusable {
            self.pool.evict_idle();
        }
    }
}

/// Whether the session goes on after this error, and is good for writing.
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
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_exhausted_pool_is_overload_only_while_the_database_is_reachable() {
        let pool = ConnectionPool::new(PgConnectOptions::new_without_pgpass(), 0, None);
        pool.set_reachable(true);
        assert!(matches!(pool.acquire("test").await, Err(Error::Overloaded)));
        pool.set_reachable(false);
        assert!(matches!(pool.acquire("test").await, Err(Error::DatabaseUnavailable(_))));
    }
}
