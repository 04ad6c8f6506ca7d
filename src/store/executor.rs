//! Asks a lent connection, and waits for the answer as long as that makes sense. Every statement has a span and is measured.

use std::{
    borrow::Cow,
    io,
    time::{Duration, Instant},
};

use futures_util::{
    TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Describe, Either, Execute, Executor, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::time::{sleep, timeout};
use tracing::{Instrument as _, Span, field::Empty};

use super::{
    error::is_unknown_prepared_statement,
    pool::{ConnectionPool, PooledConnection},
};
use crate::telemetry::metrics;

/// How long a statement is waited for that the database could have stopped by itself: longer than its own timeouts.
pub(super) const STATEMENT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(6);
/// And how long while the probe gets no answer either.
const UNREACHABLE_RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A statement under way.
struct StatementTimer {
    pool: ConnectionPool,
    operation: &'static str,
    at: Instant,
    span: Span,
}

impl StatementTimer {
    fn start(connection: &PooledConnection) -> Self {
        let operation = connection.operation;
        let span = tracing::debug_span!(
            "statement",
            otel.name = operation,
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = "postgresql",
            db.operation.name = operation,
            error.type = Empty,
        );
        Self { pool: connection.pool.clone(), operation, at: Instant::now(), span }
    }

    async fn run<T>(self, answer: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        let answer = with_response_timeout(answer, &self.pool).instrument(self.span.clone()).await;
        let failure = answer.as_ref().err().filter(|error| !is_unknown_prepared_statement(error)).map(error_type);
        if let Some(failure) = &failure {
            self.span.record("error.type", failure);
            self.span.record("otel.status_code", "ERROR");
        }
        metrics::record_statement(self.operation, failure, self.at.elapsed());
        answer
    }
}

async fn with_response_timeout<T>(
    answer: impl Future<Output = sqlx::Result<T>>,
    pool: &ConnectionPool,
) -> sqlx::Result<T> {
    let Some(response_timeout) = pool.response_timeout else { return answer.await };
    let timed_out = async {
        sleep(UNREACHABLE_RESPONSE_TIMEOUT).await;
        let mut reachable = pool.reachable.subscribe();
        let _ =
            timeout(response_timeout.saturating_sub(UNREACHABLE_RESPONSE_TIMEOUT), reachable.wait_for(|is| !is)).await;
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        () = timed_out => Err(io::Error::new(io::ErrorKind::TimedOut, "the database does not answer").into()),
    }
}

/// A SQLSTATE, or what kept an answer from coming. Few, and never a value.
fn error_type(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(reply) => reply.code().map_or_else(|| "_OTHER".to_owned(), Cow::into_owned),
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => "timeout".to_owned(),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => "io".to_owned(),
        _ => "_OTHER".to_owned(),
    }
}

/// One step of an answer: how a statement ended, or a row.
type Step = Either<PgQueryResult, PgRow>;

impl<'c> Executor<'c> for &'c mut PooledConnection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Step>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let all = async move {
            let timer = StatementTimer::start(self);
            let answer = timer.run(self.begin_use()?.fetch_many(query).try_collect::<Vec<Step>>()).await;
            self.record_result(&answer);
            Ok::<_, sqlx::Error>(stream::iter(answer?.into_iter().map(Ok)))
        };
        Box::pin(stream::once(all).try_flatten())
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let timer = StatementTimer::start(self);
            let answer = timer.run(self.begin_use()?.fetch_optional(query)).await;
            self.record_result(&answer);
            answer
        })
    }

    // Statements are prepared on the way, and described when they are compiled; the trait wants these all the same.

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
