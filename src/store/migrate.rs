//! Brings the schema up to date, from as many processes at once as like to.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection, migrate::Migrator, postgres::PgConnectOptions};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// `turnkey` in ASCII: the advisory lock that one migrating process holds in a database.
const LOCK_KEY: i64 = 0x74_75_72_6e_6b_65_79;
const LOCK_POLL: Duration = Duration::from_millis(100);
const ROLE_ATTEMPTS: u32 = 20;

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot reach the database")]
    Connect(#[source] sqlx::Error),
    #[error(
        "the role that migrates may not create roles. Let an administrator run this once in the cluster:\n\
         \n    CREATE ROLE turnkey_catalog NOLOGIN;\n    CREATE ROLE turnkey_provisioner NOLOGIN;\n    \
         GRANT turnkey_catalog TO turnkey_provisioner;\n\nthen migrate again"
    )]
    RolesMissing(#[source] sqlx::Error),
    #[error("cannot set up the database's roles")]
    Roles(#[source] sqlx::Error),
    #[error("cannot migrate")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("cannot migrate")]
    Database(#[from] sqlx::Error),
}

/// Makes the roles where they are missing and runs the migrations that are missing, as the owner of the schema.
///
/// # Errors
/// Says what an administrator has to run where the owner may not create roles.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), MigrateError> {
    let mut connection = options.connect().await.map_err(MigrateError::Connect)?;
    lock(&mut connection).await?;
    ensure_roles(&mut connection).await?;
    // With the migrator's own lock a process would wait inside a query, and CREATE INDEX CONCURRENTLY would wait for
    // that query to end: a deadlock. Here whoever waits is idle between two looks.
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false).run(&mut connection).await?;
    // The probe of a serving role reads which version the schema has.
    sqlx::raw_sql("GRANT SELECT ON _sqlx_migrations TO turnkey_provisioner").execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Lets this login role serve.
///
/// # Errors
/// Those of the database.
pub async fn grant_provisioner(owner: &PgConnectOptions, login: &str) -> Result<(), sqlx::Error> {
    let mut connection = owner.connect().await?;
    let is_member = sqlx::query_scalar!(r#"SELECT pg_has_role($1, 'turnkey_provisioner', 'MEMBER') AS "is!""#, login)
        .fetch_one(&mut connection)
        .await?;
    if !is_member {
        // A role's name is an identifier, which no parameter can stand for; the database does the quoting.
        let grant =
            sqlx::query_scalar!(r#"SELECT format('GRANT turnkey_provisioner TO %I', $1::text) AS "grant!""#, login)
                .fetch_one(&mut connection)
                .await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(grant)).execute(&mut connection).await?;
    }
    connection.close().await
}

async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    while !sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "locked!""#, LOCK_KEY)
        .fetch_one(&mut *connection)
        .await?
    {
        tokio::time::sleep(LOCK_POLL).await;
    }
    Ok(())
}

/// Roles belong to the cluster and the lock to one database: another database's migration can get in between, and then
/// looking again finds what it made.
async fn ensure_roles(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut attempt = 1;
    loop {
        match sqlx::raw_sql(include_str!("roles.sql")).execute(&mut *connection).await {
            Ok(_) => return Ok(()),
            Err(error) => match error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() {
                Some("42501") => return Err(MigrateError::RolesMissing(error)),
                // unique_violation, duplicate_object, and "tuple concurrently updated"
                Some("23505" | "42710" | "XX000") if attempt < ROLE_ATTEMPTS => attempt += 1,
                _ => return Err(MigrateError::Roles(error)),
            },
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
}
