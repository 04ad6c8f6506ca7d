//! `PgBouncer` between the service and Postgres: the service works with the documented settings, and reports the reason
//! if it does not. `scripts/test-pgbouncer` runs these tests, and other modules behind it; `PGBOUNCER_BIN` can name a
//! newer one, with which the tests of transaction mode run.

use std::path::Path;

use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tonic::Code;
use turnkey::{
    grpc::pb::{ListPackagesRequest, UpdateTenantRequest},
    store,
};

use crate::support::{
    database::{Cluster, OWNER, SERVER, TestDatabase},
    events::ids,
    fixture::{Fixture, one_connection},
    pgbouncer::{PgBouncer, Program, set_on_role},
    process::{Process, database_url, serve, temp_folder, turnkey},
    proxy::Proxy,
    requests::named,
};

const SESSION: &str = "pool_mode = session\ndefault_pool_size = 20";
const TRANSACTION: &str = "pool_mode = transaction\ndefault_pool_size = 4";

/// A database whose role has the documented settings.
async fn database() -> TestDatabase {
    let database = Cluster::get().migrated().await;
    set_on_role(&database, &format!("{SERVER} IN DATABASE {}", database.name())).await;
    database
}

fn behind(pgbouncer: &PgBouncer, database: &TestDatabase) -> TestDatabase {
    TestDatabase { server: pgbouncer.options(&database.server), ..database.clone() }
}

/// The log line with the reason why the service is not ready.
fn not_serving_reason(folder: &Path, database: &TestDatabase) -> String {
    let mut process = Process::start(&mut serve(folder, &database.server));
    let line = process.wait_for("Not serving: ");
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
    line
}

/// Makes calls with every kind of statement, on more connections than the pooler has sessions.
async fn assert_works(database: TestDatabase) {
    let fixture = Fixture::start_on(database).await;
    fixture.server.readiness().wait_for(|&ready| ready).await.unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let (mut provisioning, mut catalog) = (fixture.provisioning.clone(), fixture.catalog.clone());
        callers.spawn(async move {
            for number in 0..10 {
                let created = provisioning.create_fully_provisioned(named(&format!("tenant-{caller}-{number}"))).await;
                let tenant_id = created.unwrap().into_inner().tenant.unwrap().id;
                let name = Some("New".to_owned());
                let update = UpdateTenantRequest { tenant_id: tenant_id.clone(), name, ..Default::default() };
                provisioning.update_tenant(update).await.unwrap();
                for _ in 0..3 {
                    let list = ListPackagesRequest { tenant_id: tenant_id.clone(), ..Default::default() };
                    assert_eq!(catalog.list_packages(list).await.unwrap().into_inner().packages.len(), 3);
                }
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert_eq!(fixture.count("tenants").await, 80);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn pgbouncer_that_drops_settings_is_detected() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    for program in Program::all() {
        let settings = format!("{SESSION}\nignore_startup_parameters = extra_float_digits");
        let pgbouncer = PgBouncer::start(&program, &database.server, &settings);
        let line = not_serving_reason(folder.path(), &behind(&pgbouncer, &database));
        assert!(line.contains("set ignore_startup_parameters = extra_float_digits, options"), "{line}");
        let pgbouncer = PgBouncer::start(&program, &database.server, SESSION);
        let line = not_serving_reason(folder.path(), &behind(&pgbouncer, &database));
        assert!(line.contains(&format!("ALTER ROLE {SERVER} SET statement_timeout = '4000'")), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn pgbouncer_in_session_mode_works() {
    for program in Program::all() {
        let database = database().await;
        let pgbouncer = PgBouncer::start(&program, &database.server, SESSION);
        assert_works(behind(&pgbouncer, &database)).await;
    }
}

/// Without prepared statements, a statement could run in place of another one of the same number.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn pgbouncer_that_drops_prepared_statements_is_refused_and_no_call_reaches_it() {
    let database = database().await;
    let folder = temp_folder();
    for (program, settings) in Program::all().iter().flat_map(|program| {
        let without = if program.keeps_prepared_statements { "\nmax_prepared_statements = 0" } else { "" };
        // A single session; several; several that are used in turn.
        ["default_pool_size = 1", "", "server_round_robin = 1"]
            .map(|sessions| (program, format!("{TRANSACTION}{without}\n{sessions}")))
    }) {
        let pgbouncer = PgBouncer::start(program, &database.server, &settings);
        let behind = behind(&pgbouncer, &database);
        let line = not_serving_reason(folder.path(), &behind);
        assert!(line.contains("a connection pooler drops prepared statements"), "{line}");
        let fixture = Fixture::start_on(behind.clone()).await;
        for number in 0..20 {
            let error = fixture.create(named(&format!("tenant-{number}"))).await.unwrap_err();
            assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        }
        let migrated = store::migrate(&pgbouncer.options(&database.owner).into()).await;
        assert!(migrated.is_err());
        let doctor = turnkey(folder.path()).arg("doctor").env("DATABASE_URL", database_url(&behind.server)).output();
        let stderr = String::from_utf8(doctor.unwrap().stderr).unwrap();
        assert!(stderr.contains("a connection pooler drops prepared statements"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn pgbouncer_in_transaction_mode_works() {
    let Some(program) = Program::for_transaction_mode() else { return };
    // One session for all connections; several; one for each transaction.
    for sessions in ["default_pool_size = 1", "", "server_round_robin = 1", "server_lifetime = 0"] {
        let database = database().await;
        let pgbouncer = PgBouncer::start(&program, &database.server, &format!("{TRANSACTION}\n{sessions}"));
        assert_works(behind(&pgbouncer, &database)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn a_catalog_read_through_pgbouncer_in_transaction_mode_is_one_round_trip() {
    let Some(program) = Program::for_transaction_mode() else { return };
    let database = database().await;
    let pgbouncer = PgBouncer::start(&program, &database.server, TRANSACTION);
    let proxy = Proxy::start(&pgbouncer.options(&database.server)).await;
    let server = proxy.options(&database.server);
    let fixture = Fixture::start_with(TestDatabase { server, ..database }, one_connection()).await;
    let tenant = fixture.tenant("bella").await;
    for _ in 0..50 {
        fixture.package(&tenant, &tenant.package_ids[0]).await.unwrap();
    }
    let before = proxy.round_trips();
    fixture.package(&tenant, &tenant.package_ids[0]).await.unwrap();
    assert_eq!(proxy.round_trips() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn calls_through_pgbouncer_in_transaction_mode_work_on_after_a_schema_change() {
    let Some(program) = Program::for_transaction_mode() else { return };
    let database = database().await;
    let pgbouncer = PgBouncer::start(&program, &database.server, TRANSACTION);
    let fixture = Fixture::start_on(behind(&pgbouncer, &database)).await;
    let tenant = fixture.tenant("bella").await;
    let call_all = async |slug: &str| {
        for number in 0..20 {
            fixture.create(named(&format!("{slug}-{number}"))).await.unwrap();
            fixture.package(&tenant, &tenant.package_ids[0]).await.unwrap();
            fixture.verify(&tenant.secret_key).await;
        }
    };
    call_all("before").await;
    for table in ["tenants", "segments", "packages", "api_keys", "events"] {
        database.execute(format!("ALTER TABLE {table} ADD COLUMN expanded text NOT NULL DEFAULT ''")).await;
    }
    call_all("after").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn a_watcher_misses_no_event_if_pgbouncer_opens_a_session_for_each_transaction() {
    let Some(program) = Program::for_transaction_mode() else { return };
    let database = database().await;
    let pgbouncer = PgBouncer::start(&program, &database.server, &format!("{TRANSACTION}\nserver_lifetime = 0"));
    let fixture = Fixture::start_on(behind(&pgbouncer, &database)).await;
    let mut watch = fixture.watch_from_now().await;
    for number in 0..50 {
        fixture.tenant(&format!("tenant-{number}")).await;
    }
    let watched = watch.next_events(50).await;
    assert_eq!(ids(&watched), ids(&fixture.events().await));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PgBouncer: make check"]
async fn ten_servers_that_migrate_through_pgbouncer_in_transaction_mode_all_become_ready() {
    let Some(program) = Program::for_transaction_mode() else { return };
    let database = Cluster::get().empty().await;
    set_on_role(&database, &format!("{OWNER} IN DATABASE {}", database.name())).await;
    let pgbouncer = PgBouncer::start(&program, &database.server, TRANSACTION);
    let folder = temp_folder();
    let owner = pgbouncer.options(&database.owner);
    let mut servers: Vec<Process> = (0..10)
        .map(|_| Process::start(serve(folder.path(), &owner).args(["--migrate", "--database-max-connections", "2"])))
        .collect();
    for server in &mut servers {
        server.address();
    }
}
