//! `PgBouncer` between the service and Postgres: the service works with the documented settings, and reports the reason if it
//! does not. `make check` installs `PgBouncer` and runs these tests.

use std::{fs, net::TcpListener, path::Path, process::Command};

use nix::{sys::signal::Signal, unistd::Uid};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tempfile::{TempDir, tempdir_in};
use turnkey::grpc::pb::ListPackagesRequest;

use crate::support::{
    database::{Cluster, SERVER, TestDatabase},
    fixture::Fixture,
    process::{Process, temp_folder, turnkey},
    proxy::Proxy,
    requests::named,
};

/// A running `pgbouncer`.
struct PgBouncer {
    _program: Process,
    _folder: TempDir,
    port: u16,
}

impl PgBouncer {
    /// Starts in front of this database. It connects through the proxy, because its user may lack access to the socket's folder.
    async fn start(database: &TestDatabase, settings: &str) -> Self {
        let proxy = Proxy::start(&database.server).await.options(&database.server);
        let name = database.name();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempdir_in("/tmp").unwrap();
        let file = folder.path().join("pgbouncer.ini");
        let target = format!("host=127.0.0.1 port={} user={SERVER}", proxy.get_port());
        let ini = format!(
            "[databases]\n{name} = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\nserver_tls_sslmode = disable\ndefault_pool_size = 4\n{settings}\n"
        );
        fs::write(&file, ini).unwrap();
        let mut command = Command::new("pgbouncer");
        if Uid::effective().is_root() {
            // It refuses to run as root.
            command.args(["-u", "nobody"]);
        }
        let mut process = Process::start(command.arg(&file));
        process.wait_for("process up");
        Self { _program: process, _folder: folder, port }
    }

    fn options(&self, database: &TestDatabase) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .ssl_mode(PgSslMode::Disable)
            .username(SERVER)
            .database(database.name())
    }

    /// The log line with the reason why the service is not ready.
    fn not_serving_reason(&self, folder: &Path, database: &TestDatabase) -> String {
        let name = database.name();
        let url = format!("postgres://{SERVER}@127.0.0.1:{}/{name}?sslmode=disable", self.port);
        let mut process = Process::start(turnkey(folder).args(["--listen", "127.0.0.1:0"]).env("DATABASE_URL", url));
        let line = process.wait_for("Not serving: ");
        process.signal(Signal::SIGTERM);
        assert!(process.wait().success());
        line
    }
}

/// The settings of `docs/operations.md`.
async fn set_on_role(database: &TestDatabase) {
    for setting in [
        "default_transaction_isolation = 'read committed'",
        "statement_timeout = '4000'",
        "lock_timeout = '2000'",
        "idle_in_transaction_session_timeout = '5000'",
    ] {
        let name = database.name();
        database.execute(format!("ALTER ROLE {SERVER} IN DATABASE {name} SET {setting}")).await;
    }
}

fn keeps_prepared_statements() -> bool {
    let output = Command::new("pgbouncer").arg("--version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let mut numbers =
        version.split_whitespace().nth(1).unwrap().split('.').map(|number| number.parse::<u32>().unwrap());
    (numbers.next(), numbers.next()) >= (Some(1), Some(21))
}

async fn assert_works(database: TestDatabase, pgbouncer: &PgBouncer) {
    let server = pgbouncer.options(&database);
    let fixture = Fixture::start_on(TestDatabase { server, ..database }).await;
    fixture.server.readiness().wait_for(|&ready| ready).await.unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8 {
        let (mut provisioning, mut catalog) = (fixture.provisioning.clone(), fixture.catalog.clone());
        callers.spawn(async move {
            for number in 0..10 {
                let created = provisioning.create_fully_provisioned(named(&format!("tenant-{caller}-{number}"))).await;
                let tenant_id = created.unwrap().into_inner().tenant.unwrap().id;
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
async fn pgbouncer_that_drops_settings_is_detected() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let pgbouncer = PgBouncer::start(&database, "pool_mode = session").await;
    let line = pgbouncer.not_serving_reason(folder.path(), &database);
    assert!(line.contains("ignore_startup_parameters"), "{line}");
    let settings = "pool_mode = session\nignore_startup_parameters = extra_float_digits, options";
    let pgbouncer = PgBouncer::start(&database, settings).await;
    let line = pgbouncer.not_serving_reason(folder.path(), &database);
    assert!(line.contains(&format!("ALTER ROLE {SERVER} SET statement_timeout = '4000'")), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn pgbouncer_in_session_mode_works_with_the_documented_settings() {
    let database = Cluster::get().migrated().await;
    set_on_role(&database).await;
    let settings =
        "pool_mode = session\ndefault_pool_size = 20\nignore_startup_parameters = extra_float_digits, options";
    let pgbouncer = PgBouncer::start(&database, settings).await;
    assert_works(database, &pgbouncer).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn pgbouncer_in_transaction_mode_works_if_it_keeps_prepared_statements() {
    let database = Cluster::get().migrated().await;
    set_on_role(&database).await;
    let folder = temp_folder();
    let settings = "pool_mode = transaction\nignore_startup_parameters = extra_float_digits, options";
    if keeps_prepared_statements() {
        let settings = format!("{settings}\nmax_prepared_statements = 200");
        let pgbouncer = PgBouncer::start(&database, &settings).await;
        assert_works(database, &pgbouncer).await;
    } else {
        let pgbouncer = PgBouncer::start(&database, settings).await;
        let line = pgbouncer.not_serving_reason(folder.path(), &database);
        assert!(line.contains("drops prepared statements"), "{line}");
    }
}
