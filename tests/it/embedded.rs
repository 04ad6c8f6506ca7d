//! The embedded Postgres against the real one: start, stop, and every way to crash.
//!
//! The crashed program is this test binary itself, started again with one ignored test.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as loudly as tests")]

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

/// Tells the ignored test which folder to use.
const ROOT_VARIABLE: &str = "TURNKEY_TEST_EMBEDDED_ROOT";

fn settings(root: PathBuf) -> Settings {
    Settings { root, pg_bin: None, durable: false, max_connections: 10 }
}

/// A folder that only this user may enter, as `/root` is: as root, Postgres' own user may not.
fn closed_folder() -> TempDir {
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

/// The number of the postmaster, from its own file.
pub fn postmaster(root: &Path) -> Option<u32> {
    let content = fs::read_to_string(root.join("postgres/postmaster.pid")).ok()?;
    content.lines().next()?.trim().parse().ok()
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

/// The shell, its reader and the postmaster, which share a process group. Children of the
/// postmaster are left out: they are in the group for the moment before they leave it.
fn group(leader: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-e", "-o", "pgid=,pid=,ppid=,stat="]).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    let members: Vec<(u32, u32)> = listing
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let of_group = columns.next()?.parse() == Ok(leader);
            let process = columns.next()?.parse().ok()?;
            let parent = columns.next()?.parse().ok()?;
            let is_dead = columns.next()?.starts_with('Z');
            (of_group && !is_dead).then_some((process, parent))
        })
        .collect();
    let is_member = |number| members.iter().any(|(process, _)| *process == number);
    members.iter().filter(|(_, parent)| *parent == leader || !is_member(*parent)).map(|(process, _)| *process).collect()
}

fn kill_9(processes: &[u32]) {
    let status = Command::new("kill").arg("-9").args(processes.iter().map(u32::to_string)).status().unwrap();
    assert!(status.success());
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < limit, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts this test binary as a program that holds an embedded Postgres, and waits until it does.
async fn start_program(root: &Path) -> Child {
    let (_, module) = module_path!().split_once("::").unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact"])
        .arg(format!("{module}::holds_an_embedded_postgres_until_killed"))
        .env(ROOT_VARIABLE, root)
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
async fn holds_an_embedded_postgres_until_killed() {
    let Some(root) = std::env::var_os(ROOT_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let _postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    fs::write(root.join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn makes_a_database_and_both_logins_and_keeps_the_data() {
    let folder = closed_folder();
    let root = folder.path().join("state");
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    let mut owner = connect(&postgres.owner_options()).await;
    let who = "SELECT current_user || ' in ' || current_database()";
    assert_eq!(text(&mut owner, who).await, "turnkey in turnkey");
    let mut server = connect(&postgres.server_options()).await;
    assert_eq!(text(&mut server, who).await, "turnkey_server in turnkey");
    let addresses = "SELECT current_setting('listen_addresses')";
    assert_eq!(text(&mut owner, addresses).await, "");
    sqlx::query("CREATE TABLE kept AS SELECT 'still here' AS line").execute(&mut owner).await.unwrap();
    let process = postmaster(&root).unwrap();
    let shell = parent(process);
    assert_eq!(group(shell).len(), 3, "shell, reader, postmaster");
    // With both connections open: a fast shutdown does not wait for them.
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
async fn a_second_program_in_the_folder_is_refused() {
    let folder = closed_folder();
    let root = folder.path().to_path_buf();
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    let refused = EmbeddedPostgres::start(settings(root)).await.unwrap_err();
    assert!(matches!(refused, Error::AlreadyRunning { .. }), "{refused}");
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn dropping_it_stops_postgres() {
    let folder = closed_folder();
    let postgres = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap();
    let shell = parent(postmaster(folder.path()).unwrap());
    drop(postgres);
    eventually("all processes are gone", || group(shell).is_empty()).await;
}

#[tokio::test]
async fn a_killed_program_leaves_nothing_behind() {
    let folder = closed_folder();
    let mut program = start_program(folder.path()).await;
    let shell = parent(postmaster(folder.path()).unwrap());
    program.kill().unwrap();
    program.wait().unwrap();
    eventually("all processes are gone", || group(shell).is_empty()).await;
    assert_eq!(postmaster(folder.path()), None, "a clean end");
}

#[tokio::test]
async fn a_start_right_after_a_kill_waits_for_the_earlier_postgres() {
    let folder = closed_folder();
    let mut program = start_program(folder.path()).await;
    program.kill().unwrap();
    program.wait().unwrap();
    let postgres = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_postgres_whose_program_and_shell_were_killed_is_replaced() {
    let folder = closed_folder();
    let mut program = start_program(folder.path()).await;
    let orphan = postmaster(folder.path()).unwrap();
    let shell = parent(orphan);
    let mut readers = group(shell);
    readers.retain(|process| ![shell, orphan].contains(process));
    // The reader first: it would stop Postgres as soon as one of the others is gone.
    kill_9(&readers);
    kill_9(&[program.id(), shell]);
    program.wait().unwrap();
    assert!(is_alive(orphan), "nobody was left to stop it");

    let postgres = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap();
    assert!(!is_alive(orphan));
    assert_ne!(postmaster(folder.path()), Some(orphan));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_postgres_is_started_again() {
    let folder = closed_folder();
    let root = folder.path().to_path_buf();
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    let killed = postmaster(&root).unwrap();
    let shell = parent(killed);
    kill_9(&[killed]);
    wait_for_another(&postgres, &root, killed).await;
    assert_eq!(group(shell), Vec::<u32>::new());

    // The same when only the shell dies: its reader stops Postgres, and it is started again.
    let orphan = postmaster(&root).unwrap();
    kill_9(&[parent(orphan)]);
    wait_for_another(&postgres, &root, orphan).await;
    assert!(!is_alive(orphan));

    // And when both die at once, which leaves a zombie for the init of the system.
    let zombie = postmaster(&root).unwrap();
    kill_9(&group(parent(zombie)));
    wait_for_another(&postgres, &root, zombie).await;
    postgres.stop().await.unwrap();
}

async fn wait_for_another(postgres: &EmbeddedPostgres, root: &Path, earlier: u32) {
    eventually("another postmaster", || postmaster(root).is_some_and(|process| process != earlier)).await;
    let limit = Instant::now() + Duration::from_secs(20);
    while let Err(error) = postgres.server_options().connect().await {
        assert!(Instant::now() < limit, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_half_made_cluster_is_made_anew() {
    let folder = closed_folder();
    let unfinished = folder.path().join("postgres.new");
    fs::create_dir_all(unfinished.join("base")).unwrap();
    fs::write(unfinished.join("PG_VERSION"), "15\n").unwrap();
    let postgres = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap();
    assert!(!unfinished.exists());
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_another_version_made_is_not_touched() {
    let folder = closed_folder();
    let cluster = folder.path().join("postgres");
    fs::create_dir(&cluster).unwrap();
    fs::write(cluster.join("PG_VERSION"), "999\n").unwrap();
    let refused = EmbeddedPostgres::start(settings(folder.path().to_path_buf())).await.unwrap_err();
    assert!(matches!(&refused, Error::MajorVersionMismatch { major: 999, .. }), "{refused}");
    assert_eq!(fs::read_dir(&cluster).unwrap().count(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_number_used_again_does_not_stop_the_start() {
    let folder = closed_folder();
    let root = folder.path().to_path_buf();
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    postgres.stop().await.unwrap();
    // What a crash of the machine leaves: the file, with the number of a process of today.
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let stale = format!("{}\n/data\n1\n5432\n.\n\n", stranger.id());
    fs::write(root.join("postgres/postmaster.pid"), stale).unwrap();
    let postgres = EmbeddedPostgres::start(settings(root)).await.unwrap();
    assert_eq!(stranger.try_wait().unwrap(), None, "it must not be signalled");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_postgres_that_cannot_start_is_reported_with_its_own_words() {
    let folder = closed_folder();
    let root = folder.path().to_path_buf();
    let postgres = EmbeddedPostgres::start(settings(root.clone())).await.unwrap();
    postgres.stop().await.unwrap();
    fs::write(root.join("postgres/postgresql.auto.conf"), "no_such_setting = 1\n").unwrap();
    let refused = EmbeddedPostgres::start(settings(root)).await.unwrap_err();
    assert!(refused.to_string().contains("no_such_setting"), "{refused}");
    let Error::NotStarted { log, .. } = refused else { panic!("{refused}") };
    let said = fs::read_to_string(log).unwrap();
    assert_eq!(said.matches("no_such_setting").count(), 1, "trying again does not help");
}

#[tokio::test]
async fn a_directory_without_postgres_is_refused_by_name() {
    let folder = closed_folder();
    let mut settings = settings(folder.path().join("state"));
    settings.pg_bin = Some(folder.path().to_path_buf());
    let refused = EmbeddedPostgres::start(settings).await.unwrap_err();
    let name = folder.path().to_str().unwrap();
    assert!(refused.to_string().contains(name), "{refused}");
}
