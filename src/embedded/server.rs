//! Makes the cluster, starts Postgres, starts it again when it crashes, and stops it.
//!
//! It does not look into the database: what is made in there is decided by the parent module.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{error, info, warn};

use super::binaries::Binaries;
use super::process::{Launcher, Running};
use super::{EmbeddedError, FolderLock, OWNER, PORT, Settings};

/// Includes waiting for an earlier Postgres to end and the recovery after a crash.
const START_LIMIT: Duration = Duration::from_mins(1);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_RESTART_PAUSE: Duration = Duration::from_secs(10);
const FAST_SHUTDOWN_LIMIT: Duration = Duration::from_secs(15);
const IMMEDIATE_SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Everything that is needed to start Postgres again.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) launcher: Launcher,
    pub(super) binaries: Binaries,
    pub(super) data_directory: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) socket: PathBuf,
    pub(super) maintenance: PgConnectOptions,
    /// Released only when the supervisor has seen the end of Postgres.
    pub(super) _lock: FolderLock,
}

impl Server {
    /// The cluster is made beside its place and moved there when it is whole.
    pub(super) async fn make_cluster(&self, durable: bool) -> Result<(), EmbeddedError> {
        let unfinished = self.data_directory.with_extension("new");
        let cannot_use = |source| EmbeddedError::file(&unfinished, source);
        remove_directory(&unfinished).await.map_err(cannot_use)?;
        self.launcher.make_directory(&unfinished).map_err(cannot_use)?;
        let mut arguments = vec![
            format!("--username={OWNER}"),
            // The socket lies in a directory that nobody else can enter.
            "--auth=trust".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--locale=C".to_owned(),
            "--no-instructions".to_owned(),
        ];
        if !durable {
            arguments.push("--no-sync".to_owned());
        }
        let log_start = self.launcher.log_length();
        let initdb = self.binaries.program("initdb");
        let mut running = self.launcher.run(&initdb, &arguments, &unfinished)?;
        if !running.ended().await.is_ok_and(|status| status.success()) {
            return Err(EmbeddedError::Initdb {
                log: self.launcher.log().to_path_buf(),
                tail: self.launcher.log_since(log_start),
            });
        }
        info!(directory = %self.data_directory.display(), "made a new database cluster");
        fs::rename(&unfinished, &self.data_directory)
            .map_err(|source| EmbeddedError::file(&self.data_directory, source))
    }

    /// Starts Postgres and waits until it takes connections, also for the end of an earlier one
    /// that still holds the data directory.
    pub(super) async fn bring_up(&self) -> Result<Running, EmbeddedError> {
        let deadline = Instant::now() + START_LIMIT;
        let postgres = self.binaries.program("postgres");
        loop {
            self.stop_leftover().await?;
            let log_start = self.launcher.log_length();
            let mut running = self.launcher.run(&postgres, &self.arguments, &self.data_directory)?;
            if self.is_ready(&mut running, deadline).await {
                return Ok(running);
            }
            let tail = self.launcher.log_since(log_start);
            if !held_by_another(&tail) || Instant::now() >= deadline {
                return Err(EmbeddedError::NotStarted { log: self.launcher.log().to_path_buf(), tail });
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// `false` when Postgres ended, or the time did.
    async fn is_ready(&self, running: &mut Running, deadline: Instant) -> bool {
        let began = Instant::now();
        while !running.has_ended() && Instant::now() < deadline {
            match timeout_at(deadline, self.maintenance.connect()).await {
                Ok(Ok(connection)) => {
                    // Nothing is lost when the farewell fails.
                    let _ = connection.close().await;
                    return !running.has_ended();
                }
                // A refusal for another reason than starting up is an answer too.
                Ok(Err(sqlx::Error::Database(error))) if !is_starting(error.code().as_deref()) => {
                    return !running.has_ended();
                }
                Ok(Err(_)) | Err(_) => {}
            }
            // A small cluster is ready in some 50 ms; a recovery need not be asked that often.
            let hurry = began.elapsed() < Duration::from_secs(1);
            sleep(Duration::from_millis(if hurry { 10 } else { 100 })).await;
        }
        false
    }

    /// Stops a Postgres that outlived its program and its shell. Only when it answers on the
    /// socket: the number in postmaster.pid alone may belong to another process by now.
    async fn stop_leftover(&self) -> Result<(), EmbeddedError> {
        if UnixStream::connect(&self.socket).await.is_ok() {
            warn!("stopping a private Postgres that was left behind");
            self.shut_down_by_pid_file("fast", FAST_SHUTDOWN_LIMIT).await?;
            if UnixStream::connect(&self.socket).await.is_ok() {
                self.shut_down_by_pid_file("immediate", IMMEDIATE_SHUTDOWN_LIMIT).await?;
            }
        }
        Ok(())
    }

    /// The exit status of `pg_ctl` is of no use: it also fails when Postgres has just ended.
    async fn shut_down_by_pid_file(&self, mode: &str, limit: Duration) -> Result<(), EmbeddedError> {
        let limit = limit.as_secs().to_string();
        let arguments = ["stop", "-m", mode, "-w", "-t", &limit].map(str::to_owned);
        let pg_ctl = self.binaries.program("pg_ctl");
        let mut running = self.launcher.run(&pg_ctl, &arguments, &self.data_directory)?;
        running.ended().await.map_err(|source| EmbeddedError::Launch { program: pg_ctl, source })?;
        Ok(())
    }

    pub(super) async fn supervise(
        self,
        mut running: Running,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), EmbeddedError> {
        loop {
            tokio::select! {
                _ = &mut stop => return self.shut_down(running).await,
                _ = running.ended() => warn!(
                    log = %self.launcher.log().display(),
                    "private Postgres ended unexpectedly; starting it again"
                ),
            }
            // If only its shell died, this tells the reader to stop Postgres.
            running.close_lifeline();
            running = tokio::select! {
                _ = &mut stop => return self.stop_leftover().await,
                running = self.bring_up_again() => running,
            };
            info!("private Postgres is running again");
        }
    }

    /// Never gives up: the cause, a full disk for one, may pass.
    async fn bring_up_again(&self) -> Running {
        let mut pause = RETRY_PAUSE;
        loop {
            sleep(pause).await;
            match self.bring_up().await {
                Ok(running) => return running,
                Err(error) => error!(%error, "private Postgres cannot be started again"),
            }
            pause = (pause * 2).min(LONGEST_RESTART_PAUSE);
        }
    }

    async fn shut_down(&self, mut running: Running) -> Result<(), EmbeddedError> {
        running.close_lifeline();
        if timeout(FAST_SHUTDOWN_LIMIT, running.ended()).await.is_ok() {
            return Ok(());
        }
        warn!("private Postgres takes too long to stop; it will recover at the next start");
        self.shut_down_by_pid_file("immediate", IMMEDIATE_SHUTDOWN_LIMIT).await?;
        match timeout(IMMEDIATE_SHUTDOWN_LIMIT, running.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(EmbeddedError::NotStopped),
        }
    }
}

pub(super) fn arguments(settings: &Settings) -> Vec<String> {
    let mut parameters = vec![
        "listen_addresses=".to_owned(),
        // The data directory itself: closed to others, and short for the server at any depth.
        "unix_socket_directories=.".to_owned(),
        "unix_socket_permissions=0700".to_owned(),
        format!("port={PORT}"),
        format!("max_connections={}", settings.max_connections),
    ];
    if !settings.durable {
        let unsafe_but_fast = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"];
        parameters.extend(unsafe_but_fast.map(str::to_owned));
    }
    parameters.into_iter().flat_map(|parameter| ["-c".to_owned(), parameter]).collect()
}

/// Tries for a while, because an interrupted `initdb` may be about to clean up itself.
async fn remove_directory(directory: &Path) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if attempts < 20 => attempts += 1,
            result => return result,
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Whether the log of a failed start says that an earlier Postgres, or a remaining process of it,
/// has not ended yet. Everything else will not pass by waiting.
fn held_by_another(log: &str) -> bool {
    ["already exists", "still in use", "already in use"].iter().any(|sign| log.contains(sign))
}

/// SQLSTATE `cannot_connect_now`: starting up, recovering or shutting down.
fn is_starting(code: Option<&str>) -> bool {
    code == Some("57P03")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_only_for_a_data_directory_that_is_held() {
        assert!(held_by_another("FATAL:  lock file \"postmaster.pid\" already exists"));
        assert!(held_by_another("FATAL:  pre-existing shared memory block is still in use"));
        assert!(!held_by_another("FATAL:  could not write lock file: No space left on device"));
    }
}
