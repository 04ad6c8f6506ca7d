//! The readiness probe: checks whether the database can serve. It has its own connection, so that it distinguishes an
//! exhausted pool from an unreachable database.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, error::DatabaseError};
use tokio::time::timeout;

use super::{DatabaseHosts, SESSION_SETTINGS, error::is_foreign_session, migrate::MIGRATIONS, with_session_settings};

/// How long to wait for a check over an open connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait for a check that first connects: it takes about twenty round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the database cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("the database cannot be reached")]
    Unreachable(#[source] sqlx::Error),
    #[error("the database does not respond")]
    Unresponsive,
    #[error("the database is read-only")]
    ReadOnly,
    #[error(
        "the database has the encoding {0}, and Turnkey needs UTF8: move its data to a database with that encoding"
    )]
    Encoding(String),
    #[error("the database is not migrated: run `turnkey migrate`")]
    NotMigrated,
    #[error("the role {0} cannot serve: run `GRANT turnkey_provisioner TO {0}`")]
    NotAMember(String),
    #[error(
        "a connection pooler rejects the session settings: set ignore_startup_parameters = extra_float_digits, options"
    )]
    SettingsRefused,
    #[error("a connection pooler drops the session settings: run {0}")]
    SettingsDropped(String),
    #[error(
        "a connection pooler drops prepared statements: use session pooling, or PgBouncer 1.21 or newer with \
         max_prepared_statements"
    )]
    PreparedStatementsDropped,
}

impl From<sqlx::Error> for NotReady {
    fn from(error: sqlx::Error) -> Self {
        // PgBouncer reports this error with a code that many others have. Postgres itself accepts the settings.
        let is_refused = |error: &dyn DatabaseError| error.message().starts_with("unsupported startup parameter");
        if is_foreign_session(&error) {
            Self::PreparedStatementsDropped
        } else if error.as_database_error().is_some_and(is_refused) {
            Self::SettingsRefused
        } else {
            Self::Unreachable(error)
        }
    }
}

/// Checks the database over one connection, and reconnects after each failure.
pub struct Probe {
    pub(super) hosts: DatabaseHosts,
    connection: Option<PgConnection>,
}

impl Probe {
    pub fn new(hosts: DatabaseHosts) -> Self {
        Self { hosts: with_session_settings(hosts), connection: None }
    }

    /// Checks whether the database can serve now. A new connection is also checked for the schema's version, the role
    /// and a pooler.
    pub async fn check(&mut self) -> Result<(), NotReady> {
        // Taken, so that a failed check drops the connection: a stale response may still be in flight.
        let open = self.connection.take();
        let limit = if open.is_some() { PROBE_TIMEOUT } else { CONNECT_TIMEOUT };
        let connection = timeout(limit, self.run_check(open)).await.map_err(|_elapsed| NotReady::Unresponsive)??;
        self.connection = Some(connection);
        Ok(())
    }

    async fn run_check(&self, open: Option<PgConnection>) -> Result<PgConnection, NotReady> {
        let mut connection = if let Some(connection) = open {
            connection
        } else {
            let mut connection = self.hosts.connect().await?;
            check_schema_and_role(&mut connection).await?;
            check_prepared_statements(&self.hosts, &mut connection).await?;
            check_session_settings(&mut connection).await?;
            connection
        };
        let read_only = sqlx::query_scalar!(
            r#"SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS "read_only!""#
        )
        .fetch_one(&mut connection)
        .await?;
        if read_only { Err(NotReady::ReadOnly) } else { Ok(connection) }
    }
}

/// Detects a pooler that gives a transaction the session of another connection without its prepared statements, as
/// `PgBouncer` does with transaction pooling unless it tracks them. sqlx numbers its statements, so in such a session
/// an unknown statement is the smaller danger: another one of the same number would run instead.
pub(super) async fn check_prepared_statements(
    hosts: &DatabaseHosts,
    connection: &mut PgConnection,
) -> Result<(), NotReady> {
    let session = session_pid(connection).await?;
    let mut other = hosts.connect().await?;
    // A pooler usually gives this connection the session that it has just used for the first one.
    if session_pid(&mut other).await? != session {
        // The session of an open transaction is occupied, so the first connection gets another one.
        sqlx::raw_sql("BEGIN").execute(&mut other).await?;
        let repeated = session_pid(connection).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await?;
        repeated?;
    }
    Ok(other.close().await?)
}

/// Returns the process id of the session, from a prepared statement.
async fn session_pid(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::query_scalar!(r#"SELECT pg_backend_pid() AS "pid!""#).fetch_one(connection).await
}

/// Detects a pooler that drops the settings of sessions. Without them most calls would succeed and some would fail.
async fn check_session_settings(connection: &mut PgConnection) -> Result<(), NotReady> {
    let (role, missing) = missing_settings(connection).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let commands = missing.iter().map(|(name, value)| format!("`ALTER ROLE {role} SET {name} = '{value}'`"));
    Err(NotReady::SettingsDropped(commands.collect::<Vec<_>>().join(", ")))
}

/// Returns the current role and the session settings that are not in effect.
async fn missing_settings(
    connection: &mut PgConnection,
) -> Result<(String, Vec<(&'static str, &'static str)>), sqlx::Error> {
    let names: Vec<String> = SESSION_SETTINGS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let rows = sqlx::query!(
        r#"
        SELECT current_user::text AS "role!", name AS "name!", setting AS "setting!"
          FROM pg_settings
         WHERE name = ANY ($1)
        "#,
        &names,
    )
    .fetch_all(connection)
    .await?;
    let is_set = |name: &str, value: &str| rows.iter().any(|row| row.name == name && row.setting == value);
    let missing = SESSION_SETTINGS.into_iter().filter(|(name, value)| !is_set(name, value)).collect();
    Ok((rows.first().map(|row| row.role.clone()).unwrap_or_default(), missing))
}

/// Checks whether a command can use the database.
///
/// # Errors
/// [`NotReady`], with what to do.
pub async fn check_migrated(hosts: &DatabaseHosts) -> Result<(), NotReady> {
    let check = async {
        let mut connection = hosts.connect().await?;
        check_schema_and_role(&mut connection).await?;
        check_prepared_statements(hosts, &mut connection).await?;
        Ok(connection.close().await?)
    };
    timeout(CONNECT_TIMEOUT, check).await.map_err(|_elapsed| NotReady::Unresponsive)?
}

/// Checks the encoding, the schema's version and the role's membership, which do not change while a connection is open.
async fn check_schema_and_role(connection: &mut PgConnection) -> Result<(), NotReady> {
    let server = sqlx::query!(
        r#"
        SELECT current_user::text AS "role!",
               current_setting('server_encoding') AS "encoding!",
               to_regclass('_sqlx_migrations') IS NOT NULL AS "is_migrated!",
               EXISTS (SELECT FROM pg_roles
                        WHERE rolname = 'turnkey_provisioner' AND pg_has_role(oid, 'MEMBER')) AS "is_member!"
        "#
    )
    .fetch_one(&mut *connection)
    .await?;
    if server.encoding != "UTF8" {
        return Err(NotReady::Encoding(server.encoding));
    }
    if !server.is_migrated {
        return Err(NotReady::NotMigrated);
    }
    if !server.is_member {
        return Err(NotReady::NotAMember(server.role));
    }
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success").fetch_one(connection).await?;
    let required = MIGRATIONS.iter().map(|migration| migration.version).max();
    if version < required { Err(NotReady::NotMigrated) } else { Ok(()) }
}
