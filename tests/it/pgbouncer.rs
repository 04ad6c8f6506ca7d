//! `PgBouncer` between the service and Postgres: works where it can be relied upon, and is refused with a sentence where
//! not. Run by `make check`, which installs it.

use std::{fs, net::TcpListener, path::Path, process::Command};

use nix::{sys::signal::Signal, unistd::Uid};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tempfile::{TempDir, tempdir_in};
use turnkey::grpc::pb::ListPackagesRequest;

use crate::{
    cluster::{Cluster, SERVER, TestDatabase, execute},
    fixture::{Fixture, named},
    process::{Program, turnkey},
    proxy::Proxy,
};

/// A running `pgbouncer`.
struct PgBouncer {
    _program: Program,
    _folder: TempDir,
    port: u16,
}

impl PgBouncer {
    /// In front of this database, which it reaches through the proxy: the socket's folder may be closed to it.
    async fn start(database: &TestDatabase, settings: &str) -> Self {
        let proxy = Proxy::start(&database.server).await.options(&database.server);
        let name = database.server.get_database().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempdir_in("/tmp").unwrap();
        let file = folder.path().join("pgbouncer.ini");
        let to = format!("host=127.0.0.1 port={} user={SERVER}", proxy.get_port());
        let ini = format!(
            "[databases]\n{name} = {to}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\nserver_tls_sslmode = disable\ndefault_pool_size = 4\n{settings}\n"
        );
        fs::write(&file, ini).unwrap();
        let mut command = Command::new("pgbouncer");
        if Uid::effective().is_root() {
            // It refuses to run as root.
            command.args(["-u", "nobody"]);
        }
        let mut program = Program::start(command.arg(&file));
        program.wait_for("process up");
        Self { _program: program, _folder: folder, port }
    }

    fn options(&self, database: &TestDatabase) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .ssl_mode(PgSslMode::Disable)
            .username(SERVER)
            .database(database.server.get_database().unwrap())
    }

    /// What the service says of it instead of serving.
    fn refusal(&self, folder: &Path, database: &TestDatabase) -> String {
        let name = database.server.get_database().unwrap();
        let url = format!("postgres://{SERVER}@127.0.0.1:{}/{name}?sslmode=disable", self.port);
        let mut program = Program::start(turnkey(folder).args(["--listen", "127.0.0.1:0"]).env("DATABASE_URL", url));
        let line = program.wait_for("Not serving: ");
        program.signal(Signal::SIGTERM);
        assert!(program.wait().success());
        line
    }
}

/// As `docs/operations.md` says.
async fn set_on_role(database: &TestDatabase) {
    for setting in [
        "default_transaction_isolation = 'read committed'",
        "statement_timeout = '4000'",
        "lock_timeout = '2000'",
        "idle_in_transaction_session_timeout = '5000'",
    ] {
        let name = database.superuser.get_database().unwrap();
        execute(&database.superuser, format!("ALTER ROLE {SERVER} IN DATABASE {name} SET {setting}")).await;
    }
}

fn keeps_statements() -> bool {
    let output = Command::new("pgbouncer").arg("--version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let mut numbers =
        version.split_whitespace().nth(1).unwrap().split('.').map(|number| number.parse::<u32>().unwrap());
    (numbers.next(), numbers.next()) >= (Some(1), Some(21))
}

async fn serves(database: TestDatabase, pgbouncer: &PgBouncer) {
    let server = pgbouncer.options(&database);
    let fixture = Fixture::start_on(TestDatabase { server, ..database }).await;
    fixture.server.readiness().wait_for(|&ready| ready).await.unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8 {
        let (mut provisioning, mut catalog) = (fixture.provisioning.clone(), fixture.catalog.clone());
        callers.spawn(async move {
            for number in 0..10 {
                let made = provisioning.create_fully_provisioned(named(&format!("tenant-{caller}-{number}"))).await;
                let tenant_id = made.unwrap().into_inner().tenant.unwrap().id;
                let list = ListPackagesRequest { tenant_id, ..Default::default() };
                assert_eq!(catalog.list_packages(list).await.unwrap().into_inner().packages.len(), 3);
            }
        });
    }
    callers.join_all().await;
    assert_eq!(fixture.count("tenants").await, 80);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn pgbouncer_that_drops_settings_is_refused() {
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let pgbouncer = PgBouncer::start(&database, "pool_mode = session").await;
    let line = pgbouncer.refusal(folder.path(), &database);
    assert!(line.contains("ignore_startup_parameters"), "{line}");
    let settings = "pool_mode = session\nignore_startup_parameters = extra_float_digits, options";
    let pgbouncer = PgBouncer::start(&database, settings).await;
    let line = pgbouncer.refusal(folder.path(), &database);
    assert!(line.contains(&format!("ALTER ROLE {SERVER} SET statement_timeout = '4000'")), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn pgbouncer_that_pools_sessions_works_with_the_documented_settings() {
    let database = Cluster::get().migrated().await;
    set_on_role(&database).await;
    let settings =
        "pool_mode = session\ndefault_pool_size = 20\nignore_startup_parameters = extra_float_digits, options";
    let pgbouncer = PgBouncer::start(&database, settings).await;
    serves(database, &pgbouncer).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn pgbouncer_that_pools_transactions_works_where_it_keeps_prepared_statements_and_is_refused_where_not() {
    let database = Cluster::get().migrated().await;
    set_on_role(&database).await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = "pool_mode = transaction\nignore_startup_parameters = extra_float_digits, options";
    if keeps_statements() {
        let settings = format!("{settings}\nmax_prepared_statements = 200");
        let pgbouncer = PgBouncer::start(&database, &settings).await;
        serves(database, &pgbouncer).await;
    } else {
        let pgbouncer = PgBouncer::start(&database, settings).await;
        let line = pgbouncer.refusal(folder.path(), &database);
        assert!(line.contains("drops prepared statements"), "{line}");
    }
}
