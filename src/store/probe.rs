//! Whether the database can serve: asked over a connection of its own, so that a full pool is not taken for a database
//! that is away.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::{SESSION_SETTINGS, error::is_unknown_prepared_statement, migrate::MIGRATIONS, with_session_settings};

/// No answer within this is an answer too.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// For a new session, which takes some twenty trips to look around.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("the database cannot be reached")]
    Unreachable(#[from] sqlx::Error),
    #[error("the database does not answer")]
    Unresponsive,
    #[error("the database is read-only")]
    ReadOnly,
    #[error("the database is not migrated: run `turnkey migrate`")]
    NotMigrated,
    #[error("the role {0} cannot serve: run `GRANT turnkey_provisioner TO {0}`")]
    NotAMember(String),
    #[error(
        "a pooler in between refuses this service's settings: set ignore_startup_parameters = extra_float_digits, options"
    )]
    SettingsRefused,
    #[error("a pooler in between drops this service's settings: run {0}")]
    SettingsDropped(String),
    #[error(
        "a pooler in between drops prepared statements: pool sessions, or let it keep them (max_prepared_statements)"
    )]
    PreparedStatementsDropped,
}

impl NotReady {
    /// Whether no session can be had, as opposed to one that is of no use.
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unresponsive)
    }
}

/// Asks again and again over one connection, and makes a new one after each failure.
pub struct Probe {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Probe {
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options: with_session_settings(options), connection: None }
    }

    /// # Errors
    /// Why the database cannot serve now.
    pub async fn check(&mut self) -> Result<(), NotReady> {
        // UniqueField out: a connection whose question went unanswered must not be asked the next one.
        let known = self.connection.take();
        let response_timeout = if known.is_some() { PROBE_TIMEOUT } else { CONNECT_TIMEOUT };
        let connection =
            timeout(response_timeout, self.run_check(known)).await.map_err(|_elapsed| NotReady::Unresponsive)??;
        self.connection = Some(connection);
        Ok(())
    }

    async fn run_check(&self, known: Option<PgConnection>) -> Result<PgConnection, NotReady> {
        let mut connection = if let Some(connection) = known {
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

    /// Sessions are relied upon: for what was set when they began, and for the statements prepared in them. A pooler such as
    /// `PgBouncer` that lends them for a transaction alone can lose both; most calls would go well, and some not.
    async fn check_pooler(&self, connection: &mut PgConnection) -> Result<(), NotReady> {
        let (role, lost) = missing_settings(connection).await?;
        if !lost.is_empty() {
            let all = lost.iter().map(|(name, value)| format!("`ALTER ROLE {role} SET {name} = '{value}'`"));
            return Err(NotReady::SettingsDropped(all.collect::<Vec<_>>().join(", ")));
        }
        // Takes the place behind this connection, if it is free to be taken.
        let mut other = self.options.connect().await?;
        sqlx::raw_sql("BEGIN").execute(&mut other).await?;
        let answer = missing_settings(connection).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await?;
        other.close().await?;
        match answer {
            Err(error) if is_unknown_prepared_statement(&error) => Err(NotReady::PreparedStatementsDropped),
            answer => Ok(answer.map(drop)?),
        }
    }

    /// What the serving role could do beyond its work, where it was given too much; `None` for a plain login role.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn excess_privilege(&self) -> Result<Option<String>, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        sqlx::query_scalar!(
            r#"
            SELECT nullif(concat_ws(', ',
                       CASE WHEN rolsuper THEN 'is a superuser' END,
                       CASE WHEN rolbypassrls THEN 'bypasses row-level security' END,
                       CASE WHEN rolcreaterole THEN 'may create roles' END,
                       CASE WHEN EXISTS (SELECT FROM pg_class WHERE oid = 'tenants'::regclass AND relowner = pg_roles.oid)
                            THEN 'owns the tables' END), '')
              FROM pg_roles
             WHERE rolname = current_user
            "#
        )
        .fetch_one(&mut connection)
        .await
    }
}

fn connect_error(error: sqlx::Error) -> NotReady {
    const PROTOCOL_VIOLATION: &str = "08P01";
    // Postgres itself has no objection of this kind.
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    if code.as_deref() == Some(PROTOCOL_VIOLATION) { NotReady::SettingsRefused } else { error.into() }
}

/// Who this is, and the settings that did not take.
async fn missing_settings(
    connection: &mut PgConnection,
) -> Result<(String, Vec<(&'static str, &'static str)>), sqlx::Error> {
    let names: Vec<String> = SESSION_SETTINGS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let found = sqlx::query!(
        r#"
        SELECT current_user::text AS "role!", name AS "name!", setting AS "setting!"
          FROM pg_settings
         WHERE name = ANY ($1)
        "#,
        &names,
    )
    .fetch_all(connection)
    .await?;
    let is_set = |name: &str, value: &str| found.iter().any(|row| row.name == name && row.setting == value);
    let lost = SESSION_SETTINGS.into_iter().filter(|(name, value)| !is_set(name, value)).collect();
    Ok((found.first().map(|row| row.role.clone()).unwrap_or_default(), lost))
}

/// What does not change under a connection: the schema's version and the role's membership.
async fn check_schema_and_role(connection: &mut PgConnection) -> Result<(), NotReady> {
    let server = sqlx::query!(
        r#"
        SELECT current_user::text AS "role!",
               to_regclass('_sqlx_migrations') IS NOT NULL AS "is_migrated!",
               EXISTS (SELECT FROM pg_roles
                        WHERE rolname = 'turnkey_provisioner' AND pg_has_role(oid, 'MEMBER')) AS "is_member!"
        "#
    )
    .fetch_one(&mut *connection)
    .await?;
    if !server.is_migrated {
        return Err(NotReady::NotMigrated);
    }
    if !server.is_member {
        return Err(NotReady::NotAMember(server.role));
    }
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success").fetch_one(connection).await?;
    let needed = MIGRATIONS.iter().map(|migration| migration.version).max();
    if version < needed { Err(NotReady::NotMigrated) } else { Ok(()) }
}
