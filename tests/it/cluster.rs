//! One throw-away Postgres for the whole run, and a migrated template that each test's database is cloned from.
//!
//! Roles are those of production: one that migrates and owns the tables, one that serves and owns nothing. Neither is a
//! superuser, for whom most of what is tested here would not hold.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, postgres::PgConnectOptions};
use turnkey::store;

const TEMPLATE: &str = "turnkey_template";
const OWNER: &str = "test_owner";
pub const SERVER: &str = "turnkey_server";

/// Where to find the cluster, for every test of the run.
#[derive(Debug)]
pub struct Cluster {
    superuser: PgConnectOptions,
}

/// A database of one test.
#[derive(Debug, Clone)]
pub struct TestDatabase {
    /// Owns the schema, migrates.
    pub owner: PgConnectOptions,
    /// Serves; a member of `turnkey_provisioner` and nothing else.
    pub server: PgConnectOptions,
    /// May do everything; what superuser in psql do.
    pub superuser: PgConnectOptions,
}

impl Cluster {
    pub fn get() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(start)
    }

    pub fn superuser(&self) -> PgConnectOptions {
        self.superuser.clone()
    }

    /// A database with the schema in it.
    pub async fn migrated(&self) -> TestDatabase {
        self.create_database(&format!("TEMPLATE {TEMPLATE}")).await
    }

    /// A database with nothing in it.
    pub async fn empty(&self) -> TestDatabase {
        self.create_database(&format!("OWNER {OWNER}")).await
    }

    async fn create_database(&self, how: &str) -> TestDatabase {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        execute(&self.superuser, format!("CREATE DATABASE {name} {how}")).await;
        TestDatabase::of(&self.superuser, &name)
    }
}

impl TestDatabase {
    /// That of a Postgres of the test's own, with the schema in it.
    pub async fn migrated_on(postgres: &EmbeddedPostgres) -> Self {
        let owner = postgres.owner_options();
        let database = Self { superuser: owner.clone(), server: postgres.server_options(), owner };
        database.migrate().await;
        database
    }

    /// Brings the schema, and lets the serving role serve.
    pub async fn migrate(&self) {
        store::migrate(&self.owner).await.unwrap();
        store::grant_provisioner(&self.owner, self.server.get_username()).await.unwrap();
    }

    fn of(superuser: &PgConnectOptions, name: &str) -> Self {
        let superuser = superuser.clone().database(name);
        Self { owner: superuser.clone().username(OWNER), server: superuser.clone().username(SERVER), superuser }
    }
}

/// The directory of Postgres' programs.
pub async fn postgres_bin_dir(superuser: &PgConnectOptions) -> PathBuf {
    let mut connection = superuser.connect().await.unwrap();
    let folder: String = sqlx::query_scalar("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    folder.into()
}

pub async fn execute(options: &PgConnectOptions, sql: String) {
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// On a thread of its own: the runtime of the test that happens to come first ends with that test. The thread ends with
/// the process, and Postgres ends when it sees that.
fn start() -> Cluster {
    let (started, superuser) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let root = fresh_root();
            let settings = Settings { root, pg_bin: None, durable: false, max_connections: 500 };
            let postgres = EmbeddedPostgres::start(settings).await.unwrap();
            make_template(&postgres.owner_options()).await;
            started.send(postgres.owner_options()).unwrap();
            std::future::pending::<()>().await;
            drop(postgres);
        });
    });
    Cluster { superuser: superuser.recv().expect("the cluster starts") }
}

/// A folder of this process' own. Those of processes that are gone are removed.
fn fresh_root() -> PathBuf {
    let clusters = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clusters");
    fs::create_dir_all(&clusters).unwrap();
    for left in fs::read_dir(&clusters).unwrap().map(Result::unwrap) {
        let lock = fs::File::open(left.path().join("lock"));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            // Another process may be removing it too.
            let _ = fs::remove_dir_all(left.path());
        }
    }
    clusters.join(std::process::id().to_string())
}

async fn make_template(superuser: &PgConnectOptions) {
    execute(superuser, format!("CREATE ROLE {OWNER} LOGIN CREATEROLE")).await;
    execute(superuser, format!("CREATE DATABASE {TEMPLATE} OWNER {OWNER}")).await;
    TestDatabase::of(superuser, TEMPLATE).migrate().await;
}
