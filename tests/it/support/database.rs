//! The databases of the tests: one temporary Postgres for the whole run, and a copy of a migrated template for each
//! test.
//!
//! The roles are those of production: the owner migrates, the server role owns nothing. Neither is a superuser, because
//! superusers bypass most of what is tested here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, postgres::PgConnectOptions};
use turnkey::store;

use super::{
    citus::{self, Node, PROPAGATE_SETTINGS, citus_bin},
    pgbouncer::{SharedPooler, set_on_role},
    process::database_url,
};

const TEMPLATE: &str = "turnkey_template";
pub const OWNER: &str = "test_owner";
pub const SERVER: &str = "turnkey_server";

/// The Postgres of this test run, or the coordinator of Citus and its workers.
pub struct Cluster {
    superuser: PgConnectOptions,
    workers: Vec<PgConnectOptions>,
    pooler: Option<SharedPooler>,
}

/// The database of one test.
#[derive(Debug, Clone)]
pub struct TestDatabase {
    /// Owns the schema and runs the migrations.
    pub owner: PgConnectOptions,
    /// Runs the service. A member of `turnkey_provisioner` and of nothing else.
    pub server: PgConnectOptions,
    /// What an operator in psql uses.
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

    /// Creates a database with the schema.
    pub async fn migrated(&self) -> TestDatabase {
        self.create_database(&format!("TEMPLATE {TEMPLATE}")).await
    }

    /// Creates a database without the schema.
    pub async fn empty(&self) -> TestDatabase {
        self.create_database(&format!("OWNER {OWNER}")).await
    }

    async fn create_database(&self, options: &str) -> TestDatabase {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        for node in self.workers.iter().chain([&self.superuser]) {
            execute(node, format!("CREATE DATABASE {name} {options}")).await;
        }
        let database = TestDatabase::new(&self.superuser, &name);
        match &self.pooler {
            None => database,
            Some(pooler) => TestDatabase { server: pooler.options(&database.server), ..database },
        }
    }

    /// Makes an empty database one of Citus.
    pub async fn connect_workers(&self, database: &TestDatabase) {
        citus::connect(&self.superuser, &self.workers, database.name()).await;
    }

    /// The database as the workers of Citus have it.
    pub fn on_workers(&self, database: &TestDatabase) -> Vec<TestDatabase> {
        self.workers.iter().map(|worker| TestDatabase::new(worker, database.name())).collect()
    }
}

impl TestDatabase {
    fn new(superuser: &PgConnectOptions, name: &str) -> Self {
        let superuser = superuser.clone().database(name);
        Self { owner: superuser.clone().username(OWNER), server: superuser.clone().username(SERVER), superuser }
    }

    /// The database of an embedded Postgres that the test started itself, with the schema.
    pub async fn migrated_on(postgres: &EmbeddedPostgres) -> Self {
        let owner = postgres.owner_options();
        let database = Self { superuser: owner.clone(), server: postgres.server_options(), owner };
        database.migrate().await;
        database
    }

    /// A database that refuses connections: no process listens on port 1.
    pub fn unreachable() -> Self {
        let nowhere = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1).username("x").database("x");
        Self { owner: nowhere.clone(), server: nowhere.clone(), superuser: nowhere }
    }

    /// Creates the schema and grants the server role what it needs.
    pub async fn migrate(&self) {
        store::migrate(&self.owner.clone().into()).await.unwrap();
        store::grant_provisioner(&self.owner, self.server.get_username()).await.unwrap();
    }

    /// Runs SQL as the superuser.
    pub async fn execute(&self, sql: impl Into<String>) {
        execute(&self.superuser, sql).await;
    }

    /// Runs SQL as the superuser without triggers and foreign keys, as a restored dump or a superuser in psql can do.
    pub async fn execute_without_triggers(&self, sql: &str) {
        let mut connection = self.superuser.connect().await.unwrap();
        for statement in ["BEGIN", PROPAGATE_SETTINGS, "SET LOCAL session_replication_role = replica", sql, "COMMIT"] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
    }

    pub fn name(&self) -> &str {
        self.superuser.get_database().unwrap()
    }
}

pub async fn execute(options: &PgConnectOptions, sql: impl Into<String>) {
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// The Postgres that the developer chose. Every Postgres of the tests takes it from here, so that all have one version.
pub fn pg_bin() -> Option<PathBuf> {
    std::env::var_os("PG_BIN").filter(|directory| !directory.is_empty()).map(PathBuf::from)
}

/// The directory of the Postgres executables.
pub async fn postgres_bin_dir(superuser: &PgConnectOptions) -> PathBuf {
    let mut connection = superuser.connect().await.unwrap();
    let folder: String = sqlx::query_scalar("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    folder.into()
}

/// The whole database as `pg_dump` writes it.
pub async fn dump(superuser: &PgConnectOptions) -> String {
    let pg_dump = postgres_bin_dir(superuser).await.join("pg_dump");
    let output = Command::new(pg_dump).arg("--dbname").arg(database_url(superuser)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The process id of an embedded Postgres, from its pid file.
pub fn postmaster_pid(root: &Path) -> Option<u32> {
    let content = fs::read_to_string(root.join("postgres/postmaster.pid")).ok()?;
    content.lines().next()?.trim().parse().ok()
}

/// Starts the cluster on its own thread, because the runtime of the test that comes first ends with that test. The
/// thread ends with the process, and Postgres stops when the process has ended.
fn start() -> Cluster {
    let (started, cluster) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let postgres = if let Some(bin) = citus_bin() { start_citus(&bin).await } else { start_postgres().await };
            let (superuser, workers) = postgres.superusers();
            started.send((superuser, workers)).unwrap();
            std::future::pending::<()>().await;
            drop(postgres);
        });
    });
    let (superuser, workers) = cluster.recv().expect("the cluster must start");
    Cluster { pooler: SharedPooler::start(&superuser), superuser, workers }
}

/// What runs as long as the process.
enum Running {
    Postgres(Box<EmbeddedPostgres>),
    Citus(Vec<Node>),
}

impl Running {
    fn superusers(&self) -> (PgConnectOptions, Vec<PgConnectOptions>) {
        match self {
            Self::Postgres(postgres) => (postgres.owner_options(), Vec::new()),
            Self::Citus(nodes) => (nodes[0].superuser(), nodes[1..].iter().map(Node::superuser).collect()),
        }
    }
}

/// Starts a Postgres of a test's own in this folder, for tests that stop it or change what all its databases share.
pub async fn start_own_postgres(folder: &Path) -> EmbeddedPostgres {
    let settings = Settings { root: folder.join("c"), pg_bin: pg_bin(), durable: false, max_connections: 20 };
    EmbeddedPostgres::start(settings).await.unwrap()
}

async fn start_postgres() -> Running {
    let settings = Settings { root: new_root(), pg_bin: pg_bin(), durable: false, max_connections: 500 };
    let postgres = EmbeddedPostgres::start(settings).await.unwrap();
    create_template(&postgres.owner_options()).await;
    Running::Postgres(Box::new(postgres))
}

async fn start_citus(bin: &Path) -> Running {
    let root = new_root();
    let mut nodes = Vec::new();
    for suffix in ["", "-worker-1", "-worker-2"] {
        let mut name = root.clone().into_os_string();
        name.push(suffix);
        nodes.push(Node::start(name.into(), bin).await);
    }
    for node in &nodes {
        create_empty_template(&node.superuser()).await;
    }
    let running = Running::Citus(nodes);
    let (coordinator, workers) = running.superusers();
    citus::connect(&coordinator, &workers, TEMPLATE).await;
    TestDatabase::new(&coordinator, TEMPLATE).migrate().await;
    for worker in &workers {
        // Citus repeats grants only for roles that it has created.
        execute(worker, format!("GRANT turnkey_provisioner TO {SERVER}")).await;
    }
    for node in workers.iter().chain([&coordinator]) {
        // The maintenance of Citus stays connected to a database, and a template must not have connections.
        execute(node, format!("ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false")).await;
        let terminate = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity";
        execute(node, format!("{terminate} WHERE datname = '{TEMPLATE}'")).await;
    }
    running
}

/// The folder of this process. Removes those of processes that have ended.
fn new_root() -> PathBuf {
    let clusters = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clusters");
    fs::create_dir_all(&clusters).unwrap();
    for folder in fs::read_dir(&clusters).unwrap().map(Result::unwrap) {
        let lock = fs::File::open(folder.path().join("lock"));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            // Another test process may remove it at the same time.
            let _ = fs::remove_dir_all(folder.path());
        }
    }
    clusters.join(std::process::id().to_string())
}

async fn create_template(superuser: &PgConnectOptions) {
    create_empty_template(superuser).await;
    let template = TestDatabase::new(superuser, TEMPLATE);
    template.migrate().await;
    if SharedPooler::is_requested() {
        set_on_role(&template, SERVER).await;
    }
}

async fn create_empty_template(superuser: &PgConnectOptions) {
    execute(superuser, format!("CREATE ROLE {OWNER} LOGIN CREATEROLE")).await;
    execute(superuser, format!("CREATE DATABASE {TEMPLATE} OWNER {OWNER}")).await;
}
