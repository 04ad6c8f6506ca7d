//! A private Postgres for runs without `DATABASE_URL`: a real server in a folder of the checkout,
//! reached by a unix socket only, that starts and stops with this program and survives a crash of
//! either.
//!
//! Deliberately not here: installing Postgres, upgrading a cluster to another major version,
//! backups, and the schema and privileges (the migrations make those). It is for trying, developing
//! and testing; production brings its own server. Why it is home-made: docs/adr/0002.

mod binaries;
mod error;
mod process;
mod server;

use std::env;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::info;

use binaries::Binaries;
use process::Launcher;
use server::Server;

pub use error::EmbeddedError;

/// The superuser of the cluster, and the database that belongs to it.
const OWNER: &str = "turnkey";
const DATABASE: &str = "turnkey";
/// The login without privileges of its own that calls are served with.
const SERVER_ROLE: &str = "turnkey_server";

/// Only a part of the socket's name. Set on both sides, because both would take it from `PGPORT`.
const PORT: u16 = 5432;
/// Linux allows 107 bytes and macOS 103.
const LONGEST_SOCKET_PATH: usize = 100;

/// Where the private Postgres lives and how it is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder for everything this module writes; made when it is missing.
    pub root: PathBuf,
    /// The directory of `initdb` and `postgres`; looked for when `None`.
    pub pg_bin: Option<PathBuf>,
    /// `false` gives up the safety of the data for speed: for throw-away clusters of tests.
    pub durable: bool,
    /// Postgres' `max_connections`.
    pub max_connections: u16,
}

/// A running private Postgres. Dropping it stops Postgres too, without waiting for the end.
///
/// The task that restarts a crashed Postgres lives on the runtime that called
/// [`PrivatePostgres::start`]; when that runtime ends, Postgres is stopped.
#[derive(Debug)]
pub struct PrivatePostgres {
    options: PgConnectOptions,
    /// Sending, or dropping it, tells the supervisor to stop Postgres.
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<Result<(), EmbeddedError>>,
}

impl PrivatePostgres {
    /// Starts Postgres, after making its cluster, database and roles where they are missing.
    ///
    /// # Errors
    ///
    /// When Postgres is not installed, the folder is in use or cannot be written, or Postgres does
    /// not start; the message says what to do.
    pub async fn start(settings: Settings) -> Result<Self, EmbeddedError> {
        let began = Instant::now();
        let data_directory = settings.root.join("postgres");
        let socket_directory = socket_directory(&data_directory)?;
        let lock = take_folder(&settings.root)?;
        let cluster_major = cluster_major(&data_directory)?;
        let binaries =
            Binaries::find(settings.pg_bin.as_deref(), cluster_major.map(|major| (data_directory.as_path(), major)))?;
        let launcher = Launcher::new(settings.root.join("postgres.log"), &data_directory).await?;
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&socket_directory)
            .port(PORT)
            .ssl_mode(PgSslMode::Disable)
            .username(OWNER)
            .database(DATABASE);
        let server = Server {
            launcher,
            binaries,
            data_directory,
            arguments: server::arguments(&settings),
            socket: socket_directory.join(socket_name()),
            maintenance: options.clone().database("postgres"),
            _lock: lock,
        };
        if cluster_major.is_none() {
            server.make_cluster(settings.durable).await?;
        }
        let running = server.bring_up().await?;
        make_database(&server.maintenance).await?;
        info!(
            major = server.binaries.major,
            directory = %server.data_directory.display(),
            elapsed_ms = began.elapsed().as_millis(),
            "private Postgres is running"
        );
        let (stop, stopped) = oneshot::channel();
        let supervisor = tokio::spawn(server.supervise(running, stopped));
        Ok(Self { options, stop, supervisor })
    }

    /// Connects as the owner of the database, a superuser: for migrations.
    #[must_use]
    pub fn owner_options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Connects as the role that serves calls.
    #[must_use]
    pub fn server_options(&self) -> PgConnectOptions {
        self.options.clone().username(SERVER_ROLE)
    }

    /// Stops Postgres (fast shutdown: open connections are closed) and waits for its end.
    ///
    /// # Errors
    ///
    /// When Postgres does not end, not even by an immediate shutdown.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        // A supervisor that is gone has closed the lifeline, and awaiting it tells.
        let _ = self.stop.send(());
        match self.supervisor.await {
            Ok(result) => result,
            Err(_) => Err(EmbeddedError::NotStopped),
        }
    }
}

fn socket_name() -> String {
    format!(".s.PGSQL.{PORT}")
}

/// The data directory by its shortest name: below the current directory a relative one, because
/// the system limits the length that it is given, not the length that it means.
fn socket_directory(data_directory: &Path) -> Result<PathBuf, EmbeddedError> {
    let current = env::current_dir().unwrap_or_default();
    let directory = data_directory.strip_prefix(current).unwrap_or(data_directory);
    if directory.join(socket_name()).as_os_str().len() > LONGEST_SOCKET_PATH {
        return Err(EmbeddedError::SocketPathTooLong {
            path: data_directory.join(socket_name()),
            limit: LONGEST_SOCKET_PATH,
        });
    }
    Ok(directory.to_path_buf())
}

/// The major version that made the cluster, if there is one.
fn cluster_major(data_directory: &Path) -> Result<Option<u16>, EmbeddedError> {
    let path = data_directory.join("PG_VERSION");
    let unreadable = |source| EmbeddedError::file(&path, source);
    match fs::read_to_string(&path) {
        Ok(version) => match version.trim().parse() {
            Ok(major) => Ok(Some(major)),
            Err(error) => Err(unreadable(io::Error::other(error))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}

/// Keeps every other turnkey out of a folder for as long as it lives.
#[derive(Debug)]
pub(super) struct FolderLock(File);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Said, and not left to the end of the file: a child that is made at this moment has the file too until it is
        // another program, and would hold the lock so long. Where it cannot be said, the file's end does it.
        let _ = self.0.unlock();
    }
}

/// Makes the folder, hides it from git and locks it.
fn take_folder(root: &Path) -> Result<FolderLock, EmbeddedError> {
    DirBuilder::new().recursive(true).mode(0o755).create(root).map_err(|source| EmbeddedError::file(root, source))?;
    let lock_file = root.join("lock");
    let cannot_lock = |source| EmbeddedError::file(&lock_file, source);
    let lock = File::create(&lock_file).map_err(cannot_lock)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => EmbeddedError::AlreadyRunning { root: root.to_path_buf() },
        TryLockError::Error(source) => cannot_lock(source),
    })?;
    let ignore = root.join(".gitignore");
    if !ignore.exists() {
        fs::write(&ignore, "*\n").map_err(|source| EmbeddedError::file(&ignore, source))?;
    }
    Ok(FolderLock(lock))
}

async fn make_database(maintenance: &PgConnectOptions) -> Result<(), EmbeddedError> {
    let mut connection: PgConnection = maintenance.connect().await?;
    let (database, role): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1), \
         EXISTS (SELECT FROM pg_roles WHERE rolname = $2)",
    )
    .bind(DATABASE)
    .bind(SERVER_ROLE)
    .fetch_one(&mut connection)
    .await?;
    if !role {
        sqlx::query("CREATE ROLE turnkey_server LOGIN").execute(&mut connection).await?;
    }
    if !database {
        sqlx::query("CREATE DATABASE turnkey OWNER turnkey").execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_free_again_although_a_child_has_the_file_still() {
        let folder = tempfile::tempdir().unwrap();
        let lock = take_folder(folder.path()).unwrap();
        let of_a_child = lock.0.try_clone().unwrap();
        assert!(matches!(take_folder(folder.path()), Err(EmbeddedError::AlreadyRunning { .. })));
        drop(lock);
        assert!(take_folder(folder.path()).is_ok());
        drop(of_a_child);
    }

    #[test]
    fn names_the_socket_relative_to_the_current_directory() {
        let current = env::current_dir().unwrap();
        let inside = current.join(".turnkey/postgres");
        assert_eq!(socket_directory(&inside).unwrap(), Path::new(".turnkey/postgres"));
        let elsewhere = Path::new("/elsewhere/postgres");
        assert_eq!(socket_directory(elsewhere).unwrap(), elsewhere);
    }

    #[test]
    fn refuses_a_socket_path_that_the_system_would_cut() {
        let deep = Path::new("/").join("d".repeat(90));
        let error = socket_directory(&deep).unwrap_err();
        assert!(error.to_string().contains("longer than 100 bytes"), "{error}");
    }
}
