//! The crate `embedded-postgres` with a real Postgres: start, stop, and every kind of crash.
//!
//! The program that crashes is this test binary itself, started again with one ignored test.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use embedded_postgres::{EmbeddedPostgres, Error, Settings};
use sqlx::{
    ConnectOptions as _, Connection as _,
    postgres::{PgConnectOptions, PgConnection},
};
use tempfile::TempDir;

use crate::support::{
    database::{Cluster, pg_bin, postgres_bin_dir, postmaster_pid},
    process::{Process, temp_folder, turnkey},
    requests::bella,
};

/// Passes the folder to the ignored test.
const ROOT_VARIABLE: &str = "TURNKEY_TEST_EMBEDDED_ROOT";

fn settings(root: PathBuf) -> Settings {
    Settings { root, pg_bin: pg_bin(), durable: false, max_connections: 10 }
}

/// A folder that only this user may enter, as `/root`: when the test runs as root, the user of Postgres may not.
fn private_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    options.connect().await.unwrap()
}

async fn text(connection: &mut PgConnection, query: &'static str) -> String {
    sqlx::query_scalar(query).fetch_one(connection).await.unwrap()
}

fn is_alive(process: u32) -> bool {
    let state = ps(process, "stat=");
    !state.is_empty() && !state.starts_with('Z')
}

fn parent(process: u32) -> u32 {
    ps(process, "ppid=").parse().unwrap()
}

fn ps(process: u32, column: &str) -> String {
    let output = Command::new("ps").args(["-o", column, "-p", &process.to_string()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Returns the shell, its reader and the postmaster, which share a process group. Children of the postmaster are left
/// out, because they are members only for the moment before they leave the group.
fn group(leader: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-e", "-o", "pgid=,pid=,ppid=,stat="]).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    let members: Vec<(u32, u32)> = listing
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let is_in_group = columns.next()?.parse() == Ok(leader);
            let process = columns.next()?.parse().ok()?;
            let parent = columns.next()?.parse().ok()?;
            let is_dead = columns.next()?.starts_with('Z');
            (is_in_group && !is_dead).then_some((process, parent))
        })
        .collect();
    let is_member = |number| members.iter().any(|(process, _)| *process == number);
    members.iter().filter(|(_, parent)| *parent == leader || !is_member(*parent)).map(|(process, _)| *process).collect()
}

fn kill_9(processes: &[u32]) {
    let status = Command::new("kill").arg("-9").args(processes.iter().map(u32::to_string)).status().unwrap();
    assert!(status.success());
}

async fn eventually(description: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < limit, "not within 20 s: {description}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts this test binary as a program with an embedded Postgres, and waits until Postgres runs.
async fn start_program(root: &Path) -> Child {
    start_program_with(root, &[]).await
}

async fn start_program_with(root: &Path, environment: &[(&str, &str)]) -> Child {
    let (_, module) = module_path!().split_once("::").unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact"])
        .arg(format!("{module}::runs_an_embedded_postgres_until_it_is_killed"))
        .env(ROOT_VARIABLE, root)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the program is ready", || root.join("ready").exists()).await;
    fs::remove_file(root.join("ready")).unwrap();
    child
}

#[tokio::test]
#[ignore = "the program that other tests start and kill"]
async fn runs_an_embedded_postgres_until_it_is_killed() {
    let Some(root) = std::env::var_os(ROOT_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let _postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    fs::write(root.join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_embedded_postgres_creates_a_database_and_two_logins_and_keeps_its_data() {
    let folder = private_folder();
    let root = folder.path().join("state");
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    let mut owner = connect(&postgres.owner_options()).await;
    let login = "SELECT current_user || ' in ' || current_database()";
    assert_eq!(text(&mut owner, login).await, "turnkey in turnkey");
    let mut server = connect(&postgres.server_options()).await;
    assert_eq!(text(&mut server, login).await, "turnkey_server in turnkey");
    let addresses = "SELECT current_setting('listen_addresses')";
    assert_eq!(text(&mut owner, addresses).await, "");
    sqlx::query("CREATE TABLE kept AS SELECT 'still here' AS line").execute(&mut owner).await.unwrap();
    let process = postmaster_pid(&root).unwrap();
    let shell = parent(process);
    assert_eq!(group(shell).len(), 3, "shell, reader, postmaster");
    // Both connections are open: a fast shutdown does not wait for them.
    postgres.stop().await.unwrap();
    assert_eq!(group(shell), Vec::<u32>::new());
    let mode = fs::metadata(root.join("postgres")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
    assert_eq!(fs::read_to_string(root.join(".gitignore")).unwrap(), "*\n");

    let postgres = EmbeddedPostgres::start(settings(root)).await.unwrap();
    let mut owner = connect(&postgres.owner_options()).await;
    assert_eq!(text(&mut owner, "SELECT line FROM kept").await, "still here");
    owner.close().await.unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_program_cannot_use_the_same_folder() {
    let folder = private_folder();
    let root = folder.path().to_path_buf();
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    let error = EmbeddedPostgres::start(settings(root)).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyRunning { .. }), "{error}");
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn dropping_the_handle_stops_the_embedded_postgres() {
    let folder = private_folder();
    let postgres = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap();
    let shell = parent(postmaster_pid(folder.path()).unwrap());
    drop(postgres);
    eventually("all processes are gone", || group(shell).is_empty()).await;
}

#[tokio::test]
async fn a_killed_program_leaves_no_postgres_processes() {
    let folder = private_folder();
    let mut program = start_program(folder.path()).await;
    let shell = parent(postmaster_pid(folder.path()).unwrap());
    program.kill().unwrap();
    program.wait().unwrap();
    eventually("all processes are gone", || group(shell).is_empty()).await;
    assert_eq!(postmaster_pid(folder.path()), None, "Postgres stopped cleanly");
}

/// Variables that change Postgres, its programs or its clients.
const HOSTILE_VARIABLES: [(&str, &str); 9] = [
    ("PGDATA", "/nowhere"),
    ("PGPORT", "1"),
    ("PGHOST", "/nowhere"),
    ("PGUSER", "other"),
    ("PGDATABASE", "nothing"),
    ("PGDATESTYLE", "German"),
    ("PGTZ", "Asia/Tokyo"),
    ("LD_PRELOAD", "/nowhere/library.so"),
    ("LANG", "de_DE.UTF-8"),
];

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_embedded_postgres_has_a_clean_environment() {
    let folder = private_folder();
    let mut program = start_program_with(folder.path(), &HOSTILE_VARIABLES).await;
    let postmaster = postmaster_pid(folder.path()).unwrap();
    for process in [postmaster, parent(postmaster)] {
        let environment = String::from_utf8(fs::read(format!("/proc/{process}/environ")).unwrap()).unwrap();
        let names = environment.split_terminator('\0').map(|variable| variable.split_once('=').unwrap().0);
        // The shell adds PWD and OLDPWD.
        let allowed = ["PATH", "TZ", "LC_ALL", "HOME", "PG_GRANDPARENT_PID", "PWD", "OLDPWD"];
        let others: Vec<&str> = names.filter(|name| !allowed.contains(name)).collect();
        assert_eq!(others, Vec::<&str>::new(), "{environment:?}");
    }
    program.kill().unwrap();
    program.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_environment_does_not_change_the_embedded_postgres() {
    let folder = temp_folder();
    let mut command = turnkey(folder.path());
    // Without the library, which the loader reports for `turnkey` itself.
    command.envs(HOSTILE_VARIABLES.into_iter().filter(|(name, _)| *name != "LD_PRELOAD"));
    command.env("PGOPTIONS", "-c default_transaction_read_only=on -c search_path=nowhere");
    let mut server = Process::start(command.args(["serve", "--listen", "127.0.0.1:0"]));
    server.provisioning().await.create_fully_provisioned(bella()).await.unwrap();
}

#[tokio::test]
async fn a_start_directly_after_a_kill_waits_for_the_previous_postgres() {
    let folder = private_folder();
    let mut program = start_program(folder.path()).await;
    program.kill().unwrap();
    program.wait().unwrap();
    let postgres = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_postgres_whose_program_and_shell_were_killed_is_stopped_and_replaced() {
    let folder = private_folder();
    let mut program = start_program(folder.path()).await;
    let orphan = postmaster_pid(folder.path()).unwrap();
    let shell = parent(orphan);
    let mut readers = group(shell);
    readers.retain(|process| ![shell, orphan].contains(process));
    // Kill the reader first: it stops Postgres as soon as one of the others has ended.
    kill_9(&readers);
    kill_9(&[program.id(), shell]);
    program.wait().unwrap();
    assert!(is_alive(orphan), "no process was left to stop it");

    let postgres = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap();
    assert!(!is_alive(orphan));
    assert_ne!(postmaster_pid(folder.path()), Some(orphan));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_postgres_is_restarted() {
    let folder = private_folder();
    let root = folder.path().to_path_buf();
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    let killed = postmaster_pid(&root).unwrap();
    let shell = parent(killed);
    kill_9(&[killed]);
    wait_for_another(&postgres, &root, killed).await;
    assert_eq!(group(shell), Vec::<u32>::new());

    // If only the shell dies, its reader stops Postgres, and Postgres is restarted.
    let orphan = postmaster_pid(&root).unwrap();
    kill_9(&[parent(orphan)]);
    wait_for_another(&postgres, &root, orphan).await;
    assert!(!is_alive(orphan));

    // If both die at once, a zombie is left to the init process.
    let zombie = postmaster_pid(&root).unwrap();
    kill_9(&group(parent(zombie)));
    wait_for_another(&postgres, &root, zombie).await;
    postgres.stop().await.unwrap();
}

async fn wait_for_another(postgres: &EmbeddedPostgres, root: &Path, earlier: u32) {
    eventually("another postmaster", || postmaster_pid(root).is_some_and(|process| process != earlier)).await;
    let limit = Instant::now() + Duration::from_secs(20);
    while let Err(error) = postgres.server_options().connect().await {
        assert!(Instant::now() < limit, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_unfinished_cluster_is_created_again() {
    let folder = private_folder();
    let unfinished = folder.path().join("postgres.new");
    fs::create_dir_all(unfinished.join("base")).unwrap();
    fs::write(unfinished.join("PG_VERSION"), "15\n").unwrap();
    let postgres = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap();
    assert!(!unfinished.exists());
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_of_another_major_version_is_not_changed() {
    let folder = private_folder();
    let cluster = folder.path().join("postgres");
    fs::create_dir(&cluster).unwrap();
    fs::write(cluster.join("PG_VERSION"), "999\n").unwrap();
    let error = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap_err();
    assert!(matches!(&error, Error::MajorVersionMismatch { major: 999, .. }), "{error}");
    let bin_dir = postgres_bin_dir(&Cluster::get().superuser()).await;
    let with_pg_bin = Settings { pg_bin: Some(bin_dir.clone()), ..settings(folder.path().to_path_buf()) };
    for error in [error, EmbeddedPostgres::start(with_pg_bin).await.unwrap_err()] {
        let message = error.to_string();
        for path in [&cluster, &bin_dir] {
            assert_eq!(message.matches(&format!("{}", path.display())).count(), 1, "{message}");
        }
        assert!(message.starts_with("Postgres 999 created the database in the directory "), "{message}");
        assert!(message.contains("Install Postgres 999, or set PG_BIN"), "{message}");
    }
    assert_eq!(fs::read_dir(&cluster).unwrap().count(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stale_pid_file_with_a_reused_process_id_does_not_prevent_the_start() {
    let folder = private_folder();
    let root = folder.path().to_path_buf();
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    postgres.stop().await.unwrap();
    // A crash of the machine leaves the pid file. After the restart another process may have that id.
    let mut other_process = Command::new("sleep").arg("60").spawn().unwrap();
    let stale = format!("{}\n/data\n1\n5432\n.\n\n", other_process.id());
    fs::write(root.join("postgres/postmaster.pid"), stale).unwrap();
    let postgres = EmbeddedPostgres::start(settings(root)).await.unwrap();
    assert_eq!(other_process.try_wait().unwrap(), None, "it must not be signalled");
    other_process.kill().unwrap();
    other_process.wait().unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn the_error_of_a_postgres_that_cannot_start_contains_its_log() {
    let folder = private_folder();
    let root = folder.path().to_path_buf();
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    postgres.stop().await.unwrap();
    fs::write(root.join("postgres/postgresql.auto.conf"), "no_such_setting = 1\n").unwrap();
    let error = EmbeddedPostgres::start(settings(root)).await.unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    let Error::NotStarted { log, .. } = error else { panic!("{error}") };
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("no_such_setting").count(), 1, "a second attempt would not help");
}

#[tokio::test]
async fn the_tests_run_on_the_postgres_that_pg_bin_names() {
    let Some(expected) = pg_bin() else { return };
    let used = postgres_bin_dir(&Cluster::get().superuser()).await;
    assert_eq!(used.canonicalize().unwrap(), expected.canonicalize().unwrap());
}

#[tokio::test]
async fn the_error_of_a_directory_without_postgres_names_it() {
    let folder = private_folder();
    let mut settings = settings(folder.path().join("state"));
    settings.pg_bin = Some(folder.path().to_path_buf());
    let error = EmbeddedPostgres::start(settings).await.unwrap_err();
    let name = folder.path().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");
}
