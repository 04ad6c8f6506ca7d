//! Runs statements on a pooled connection, each with a response timeout, a span and a duration metric.

use std::{
    borrow::Cow,
    io,
    time::{Duration, Instant},
};

use futures_util::{
    TryFutureExt as _, TryStreamExt as _,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use sqlx::{
    Describe, Either, Execute, Executor, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::time::{sleep, timeout};
use tracing::{Instrument as _, field::Empty};

use super::{
    error::is_unknown_prepared_statement,
    pool::{ConnectionPool, PooledConnection, Probed},
};
use crate::telemetry::metrics;

/// How long to wait for the response to a statement. Longer than the statement and lock timeouts, so that Postgres
/// cancels a slow statement first.
pub(super) const STATEMENT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(6);
/// The same while the probe does not reach the database either.
const UNREACHABLE_RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// One part of a response: the end of a statement, or a row.
pub(super) type Step = Either<PgQueryResult, PgRow>;

impl PooledConnection {
    /// Runs a statement to the end of its response, and passes each part of it to `receive` when it arrives. Measures
    /// the statement and applies the response timeout to it.
    pub(super) async fn run_statement<'q>(
        &mut self,
        query: impl Execute<'q, Postgres> + 'q,
        mut receive: impl FnMut(Step),
    ) -> sqlx::Result<()> {
        let (pool, operation, started_at) = (self.pool.clone(), self.operation, Instant::now());
        let span = tracing::debug_span!(
            "statement",
            otel.name = operation,
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = "postgresql",
            db.operation.name = operation,
            error.type = Empty,
        );
        let statement = self.begin_use()?.fetch_many(query).try_for_each(|step| {
            receive(step);
            future::ready(Ok(()))
        });
        let result = with_response_timeout(statement, &pool).instrument(span.clone()).await;
        // An unknown prepared statement is not a failure: the caller prepares it and retries.
        let error_type = result.as_ref().err().filter(|error| !is_unknown_prepared_statement(error)).map(error_type);
        if let Some(error_type) = &error_type {
            span.record("error.type", error_type);
            span.record("otel.status_code", "ERROR");
        }
        metrics::record_statement(operation, error_type, started_at.elapsed());
        self.record_result(&result);
        result
    }
}

/// Fails the statement after the pool's response timeout, or after [`UNREACHABLE_RESPONSE_TIMEOUT`] as soon as the
/// probe does not reach the database either.
async fn with_response_timeout<T>(
    statement: impl Future<Output = sqlx::Result<T>>,
    pool: &ConnectionPool,
) -> sqlx::Result<T> {
    let Some(response_timeout) = pool.response_timeout else { return statement.await };
    let timed_out = async {
        sleep(UNREACHABLE_RESPONSE_TIMEOUT).await;
        let mut probed = pool.probed.subscribe();
        let remaining = response_timeout.saturating_sub(UNREACHABLE_RESPONSE_TIMEOUT);
        let _ = timeout(remaining, probed.wait_for(|&probed| probed != Probed::Reachable)).await;
    };
    tokio::select! {
        biased;
        result = statement => result,
        () = timed_out => Err(io::Error::new(io::ErrorKind::TimedOut, "the database does not respond").into()),
    }
}

/// Returns OpenTelemetry's `error.type`: the SQLSTATE, or the reason why there was no response. It has few values and
/// contains no data.
fn error_type(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.code().map_or_else(|| "_OTHER".to_owned(), Cow::into_owned),
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => "timeout".to_owned(),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => "io".to_owned(),
        _ => "_OTHER".to_owned(),
    }
}

impl<'c> Executor<'c> for &'c mut PooledConnection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Step>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let steps = async move {
            let mut steps = Vec::new();
            self.run_statement(query, |step| steps.push(Ok(step))).await?;
            Ok(stream::iter(steps))
        };
        Box::pin(steps.try_flatten_stream())
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut row = None;
            self.run_statement(query, |step| row = row.take().or(step.right())).await?;
            Ok(row)
        })
    }

    // The store does not call these two: sqlx prepares statements when it runs them. The trait requires them.

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.begin_use()?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, sqlx::Result<Describe<Postgres>>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.begin_use()?.describe(sql).await })
    }
}
