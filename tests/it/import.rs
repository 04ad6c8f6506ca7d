//! `turnkey import`: every tenant once and every key in the file, wherever it was stopped.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::{TempDir, tempdir_in};
use turnkey::grpc::pb::Verdict;

use crate::{
    authentication::Tokens,
    cluster::{Cluster, execute},
    fixture::{Fixture, named},
    process::{Program, turnkey, url},
};

/// A folder with a file of tenants to import.
struct Import<'a> {
    fixture: &'a Fixture,
    folder: TempDir,
}

impl<'a> Import<'a> {
    fn of(fixture: &'a Fixture, tenants: &str) -> Self {
        let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(folder.path().join("tenants.csv"), tenants).unwrap();
        Self { fixture, folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = turnkey(self.folder.path());
        command.args(["import", "tenants.csv", "--out", "keys.csv"]).args(arguments).env("RUST_LOG", "warn");
        if !arguments.contains(&"--server") {
            command.env("DATABASE_URL", url(&self.fixture.database.server));
        }
        command
    }

    /// Blocks; the server of the fixture goes on in another thread.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Slug → (tenant id, public key, secret key).
    fn keys(&self) -> HashMap<String, (String, String, String)> {
        let text = fs::read_to_string(self.path("keys.csv")).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("slug,tenant_id,public_key,secret_key"));
        let mut keys = HashMap::new();
        for line in lines {
            let [slug, tenant_id, public_key, secret_key]: [&str; 4] =
                line.split(',').collect::<Vec<_>>().try_into().unwrap();
            let row = (tenant_id.to_owned(), public_key.to_owned(), secret_key.to_owned());
            assert!(keys.insert(slug.to_owned(), row).is_none(), "{slug} stands there twice");
        }
        keys
    }

    async fn assert_all_keys_work(&self, expected: usize) {
        let keys = self.keys();
        assert_eq!(keys.len(), expected);
        let secrets: HashSet<_> = keys.values().map(|(_, _, secret)| secret).collect();
        assert_eq!(secrets.len(), expected);
        for (slug, (tenant_id, public_key, secret_key)) in keys {
            let verified = self.fixture.verify(&secret_key).await;
            assert_eq!(verified.verdict(), Verdict::Valid, "{slug}");
            assert_eq!((verified.tenant_slug, verified.tenant_id, verified.public_key), (slug, tenant_id, public_key));
        }
    }
}

fn tenants(count: u32) -> String {
    let mut csv = "slug,name,commission_percent\n".to_owned();
    for number in 0..count {
        writeln!(csv, "tenant-{number},\"Tenant, Number {number}\",12.5").unwrap();
    }
    csv
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_becomes_a_tenant_with_a_key_in_a_file_for_nobody_elses_eyes() {
    let fixture = Fixture::start().await;
    let import = Import::of(&fixture, &tenants(250));
    let output = import.run(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("250 rows: 250 imported, 0 refused"), "{}", said(&output));
    import.assert_all_keys_work(250).await;
    assert_eq!(fixture.row_counts().await, [250, 250, 750, 250]);
    for file in ["keys.csv", "keys.csv.journal"] {
        assert_eq!(mode(&import.path(file)), 0o600, "{file}");
    }
    let (name, commission): (String, String) =
        sqlx::query_as("SELECT name, commission_percent::text FROM tenants WHERE slug = 'tenant-7'")
            .fetch_one(&fixture.superuser_pool().await)
            .await
            .unwrap();
    assert_eq!((name.as_str(), commission.as_str()), ("Tenant, Number 7", "12.50"));

    let again = import.run(&[]);
    assert!(again.status.success() && said(&again).contains("250 of 250 were imported before"), "{}", said(&again));
    import.assert_all_keys_work(250).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_by_way_of_a_server_too() {
    let fixture = Fixture::start().await;
    let import = Import::of(&fixture, &tenants(120));
    let server = format!("http://{}", fixture.server.address);
    let output = import.run(&["--server", &server, "--concurrency", "2"]);
    assert!(output.status.success(), "{}", said(&output));
    import.assert_all_keys_work(120).await;
    let elsewhere = import.run(&[]);
    assert!(said(&elsewhere).contains("of another import"), "{}", said(&elsewhere));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_all_named_before_anything_is_written_and_can_be_skipped() {
    let fixture = Fixture::start().await;
    let import = Import::of(&fixture, "slug,name,commission_percent\nbella,Bella,\nadmin,Admin,\nomer,,200\n");
    let output = import.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    for complaint in ["line 3: slug is reserved", "line 4: name is required; commission_percent must be", "2 bad rows"]
    {
        assert!(said(&output).contains(complaint), "{}", said(&output));
    }
    assert_eq!(fixture.row_counts().await, [0; 4]);
    assert!(!import.path("keys.csv").exists() && !import.path("keys.csv.journal").exists());

    let output = import.run(&["--skip-invalid"]);
    assert!(output.status.success(), "{}", said(&output));
    import.assert_all_keys_work(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_that_somebody_has_is_refused_by_its_line_and_the_others_are_made() {
    let fixture = Fixture::start().await;
    fixture.create(named("tenant-1")).await.unwrap();
    let import = Import::of(&fixture, &tenants(3));
    let output = import.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("line 3: tenant-1: "), "{}", said(&output));
    import.assert_all_keys_work(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_keys_that_is_none_of_an_import_is_not_touched() {
    let fixture = Fixture::start().await;
    let import = Import::of(&fixture, &tenants(3));
    fs::write(import.path("keys.csv"), "dear diary\n").unwrap();
    let output = import.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(import.path("keys.csv")).unwrap(), "dear diary\n");
    assert_eq!(fixture.row_counts().await, [0; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_its_callers_wants_a_token_and_names_what_it_refuses() {
    let tokens = Tokens::new();
    let token = tokens.create("importer", &["provisioner"]);
    let fixture = Fixture::start_with(Cluster::get().migrated().await, tokens.settings()).await;
    let import = Import::of(&fixture, &tenants(3));
    let server = format!("http://{}", fixture.server.address);
    let output = import.run(&["--server", &server]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(said(&output), "turnkey: the server returned UNAUTHENTICATED: missing or invalid credentials\n");
    assert_eq!(fixture.row_counts().await, [0; 4]);
    let by_token = || import.command(&["--server", &server]).env("TURNKEY_TOKEN", &token).output().unwrap();
    assert!(by_token().status.success());
    assert_eq!(import.keys().len(), 3);

    for file in ["keys.csv", "keys.csv.journal"] {
        fs::remove_file(import.path(file)).unwrap();
    }
    let output = by_token();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("line 3: tenant-1: SLUG_TAKEN: "), "{}", said(&output));
}

/// As if it had been killed in the middle of the sixth of ten rows, a day ago.
async fn go_on_after_a_day(by_server: bool) {
    let fixture = Fixture::start().await;
    let import = Import::of(&fixture, &tenants(10));
    let server = format!("http://{}", fixture.server.address);
    let arguments: &[&str] = if by_server { &["--server", &server] } else { &[] };
    assert!(import.run(arguments).status.success());
    let text = fs::read_to_string(import.path("keys.csv")).unwrap();
    let five: Vec<&str> = text.lines().take(6).collect();
    fs::write(import.path("keys.csv"), format!("{}\ntenant-", five.join("\n"))).unwrap();
    sqlx::query("UPDATE idempotency_records SET created_at = created_at - interval '25 hours'")
        .execute(&fixture.superuser_pool().await)
        .await
        .unwrap();
    let output = import.run(arguments);
    assert!(output.status.success(), "{}", said(&output));
    import.assert_all_keys_work(10).await;
    assert_eq!(fixture.row_counts().await, [10, 10, 30, 15], "five keys were changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_after_24_hours_changes_the_keys_that_nobody_has() {
    go_on_after_a_day(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_through_a_server_survives_kills() {
    go_on_after_a_day(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_server_whose_database_is_away() {
    let fixture = Fixture::start().await;
    let import = Import::of(&fixture, &tenants(10));
    let elsewhere = fixture.database.superuser.clone().database("postgres");
    let name = fixture.database.server.get_database().unwrap();
    let away = format!(
        "ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    );
    execute(&elsewhere, away).await;
    let server = format!("http://{}", fixture.server.address);
    let mut program = Program::start(&mut import.command(&["--server", &server]));
    program.wait_for("Tried in vain, and will try again");
    execute(&elsewhere, format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")).await;
    assert!(program.wait().success(), "{:?}", program.log);
    import.assert_all_keys_work(10).await;
}

async fn kill_and_go_on(rows: u32, kills: u32, by_server: bool) {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let fixture = Fixture::start().await;
    let import = Import::of(&fixture, &tenants(rows));
    let server = format!("http://{}", fixture.server.address);
    let arguments: &[&str] = if by_server { &["--server", &server] } else { &[] };
    let mut killed = 0;
    for _ in 0..kills {
        let mut program = Program::start(&mut import.command(arguments));
        // Its lines come at every fiftieth; a kill in between is what is wanted.
        for _ in 0..random.random_range(0..4) {
            if program.next_line().is_none() {
                break;
            }
        }
        for _ in 0..random.random_range(0..200_000) {
            std::hint::spin_loop();
        }
        program.signal(Signal::SIGKILL);
        killed += u32::from(!program.wait().success());
    }
    println!("{killed} of {kills} came in time");
    assert!(killed > 0, "by seed {seed} none did");
    let output = import.run(arguments);
    assert!(output.status.success(), "{}", said(&output));
    import.assert_all_keys_work(rows.try_into().unwrap()).await;
    let count = i64::from(rows);
    assert_eq!(fixture.row_counts().await, [count, count, 3 * count, count]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_twenty_times_at_random_it_ends_with_every_tenant_once_and_every_key_in_the_file() {
    kill_and_go_on(5_000, 20, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_by_way_of_a_server_it_ends_no_worse() {
    kill_and_go_on(1_000, 5, true).await;
}
