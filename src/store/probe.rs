//! The readiness probe: checks whether the database can serve. It has its own connection, so that it distinguishes an
//! exhausted pool from an unreachable database.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::{SESSION_SETTINGS, error::is_unknown_prepared_statement, migrate::MIGRATIONS, with_session_settings};

/// How long to wait for a check over an open connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait for a check that first connects: it takes about twenty round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the database cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("the database cannot be reached")]
    Unreachable(#[from] sqlx::Error),
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
    #[error("a connection pooler drops prepared statements: use session pooling, or set max_prepared_statements")]
    PreparedStatementsDropped,
}

impl NotReady {
    /// Whether there is no connection, as opposed to a database that cannot serve.
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unresponsive)
    }
}

/// Checks the database over one connection, and reconnects after each failure.
pub struct Probe {
    pub(super) options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Probe {
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options: with_session_settings(options), connection: None }
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
            let mut connection = self.options.connect().await.map_err(connect_error)?;
            check_schema_and_role(&mut connection).await?;
            self.check_pooler(&mut connection).await?;
            connection
        };
        let read_only = sqlx::query_scalar!(
            r#"SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS "read_only!""#
        )
        .fetch_one(&mut connection)
        .await?;
        if read_only { Err(NotReady::ReadOnly) } else { Ok(connection) }
    }

    /// Detects a pooler that drops session settings or prepared statements, as `PgBouncer` can with transaction
    /// pooling. The service relies on both; without them most calls would succeed and some would fail.
    async fn check_pooler(&self, connection: &mut PgConnection) -> Result<(), NotReady> {
        let (role, missing) = missing_settings(connection).await?;
        if !missing.is_empty() {
            let commands = missing.iter().map(|(name, value)| format!("`ALTER ROLE {role} SET {name} = '{value}'`"));
            return Err(NotReady::SettingsDropped(commands.collect::<Vec<_>>().join(", ")));
        }
        // A transaction on another connection occupies the server connection that a transaction pooler has just used
        // for this one. The repeated query then runs on another server connection.
        let mut other = self.options.connect().await?;
        sqlx::raw_sql("BEGIN").execute(&mut other).await?;
        let result = missing_settings(connection).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await?;
        other.close().await?;
        match result {
            Err(error) if is_unknown_prepared_statement(&error) => Err(NotReady::PreparedStatementsDropped),
            result => Ok(result.map(drop)?),
        }
    }
}

fn connect_error(error: sqlx::Error) -> NotReady {
    const PROTOCOL_VIOLATION: &str = "08P01";
    // PgBouncer's code for an unsupported startup parameter. Postgres itself does not reject the settings.
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    if code.as_deref() == Some(PROTOCOL_VIOLATION) { NotReady::SettingsRefused } else { error.into() }
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
pub async fn check_migrated(options: &PgConnectOptions) -> Result<(), NotReady> {
    let check = async {
        let mut connection = options.connect().await?;
        check_schema_and_role(&mut connection).await?;
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
