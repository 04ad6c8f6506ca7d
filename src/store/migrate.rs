//! Migrates the schema. Any number of processes can do so at once: one migrates while the others wait.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection, migrate::Migrator, postgres::PgConnectOptions};

use super::{
    DatabaseHosts, citus,
    probe::{NotReady, check_prepared_statements},
};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// Key of the advisory lock that the migrating process holds: `turnkey` in ASCII.
const LOCK_KEY: i64 = 0x74_75_72_6e_6b_65_79;
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(100);
const MAX_ROLE_ATTEMPTS: u32 = 20;

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot reach the database")]
    Connect(#[source] sqlx::Error),
    #[error("cannot migrate over this connection")]
    Pooler(#[source] NotReady),
    #[error(
        "the role that migrates may not create roles; an administrator has to run this once in the cluster:\n\
         \n    CREATE ROLE turnkey_catalog NOLOGIN;\n    CREATE ROLE turnkey_provisioner NOLOGIN;\n    \
         GRANT turnkey_catalog TO turnkey_provisioner;\n\nthen migrate again"
    )]
    RolesMissing(#[source] sqlx::Error),
    #[error(
        "the database has the encoding {0}, and Turnkey needs UTF8: create another database with \
         `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`"
    )]
    Encoding(String),
    #[error("cannot create the roles of the service")]
    Roles(#[source] sqlx::Error),
    #[error("this database is on a worker of Citus: migrate that of the coordinator")]
    CitusWorker,
    #[error("cannot distribute the catalog with Citus")]
    Distribute(#[source] sqlx::Error),
    #[error("cannot migrate the schema")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("cannot migrate the schema")]
    Database(#[from] sqlx::Error),
}

/// Creates the roles if they do not exist, and runs the pending migrations, as the owner of the schema.
///
/// # Errors
/// [`MigrateError::RolesMissing`] has the SQL for an administrator if the owner may not create roles.
pub async fn migrate(hosts: &DatabaseHosts) -> Result<(), MigrateError> {
    let mut connection = hosts.connect().await.map_err(MigrateError::Connect)?;
    check_prepared_statements(hosts, &mut connection).await.map_err(MigrateError::Pooler)?;
    require_utf8(&mut connection).await?;
    if citus::is_worker(&mut connection).await? {
        return Err(MigrateError::CitusWorker);
    }
    let lock = lock(hosts).await?;
    ensure_roles(&mut connection).await?;
    // sqlx's own lock waits inside a query. CREATE INDEX CONCURRENTLY would wait for that query to end: a deadlock. A
    // process that polls instead runs no query between two attempts.
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false).run(&mut connection).await?;
    // The readiness probe reads the schema's version as the serving role.
    sqlx::raw_sql("GRANT SELECT ON _sqlx_migrations TO turnkey_provisioner").execute(&mut connection).await?;
    sqlx::raw_sql(include_str!("event_history.sql")).execute(&mut connection).await?;
    citus::distribute(&mut connection).await.map_err(MigrateError::Distribute)?;
    connection.close().await?;
    // Ends its transaction.
    Ok(lock.close().await?)
}

/// Other encodings cannot store every name.
async fn require_utf8(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let encoding = sqlx::query_scalar!(r#"SELECT current_setting('server_encoding') AS "encoding!""#);
    match encoding.fetch_one(connection).await? {
        encoding if encoding == "UTF8" => Ok(()),
        encoding => Err(MigrateError::Encoding(encoding)),
    }
}

/// Makes this login role a member of `turnkey_provisioner`, as which it can serve.
pub async fn grant_provisioner(owner: &PgConnectOptions, login: &str) -> Result<(), sqlx::Error> {
    let mut connection = owner.connect().await?;
    let is_member = sqlx::query_scalar!(r#"SELECT pg_has_role($1, 'turnkey_provisioner', 'MEMBER') AS "is!""#, login)
        .fetch_one(&mut connection)
        .await?;
    if !is_member {
        // A parameter cannot replace an identifier, so Postgres quotes the role's name.
        let grant =
            sqlx::query_scalar!(r#"SELECT format('GRANT turnkey_provisioner TO %I', $1::text) AS "grant!""#, login)
                .fetch_one(&mut connection)
                .await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(grant)).execute(&mut connection).await?;
    }
    connection.close().await
}

/// Waits for the lock and returns the connection that holds it. The lock is that of an open transaction, because behind
/// a pooler in transaction mode a session does not stay with its connection. At READ COMMITTED an idle transaction has
/// no snapshot that CREATE INDEX CONCURRENTLY would wait for.
async fn lock(hosts: &DatabaseHosts) -> Result<PgConnection, sqlx::Error> {
    let mut connection = hosts.connect().await?;
    loop {
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = 0";
        sqlx::raw_sql(begin).execute(&mut connection).await?;
        if sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "locked!""#, LOCK_KEY)
            .fetch_one(&mut connection)
            .await?
        {
            return Ok(connection);
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await?;
        tokio::time::sleep(LOCK_POLL_INTERVAL).await;
    }
}

/// Creates the roles. The lock belongs to one database and the roles to the cluster, so the migration of another
/// database can create the same role between the check and the creation; the next attempt then finds it.
async fn ensure_roles(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut attempt = 1;
    loop {
        match sqlx::raw_sql(include_str!("roles.sql")).execute(&mut *connection).await {
            Ok(_) => return Ok(()),
            Err(error) => match error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() {
                // insufficient_privilege
                Some("42501") => return Err(MigrateError::RolesMissing(error)),
                // unique_violation, duplicate_object, and internal_error: "tuple concurrently updated"
                Some("23505" | "42710" | "XX000") if attempt < MAX_ROLE_ATTEMPTS => attempt += 1,
                _ => return Err(MigrateError::Roles(error)),
            },
        }
        tokio::time::sleep(LOCK_POLL_INTERVAL).await;
    }
}
