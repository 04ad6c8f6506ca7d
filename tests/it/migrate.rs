//! `turnkey migrate`, and many at once.

use std::{process::Output, thread};

use embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::{ConnectOptions as _, PgPool};
use tempfile::tempdir_in;
use turnkey::store::{self, MigrateError};

use crate::{
    cluster::{Cluster, execute},
    process::{Program, turnkey, url},
};

#[tokio::test]
async fn ten_servers_migrate_one_empty_database_at_once_and_all_serve() {
    let database = Cluster::get().empty().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut servers: Vec<Program> = (0..10)
        .map(|_| {
            Program::start(
                turnkey(folder.path())
                    .args(["serve", "--migrate", "--listen", "127.0.0.1:0", "--database-max-connections", "2"])
                    .env("DATABASE_URL", url(&database.owner)),
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
async fn migrate_exits_0_and_says_nothing_new_the_second_time() {
    let database = Cluster::get().empty().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let migrate = || -> Output {
        turnkey(folder.path()).arg("migrate").env("DATABASE_URL", url(&database.owner)).output().unwrap()
    };
    assert_eq!(migrate().status.code(), Some(0));
    assert_eq!(migrate().status.code(), Some(0));
}

#[tokio::test]
async fn a_database_that_is_away_ends_migrate_with_1_and_a_sentence() {
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let failed =
        turnkey(folder.path()).arg("migrate").env("DATABASE_URL", "postgres://x@127.0.0.1:1/x").output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("cannot reach the database"));
}

/// Roles belong to the cluster, so this needs one where they are not there yet.
#[tokio::test]
async fn an_owner_who_may_not_create_roles_is_told_what_to_run() {
    let root = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = Settings { root: root.path().join("c"), pg_bin: None, durable: false, max_connections: 20 };
    let postgres = EmbeddedPostgres::start(settings).await.unwrap();
    let administrator = postgres.owner_options();
    execute(&administrator, "CREATE ROLE limited LOGIN".to_owned()).await;
    execute(&administrator, "CREATE DATABASE limited OWNER limited".to_owned()).await;
    let limited = administrator.clone().username("limited").database("limited");

    let refused = store::migrate(&limited).await.unwrap_err();
    assert!(matches!(refused, MigrateError::RolesMissing(_)), "{refused}");
    let told = refused.to_string();
    let statements: String = told.lines().filter(|line| line.trim_end().ends_with(';')).collect();
    execute(&administrator, statements).await;
    store::migrate(&limited).await.unwrap();
    store::migrate(&limited).await.unwrap();
    postgres.stop().await.unwrap();
}

/// They share the roles and not the lock.
#[tokio::test]
async fn several_databases_of_one_cluster_migrate_at_once() {
    let root = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = Settings { root: root.path().join("c"), pg_bin: None, durable: false, max_connections: 20 };
    let postgres = EmbeddedPostgres::start(settings).await.unwrap();
    let administrator = postgres.owner_options();
    let databases: Vec<_> = (0..5).map(|number| administrator.clone().database(&format!("d{number}"))).collect();
    for number in 0..5 {
        execute(&administrator, format!("CREATE DATABASE d{number}")).await;
    }
    let migrations = databases.iter().cloned().map(|database| {
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(store::migrate(&database))
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
