//! Runs an installed Postgres for as long as the program lives: for development and tests, without `DATABASE_URL`.
//!
//! Postgres keeps its cluster in a directory and listens on a unix socket only. It stops with the program, even if the
//! program is killed, and restarts if it crashes.
//!
//! This crate does not install Postgres, upgrade a cluster to another major version, make backups, or create the schema
//! and its privileges. ADR 2 explains why it is not a third-party crate.

mod binaries;
mod error;
mod process;
mod server;

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Instant,
};

use nix::fcntl::OFlag;
use sqlx::{
    ConnectOptions as _, Connection as _,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{sync::oneshot, task::JoinHandle};

pub use self::error::Error;
use self::{binaries::Binaries, process::Launcher, server::Server};

/// The superuser of the cluster, and its database.
const OWNER: &str = "turnkey";
const DATABASE: &str = "turnkey";
/// The login role that serves calls. It has no privileges until a migration grants them.
const SERVER_ROLE: &str = "turnkey_server";

/// Only a part of the socket's file name. Server and client both set it, because both would default to `PGPORT`.
const PORT: u16 = 5432;
/// Linux allows 107 bytes, macOS 103.
const MAX_SOCKET_PATH_BYTES: usize = 100;

#[derive(Debug)]
pub struct Settings {
    /// The directory of all files that this crate writes. It is created if missing.
    pub root: PathBuf,
    /// The directory of `initdb` and `postgres`. `None` searches `PATH` and the usual directories.
    pub pg_bin: Option<PathBuf>,
    /// `false` disables fsync: faster, but a crash of the machine can corrupt the cluster.
    pub durable: bool,
    /// The setting `max_connections` of Postgres.
    pub max_connections: u16,
}

/// A running Postgres, restarted if it crashes. When this is dropped, or the runtime that started it ends, Postgres
/// stops; only [`EmbeddedPostgres::stop`] waits for that.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    options: PgConnectOptions,
    /// A message, or the loss of this sender, makes the supervisor stop Postgres.
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<Result<(), Error>>,
}

impl EmbeddedPostgres {
    /// Starts Postgres. Creates the cluster, the database and the roles if they are missing.
    pub async fn start(settings: Settings) -> Result<Self, Error> {
        let started = Instant::now();
        let data_dir = settings.root.join("postgres");
        let socket_dir = socket_dir(&data_dir)?;
        let lock = lock_data_dir(&settings.root)?;
        let cluster_major = cluster_major(&data_dir)?;
        let binaries = Binaries::find(settings.pg_bin.as_deref(), &data_dir, cluster_major)?;
        let launcher = Launcher::new(settings.root.join("postgres.log"), &data_dir).await?;
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&socket_dir)
            .port(PORT)
            .ssl_mode(PgSslMode::Disable)
            .username(OWNER)
            .database(DATABASE);
        let server = Server {
            launcher,
            binaries,
            data_dir,
            arguments: server::postgres_arguments(&settings),
            socket: socket_dir.join(socket_name()),
            maintenance_options: options.clone().database("postgres"),
            _lock: lock,
        };
        if cluster_major.is_none() {
            server.init_cluster(settings.durable).await?;
        }
        let postgres = server.start().await?;
        create_database(&server.maintenance_options).await?;
        tracing::info!(
            major = server.binaries.major,
            directory = %server.data_dir.display(),
            elapsed = ?started.elapsed(),
            "The embedded Postgres is running"
        );
        let (stop, stopped) = oneshot::channel();
        let supervisor = tokio::spawn(server.supervise(postgres, stopped));
        Ok(Self { options, stop, supervisor })
    }

    /// Connects as the database's owner, a superuser: for migrations.
    pub fn owner_options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Connects as the role that serves calls.
    pub fn server_options(&self) -> PgConnectOptions {
        self.options.clone().username(SERVER_ROLE)
    }

    /// Stops Postgres by a fast shutdown, which closes open connections, and waits until it has exited.
    pub async fn stop(self) -> Result<(), Error> {
        // Sending fails only if the supervisor has ended; awaiting it returns the reason.
        let _ = self.stop.send(());
        self.supervisor.await.unwrap_or(Err(Error::NotStopped))
    }
}

fn socket_name() -> String {
    format!(".s.PGSQL.{PORT}")
}

/// Returns the shortest name of the data directory, which is relative if it is below the current directory: the system
/// limits the length of the path that is passed to it, not of the absolute path.
fn socket_dir(data_dir: &Path) -> Result<PathBuf, Error> {
    let current = env::current_dir().unwrap_or_default();
    let shortest = data_dir.strip_prefix(current).unwrap_or(data_dir);
    if shortest.join(socket_name()).as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(Error::SocketPathTooLong { path: data_dir.join(socket_name()), limit: MAX_SOCKET_PATH_BYTES });
    }
    Ok(shortest.to_path_buf())
}

/// Returns the major version that created the cluster, or `None` if there is no cluster.
fn cluster_major(data_dir: &Path) -> Result<Option<u16>, Error> {
    let path = data_dir.join("PG_VERSION");
    let version = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        version => version.and_then(|text| text.trim().parse().map_err(io::Error::other)),
    };
    version.map(Some).map_err(|source| Error::file(&path, source))
}

/// Excludes other processes from the directory until it is dropped.
struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // Unlock explicitly: a child that is being forked holds a duplicate of the descriptor until exec, and closing
        // ours would not release the lock. If unlocking fails, closing the file still releases it.
        let _ = self.0.unlock();
    }
}

/// Creates the root directory, excludes it from git and locks it.
fn lock_data_dir(root: &Path) -> Result<DirLock, Error> {
    DirBuilder::new().recursive(true).mode(0o755).create(root).map_err(|source| Error::file(root, source))?;
    let path = root.join("lock");
    let cannot_lock = |source| Error::file(&path, source);
    let file = open_own(&path).map_err(cannot_lock)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Error::AlreadyRunning { root: root.to_path_buf() },
        TryLockError::Error(source) => cannot_lock(source),
    })?;
    let ignore = root.join(".gitignore");
    let created = OpenOptions::new().write(true).create_new(true).open(&ignore);
    match created.and_then(|mut file| file.write_all(b"*\n")) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::file(&ignore, error)),
        _ => Ok(DirLock(file)),
    }
}

/// Opens the lock or the log to append to it, and creates it if missing. It does not follow a symbolic link out of the
/// directory, does not wait for the other end of a FIFO, and changes nothing.
fn open_own(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

async fn create_database(maintenance_options: &PgConnectOptions) -> Result<(), Error> {
    let mut connection = maintenance_options.connect().await?;
    let (has_database, has_role): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1), \
         EXISTS (SELECT FROM pg_roles WHERE rolname = $2)",
    )
    .bind(DATABASE)
    .bind(SERVER_ROLE)
    .fetch_one(&mut connection)
    .await?;
    if !has_role {
        sqlx::query("CREATE ROLE turnkey_server LOGIN").execute(&mut connection).await?;
    }
    if !has_database {
        sqlx::query("CREATE DATABASE turnkey OWNER turnkey").execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_lock_is_released_although_a_child_still_has_its_descriptor() {
        let root = tempfile::tempdir().unwrap();
        let lock = lock_data_dir(root.path()).unwrap();
        let descriptor_of_child = lock.0.try_clone().unwrap();
        assert!(matches!(lock_data_dir(root.path()), Err(Error::AlreadyRunning { .. })));
        drop(lock);
        assert!(lock_data_dir(root.path()).is_ok());
        drop(descriptor_of_child);
    }

    #[test]
    fn the_socket_directory_is_relative_to_the_current_directory() {
        let below = env::current_dir().unwrap().join(".turnkey/postgres");
        assert_eq!(socket_dir(&below).unwrap(), Path::new(".turnkey/postgres"));
        let elsewhere = Path::new("/elsewhere/postgres");
        assert_eq!(socket_dir(elsewhere).unwrap(), elsewhere);
    }

    #[test]
    fn a_socket_path_that_is_too_long_for_the_system_is_refused() {
        let deep = Path::new("/").join("d".repeat(90));
        let error = socket_dir(&deep).unwrap_err();
        assert!(error.to_string().contains("longer than 100 bytes"), "{error}");
    }
}
