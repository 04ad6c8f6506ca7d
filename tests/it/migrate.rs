//! `turnkey migrate` and `serve --migrate`, also concurrently.

use std::{process::Output, thread};

use sqlx::{ConnectOptions as _, PgPool};
use turnkey::store::{self, MigrateError};

use crate::support::{
    database::{Cluster, execute, start_own_postgres},
    process::{Process, database_url, temp_folder, turnkey},
};

#[tokio::test]
async fn ten_servers_that_migrate_one_empty_database_concurrently_all_become_ready() {
    let database = Cluster::get().empty().await;
    let folder = temp_folder();
    let mut servers: Vec<Process> = (0..10)
        .map(|_| {
            Process::start(
                turnkey(folder.path())
                    .args(["serve", "--migrate", "--listen", "127.0.0.1:0", "--database-max-connections", "2"])
                    .env("DATABASE_URL", database_url(&database.owner)),
            )
        })
        .collect();
    for server in &mut servers {
        server.address();
    }
    let pool = PgPool::connect_with(database.superuser).await.unwrap();
    let applied: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations").fetch_one(&pool).await.unwrap();
    let files = std::fs::read_dir("migrations").unwrap().count();
    assert_eq!(usize::try_from(applied).unwrap(), files);
}

#[tokio::test]
async fn migrate_exits_with_0_the_first_and_the_second_time() {
    let database = Cluster::get().empty().await;
    let folder = temp_folder();
    let migrate = || -> Output {
        turnkey(folder.path()).arg("migrate").env("DATABASE_URL", database_url(&database.owner)).output().unwrap()
    };
    assert_eq!(migrate().status.code(), Some(0));
    assert_eq!(migrate().status.code(), Some(0));
}

#[tokio::test]
async fn migrate_exits_with_1_if_the_database_is_unreachable() {
    let folder = temp_folder();
    let error =
        turnkey(folder.path()).arg("migrate").env("DATABASE_URL", "postgres://x@127.0.0.1:1/x").output().unwrap();
    assert_eq!(error.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&error.stderr).contains("cannot reach the database"));
}

#[tokio::test]
async fn a_database_that_is_not_in_utf8_is_refused() {
    let superuser = Cluster::get().superuser();
    execute(&superuser, "CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'").await;
    let url = database_url(&superuser.database("latin1"));
    let folder = temp_folder();
    let output = turnkey(folder.path()).arg("migrate").env("DATABASE_URL", &url).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = "the database has the encoding LATIN1, and Turnkey needs UTF8";
    assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{output:?}");
    let output = turnkey(folder.path())
        .args(["serve", "--migrate", "--listen", "127.0.0.1:0"])
        .env("DATABASE_URL", &url)
        .output();
    assert!(String::from_utf8_lossy(&output.unwrap().stderr).contains(expected));
    let mut server =
        Process::start(turnkey(folder.path()).args(["serve", "--listen", "127.0.0.1:0"]).env("DATABASE_URL", &url));
    server.wait_for(expected);
}

/// Roles belong to the cluster, so this test needs a cluster without them.
#[tokio::test]
async fn the_error_for_an_owner_without_createrole_contains_the_statements_to_run() {
    let root = temp_folder();
    let postgres = start_own_postgres(root.path()).await;
    let administrator = postgres.owner_options();
    execute(&administrator, "CREATE ROLE limited LOGIN").await;
    execute(&administrator, "CREATE DATABASE limited OWNER limited").await;
    let limited = administrator.clone().username("limited").database("limited");

    let error = store::migrate(&limited.clone().into()).await.unwrap_err();
    assert!(matches!(error, MigrateError::RolesMissing(_)), "{error}");
    let message = error.to_string();
    let statements: String = message.lines().filter(|line| line.trim_end().ends_with(';')).collect();
    execute(&administrator, statements).await;
    store::migrate(&limited.clone().into()).await.unwrap();
    store::migrate(&limited.clone().into()).await.unwrap();
    postgres.stop().await.unwrap();
}

/// The databases share the roles, but not the migration lock.
#[tokio::test]
async fn several_databases_of_one_cluster_can_be_migrated_concurrently() {
    let root = temp_folder();
    let postgres = start_own_postgres(root.path()).await;
    let administrator = postgres.owner_options();
    let databases: Vec<_> = (0..5).map(|number| administrator.clone().database(&format!("d{number}"))).collect();
    for number in 0..5 {
        execute(&administrator, format!("CREATE DATABASE d{number}")).await;
    }
    let migrations = databases.iter().cloned().map(|database| {
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(store::migrate(&database.into()))
        })
    });
    for migration in migrations.collect::<Vec<_>>() {
        migration.join().unwrap().unwrap();
    }
    let mut connection = administrator.connect().await.unwrap();
    let is_member: bool = sqlx::query_scalar("SELECT pg_has_role('turnkey_provisioner', 'turnkey_catalog', 'MEMBER')")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(is_member);
    postgres.stop().await.unwrap();
}
