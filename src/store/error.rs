//! Maps errors of sqlx and Postgres to the service's errors.
//!
//! A method maps the violation of a named constraint itself, because it knows what the violation means there. This file
//! maps everything else: a database that is absent, read-only or too slow is [`Error::DatabaseUnavailable`], and an
//! error that was not foreseen is a bug.

use std::{borrow::Cow, sync::Arc};

use sqlx::{
    error::DatabaseError,
    postgres::{PgDatabaseError, PgSeverity},
};

use super::citus;
use crate::error::Error;

const INVALID_SQL_STATEMENT_NAME: &str = "26000";
const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";

/// By SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_) => Self::DatabaseUnavailable(Arc::new(error)),
            sqlx::Error::Database(cause) => match cause.code().as_deref() {
                Some("40001" | "40P01") => Self::Conflict,
                Some(code) if is_unavailable_sqlstate(code) => Self::DatabaseUnavailable(Arc::new(error)),
                _ => Self::internal(error),
            },
            _ => Self::internal(error),
        }
    }
}

fn is_unavailable_sqlstate(code: &str) -> bool {
    const CONNECTION_EXCEPTION: &str = "08";
    const INVALID_AUTHORIZATION: &str = "28";
    const INSUFFICIENT_RESOURCES: &str = "53";
    const SYSTEM_ERROR: &str = "58";
    matches!(
        &code[..2.min(code.len())],
        CONNECTION_EXCEPTION | INVALID_AUTHORIZATION | INSUFFICIENT_RESOURCES | SYSTEM_ERROR
    ) || matches!(
        code,
        "25006" // read_only_sql_transaction: a standby, or a primary that is being replaced
            | "22P05" // untranslatable_character: the database's encoding is not UTF8
            | "25P03" // idle_in_transaction_session_timeout
            | INVALID_SQL_STATEMENT_NAME | DUPLICATE_PREPARED_STATEMENT // a pooler drops prepared statements
            | "3D000" // invalid_catalog_name: the database does not exist
            | "42P01" // undefined_table: not migrated yet
            | "55000" // object_not_in_prerequisite_state: the database does not accept connections now
            | "55P03" // lock_not_available: lock_timeout
            | "57014" // query_canceled: statement_timeout
            | "57P01" | "57P02" | "57P03" // shutting down, crashed, starting up
            | "57P05" // idle_session_timeout
    )
}

/// Whether the error is a violation of this constraint.
pub(super) fn is_constraint_violation(error: &sqlx::Error, constraint: &str) -> bool {
    let is_violation = |error: &dyn DatabaseError| {
        error.constraint() == Some(constraint) || citus::is_violation_on_shard(error, constraint)
    };
    error.as_database_error().is_some_and(is_violation)
}

/// Whether the statement that failed has changed nothing for certain: Postgres refused it and the session continues. If
/// the session ended, the transaction may have been committed before.
pub(super) fn is_rolled_back(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| !matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Whether the session has no prepared statement of this name. The caller prepares it and retries.
pub(super) fn is_unknown_prepared_statement(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some(INVALID_SQL_STATEMENT_NAME)
}

/// Whether the session is not the one in which the connection prepared its statements.
pub(super) fn is_foreign_session(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some(INVALID_SQL_STATEMENT_NAME | DUPLICATE_PREPARED_STATEMENT))
}

fn sqlstate(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(DatabaseError::code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_unavailable_and_a_missing_column_is_a_bug() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(matches!(Error::from(sqlx::Error::from(broken)), Error::DatabaseUnavailable(_)));
        assert!(matches!(Error::from(sqlx::Error::ColumnNotFound("x".into())), Error::Internal(_)));
    }

    #[test]
    fn an_exhausted_pool_is_not_an_unknown_prepared_statement() {
        assert!(!is_unknown_prepared_statement(&sqlx::Error::PoolTimedOut));
    }

    #[test]
    fn sqlstates_of_unavailability_are_distinguished_from_sqlstates_of_bugs() {
        for code in
            ["08006", "25006", "26000", "28P01", "42P05", "3D000", "53300", "55000", "55P03", "57014", "57P01", "57P03"]
        {
            assert!(is_unavailable_sqlstate(code), "{code}");
        }
        for code in ["23505", "23514", "42601", "22P02", "XX000", "4"] {
            assert!(!is_unavailable_sqlstate(code), "{code}");
        }
    }
}
