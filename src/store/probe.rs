//! Whether the database can serve: asked over a connection of its own, so that a full pool is not taken for a database
//! that is away.

use std::time::Duration;

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::{STATEMENT_TIMEOUT_MS, migrate::MIGRATIONS, session};

/// No answer within this is an answer too.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("the database cannot be reached")]
    Unreachable(#[from] sqlx::Error),
    #[error("the database does not answer")]
    Silent,
    #[error("the database is read-only")]
    ReadOnly,
    #[error("the database is not migrated: run `turnkey migrate`")]
    NotMigrated,
    #[error("the role {0} cannot serve: run `GRANT turnkey_provisioner TO {0}`")]
    NotAMember(String),
}

impl NotReady {
    /// Whether no session can be had, as opposed to one that is of no use.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Silent)
    }
}

/// Asks again and again over one connection, and makes a new one after each failure.
pub struct Probe {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Probe {
    #[must_use]
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options: session(options, STATEMENT_TIMEOUT_MS), connection: None }
    }

    /// # Errors
    /// Why the database cannot serve now.
    pub async fn check(&mut self) -> Result<(), NotReady> {
        // Taken out: a connection whose question went unanswered must not be asked the next one.
        let known = self.connection.take();
        let connection = timeout(PATIENCE, self.ask(known)).await.map_err(|_elapsed| NotReady::Silent)??;
        self.connection = Some(connection);
        Ok(())
    }

    async fn ask(&self, known: Option<PgConnection>) -> Result<PgConnection, NotReady> {
        let mut connection = if let Some(connection) = known {
            connection
        } else {
            let mut connection = self.options.connect().await?;
            ask_once(&mut connection).await?;
            connection
        };
        let read_only = sqlx::query_scalar!(
            r#"SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS "read_only!""#
        )
        .fetch_one(&mut connection)
        .await?;
        if read_only { Err(NotReady::ReadOnly) } else { Ok(connection) }
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

/// What does not change under a connection: the schema's version and the role's membership.
async fn ask_once(connection: &mut PgConnection) -> Result<(), NotReady> {
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
