//! `PgBouncer` between the service and Postgres.
//!
//! The tests in [`crate::pgbouncer`] start it with settings of their own. With `TURNKEY_TEST_POOLER`, all tests reach
//! their database through one: `transaction` or `session` is its mode.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use nix::unistd::{Uid, User};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tempfile::{TempDir, tempdir_in};

use super::{
    database::{OWNER, SERVER, TestDatabase},
    process::{Process, through_shell},
};

/// Only a part of the socket's file name.
const PORT: u16 = 5432;
/// The settings of `docs/operations.md`.
const DOCUMENTED: &str = "ignore_startup_parameters = extra_float_digits, options
max_prepared_statements = 200
server_login_retry = 1";

/// The executable of a `PgBouncer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    /// Whether it keeps prepared statements with transaction pooling, as it does from 1.21 on.
    pub keeps_prepared_statements: bool,
}

impl Program {
    /// The installed one, and that of `PGBOUNCER_BIN`, which is its path or its directory.
    pub fn all() -> Vec<Self> {
        let named = env::var_os("PGBOUNCER_BIN").filter(|path| !path.is_empty()).map(PathBuf::from);
        let named = named.map(|path| if path.is_dir() { path.join("pgbouncer") } else { path });
        let installed = Self::at("pgbouncer".into());
        let named = named.map(|path| Self::at(path).expect("PGBOUNCER_BIN names a PgBouncer"));
        let programs: Vec<Self> = installed.into_iter().chain(named).collect();
        assert!(!programs.is_empty(), "there is no PgBouncer: run scripts/install-pgbouncer, or set PGBOUNCER_BIN");
        programs
    }

    /// The first one that keeps prepared statements, or `None`, with a message, if there is none.
    pub fn for_transaction_mode() -> Option<Self> {
        let program = Self::all().into_iter().find(|program| program.keeps_prepared_statements);
        if program.is_none() {
            println!("skipped: no PgBouncer 1.21 or newer; PGBOUNCER_BIN can name one");
        }
        program
    }

    fn at(path: PathBuf) -> Option<Self> {
        let output = Command::new(&path).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).unwrap();
        let version = text.split_whitespace().nth(1).unwrap();
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap());
        let keeps_prepared_statements = (numbers.next(), numbers.next()) >= (Some(1), Some(21));
        Some(Self { path, keeps_prepared_statements })
    }

    fn supports(&self, setting: &str) -> bool {
        self.keeps_prepared_statements || !setting.starts_with("max_prepared_statements")
    }
}

/// A running `pgbouncer`, stopped when it is dropped.
pub struct PgBouncer {
    _program: Process,
    folder: TempDir,
}

impl PgBouncer {
    /// Starts in front of this Postgres, with the documented settings and others, which replace them.
    pub fn start(program: &Program, postgres: &PgConnectOptions, settings: &str) -> Self {
        let folder = configure(program, postgres, settings);
        let mut process = Process::start(&mut command(program, postgres, folder.path()));
        process.wait_for("process up");
        Self { _program: process, folder }
    }

    /// The same database and role. Roles but the serving one and the owner cannot log in.
    pub fn options(&self, database: &PgConnectOptions) -> PgConnectOptions {
        through(self.folder.path(), database)
    }
}

/// The pooler that `TURNKEY_TEST_POOLER` requests, in front of the Postgres of the whole run.
pub struct SharedPooler {
    /// Its standard input ends with the test process, and with it `PgBouncer` and its folder.
    _program: Mutex<Process>,
    folder: PathBuf,
}

impl SharedPooler {
    fn mode() -> Option<String> {
        env::var("TURNKEY_TEST_POOLER").ok().filter(|mode| !mode.is_empty())
    }

    pub fn is_requested() -> bool {
        Self::mode().is_some()
    }

    pub fn start(postgres: &PgConnectOptions) -> Option<Self> {
        let mode = Self::mode()?;
        let (is_suitable, sessions): (fn(&Program) -> bool, _) = match &*mode {
            "session" => (|_| true, 50),
            "transaction" => (|program| program.keeps_prepared_statements, 6),
            _ => panic!("TURNKEY_TEST_POOLER is neither `session` nor `transaction`"),
        };
        let program = Program::all().into_iter().rfind(is_suitable);
        let program = program.expect("transaction mode needs PgBouncer 1.21 or newer: set PGBOUNCER_BIN");
        let settings = format!("pool_mode = {mode}\ndefault_pool_size = {sessions}");
        let folder = configure(&program, postgres, &settings).keep();
        let command = command(&program, postgres, &folder);
        let mut until_end_of_input = through_shell(&command, "\"$@\" & cat; kill $!; rm -r \"$0\"", &folder);
        let mut process = Process::start(until_end_of_input.stdin(Stdio::piped()));
        process.wait_for("process up");
        Some(Self { _program: Mutex::new(process), folder })
    }

    pub fn options(&self, database: &PgConnectOptions) -> PgConnectOptions {
        through(&self.folder, database)
    }
}

/// Sets on a role, or on a role in one database, what a pooler drops: see `docs/operations.md`.
pub async fn set_on_role(database: &TestDatabase, role: &str) {
    for setting in [
        "default_transaction_isolation = 'read committed'",
        "statement_timeout = '4000'",
        "lock_timeout = '2000'",
        "idle_in_transaction_session_timeout = '5000'",
        "jit = off",
        "enable_seqscan = off",
        "plan_cache_mode = force_generic_plan",
    ] {
        database.execute(format!("ALTER ROLE {role} SET {setting}")).await;
    }
}

fn through(folder: &Path, database: &PgConnectOptions) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(folder)
        .port(PORT)
        .ssl_mode(PgSslMode::Disable)
        .username(database.get_username())
        .database(database.get_database().unwrap())
}

/// Writes the configuration into a folder that the user of `PgBouncer` can write to.
fn configure(program: &Program, postgres: &PgConnectOptions, settings: &str) -> TempDir {
    let folder = tempdir_in("/tmp").unwrap();
    let (path, port) = (folder.path().display(), postgres.get_port());
    let socket = std::path::absolute(postgres.get_socket().unwrap()).unwrap();
    let is_replaced = |line: &&str| settings.contains(line.split(" =").next().unwrap());
    let documented: Vec<&str> =
        DOCUMENTED.lines().filter(|line| program.supports(line)).filter(|line| !is_replaced(line)).collect();
    let ini = format!(
        "[databases]\n* = host={} port={port}\n\
         [pgbouncer]\nlisten_addr =\nlisten_port = {PORT}\nunix_socket_dir = {path}\nadmin_users = {SERVER}\n\
         auth_type = trust\nauth_file = {path}/users\nserver_tls_sslmode = disable\nmax_client_conn = 1000\nserver_idle_timeout = 5\n{}\n{settings}\n",
        socket.display(),
        documented.join("\n")
    );
    fs::write(folder.path().join("pgbouncer.ini"), ini).unwrap();
    fs::write(folder.path().join("users"), [SERVER, OWNER].map(|role| format!("\"{role}\" \"\"\n")).concat()).unwrap();
    if let Some(user) = user(postgres) {
        chown(folder.path(), Some(user.uid.into()), None).unwrap();
    }
    folder
}

fn command(program: &Program, postgres: &PgConnectOptions, folder: &Path) -> Command {
    let mut command = Command::new(&program.path);
    if let Some(user) = user(postgres) {
        command.args(["-u", &user.name]);
    }
    command.arg(folder.join("pgbouncer.ini"));
    command
}

/// The user as which `PgBouncer` runs if the test is root, as whom it refuses to run: one with access to the socket.
fn user(postgres: &PgConnectOptions) -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    let socket = fs::metadata(postgres.get_socket().unwrap()).unwrap();
    Some(User::from_uid(socket.uid().into()).unwrap().expect("the owner of the socket's folder exists"))
}
