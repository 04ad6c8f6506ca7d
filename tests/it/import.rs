//! `turnkey import`: every tenant is created once and every key is in the file, wherever the import was interrupted.

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
use tempfile::TempDir;
use turnkey::grpc::pb::Verdict;

use crate::support::{
    database::execute,
    fixture::Fixture,
    process::{Process, database_url, temp_folder, turnkey},
    requests::named,
    tokens::Tokens,
};

/// A folder with a CSV file of tenants.
pub struct Import<'a> {
    pub fixture: &'a Fixture,
    folder: TempDir,
}

impl<'a> Import<'a> {
    pub fn new(fixture: &'a Fixture, tenants: &str) -> Self {
        let folder = temp_folder();
        fs::write(folder.path().join("tenants.csv"), tenants).unwrap();
        Self { fixture, folder }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = turnkey(self.folder.path());
        command.args(["import", "tenants.csv", "--out", "keys.csv"]).args(arguments).env("RUST_LOG", "warn");
        if !arguments.contains(&"--server") {
            command.env("DATABASE_URL", database_url(&self.fixture.database.server));
        }
        command
    }

    /// Blocks the thread. The server of the fixture needs another one.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The keys file: slug → (tenant id, public key, secret key).
    pub fn keys(&self) -> HashMap<String, (String, String, String)> {
        let text = fs::read_to_string(self.path("keys.csv")).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("slug,tenant_id,public_key,secret_key"));
        let mut keys = HashMap::new();
        for line in lines {
            let [slug, tenant_id, public_key, secret_key]: [&str; 4] =
                line.split(',').collect::<Vec<_>>().try_into().unwrap();
            let row = (tenant_id.to_owned(), public_key.to_owned(), secret_key.to_owned());
            assert!(keys.insert(slug.to_owned(), row).is_none(), "{slug} is in the file twice");
        }
        keys
    }

    pub async fn assert_all_keys_work(&self, expected: usize) {
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

pub fn tenants(count: u32) -> String {
    let mut csv = "slug,name,commission_percent\n".to_owned();
    for number in 0..count {
        writeln!(csv, "tenant-{number},\"Tenant, Number {number}\",12.5").unwrap();
    }
    csv
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_becomes_a_tenant_whose_key_is_in_a_private_file() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(250));
    let output = import.run(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("250 rows: 250 imported, 0 rejected"), "{}", stderr(&output));
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

    let repeated = import.run(&[]);
    assert!(
        repeated.status.success() && stderr(&repeated).contains("250 of 250 rows are already imported"),
        "{}",
        stderr(&repeated)
    );
    import.assert_all_keys_work(250).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_through_a_server_creates_every_tenant() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(120));
    let server = format!("http://{}", fixture.server.address);
    let output = import.run(&["--server", &server, "--concurrency", "2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    import.assert_all_keys_work(120).await;
    let direct = import.run(&[]);
    assert!(stderr(&direct).contains("belongs to another import"), "{}", stderr(&direct));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_invalid_rows_are_reported_before_anything_is_written_and_can_be_skipped() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, "slug,name,commission_percent\nbella,Bella,\nadmin,Admin,\nomer,,200\n");
    let output = import.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    for message in
        ["line 3: slug is reserved", "line 4: name is required; commission_percent must be", "2 invalid rows"]
    {
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
    assert_eq!(fixture.row_counts().await, [0; 4]);
    assert!(!import.path("keys.csv").exists() && !import.path("keys.csv.journal").exists());

    let output = import.run(&["--skip-invalid"]);
    assert!(output.status.success(), "{}", stderr(&output));
    import.assert_all_keys_work(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_slug_is_reported_with_its_line_and_the_other_rows_are_imported() {
    let fixture = Fixture::start().await;
    fixture.create(named("tenant-1")).await.unwrap();
    let import = Import::new(&fixture, &tenants(3));
    let output = import.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("line 3: tenant-1: "), "{}", stderr(&output));
    import.assert_all_keys_work(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_a_keys_file_is_not_overwritten() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(3));
    fs::write(import.path("keys.csv"), "not a key file\n").unwrap();
    let output = import.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(import.path("keys.csv")).unwrap(), "not a key file\n");
    assert_eq!(fixture.row_counts().await, [0; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_through_a_server_with_a_tokens_file_needs_a_token() {
    let tokens = Tokens::new();
    let token = tokens.create("importer", &["provisioner"]);
    let fixture = Fixture::with_settings(tokens.settings()).await;
    let import = Import::new(&fixture, &tenants(3));
    let server = format!("http://{}", fixture.server.address);
    let output = import.run(&["--server", &server]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "turnkey: the server returned UNAUTHENTICATED / UNAUTHENTICATED: missing or invalid credentials\n";
    assert_eq!(stderr(&output), expected);
    assert_eq!(fixture.row_counts().await, [0; 4]);
    let run_with_token = || import.command(&["--server", &server]).env("TURNKEY_TOKEN", &token).output().unwrap();
    assert!(run_with_token().status.success());
    assert_eq!(import.keys().len(), 3);

    for file in ["keys.csv", "keys.csv.journal"] {
        fs::remove_file(import.path(file)).unwrap();
    }
    let output = run_with_token();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("line 3: tenant-1: SLUG_TAKEN: "), "{}", stderr(&output));
}

/// The import was killed a day ago, while it wrote the sixth of ten rows.
async fn resume_after_a_day(through_server: bool) {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(10));
    let server = format!("http://{}", fixture.server.address);
    let arguments: &[&str] = if through_server { &["--server", &server] } else { &[] };
    assert!(import.run(arguments).status.success());
    let text = fs::read_to_string(import.path("keys.csv")).unwrap();
    let five: Vec<&str> = text.lines().take(6).collect();
    fs::write(import.path("keys.csv"), format!("{}\ntenant-", five.join("\n"))).unwrap();
    sqlx::query("UPDATE idempotency_records SET created_at = created_at - interval '25 hours'")
        .execute(&fixture.superuser_pool().await)
        .await
        .unwrap();
    let output = import.run(arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    import.assert_all_keys_work(10).await;
    assert_eq!(fixture.row_counts().await, [10, 10, 30, 15], "five keys were rotated");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_resumed_after_24_hours_rotates_the_lost_keys() {
    resume_after_a_day(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_through_a_server_resumed_after_24_hours_rotates_the_lost_keys() {
    resume_after_a_day(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_a_server_without_a_database() {
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(10));
    let other_database = fixture.database.superuser.clone().database("postgres");
    let name = fixture.database.name();
    let disconnect = format!(
        "ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    );
    execute(&other_database, disconnect).await;
    let server = format!("http://{}", fixture.server.address);
    let mut process = Process::start(&mut import.command(&["--server", &server]));
    process.wait_for("Batch failed, retrying in");
    execute(&other_database, format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")).await;
    assert!(process.wait().success(), "{:?}", process.log);
    import.assert_all_keys_work(10).await;
}

async fn kill_and_resume(rows: u32, kills: u32, through_server: bool) {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let fixture = Fixture::start().await;
    let import = Import::new(&fixture, &tenants(rows));
    let server = format!("http://{}", fixture.server.address);
    let arguments: &[&str] = if through_server { &["--server", &server] } else { &[] };
    let mut killed = 0;
    for _ in 0..kills {
        let mut process = Process::start(&mut import.command(arguments));
        // The import logs every fiftieth row. The kill should come in between.
        for _ in 0..random.random_range(0..4) {
            if process.next_line().is_none() {
                break;
            }
        }
        for _ in 0..random.random_range(0..200_000) {
            std::hint::spin_loop();
        }
        process.signal(Signal::SIGKILL);
        killed += u32::from(!process.wait().success());
    }
    println!("{killed} of {kills} imports were killed before their end");
    assert!(killed > 0, "no import was killed with seed {seed}");
    let output = import.run(arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    import.assert_all_keys_work(rows.try_into().unwrap()).await;
    let count = i64::from(rows);
    assert_eq!(fixture.row_counts().await, [count, count, 3 * count, count]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_killed_twenty_times_creates_every_tenant_once_and_keeps_every_key() {
    kill_and_resume(5_000, 20, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_through_a_server_killed_five_times_creates_every_tenant_once() {
    kill_and_resume(1_000, 5, true).await;
}
