//! Creates the cluster, starts Postgres, restarts it after a crash, and stops it.
//!
//! It executes no SQL; the crate root creates the database and the roles.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{ConnectOptions as _, Connection as _, postgres::PgConnectOptions};
use tokio::{
    net::UnixStream,
    sync::oneshot,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    DirLock, Error, OWNER, PORT, Settings,
    binaries::Binaries,
    process::{Launcher, Process},
};

/// Includes the shutdown of an earlier Postgres and the recovery after a crash.
const START_TIMEOUT: Duration = Duration::from_mins(1);
const RETRY_DELAY: Duration = Duration::from_millis(200);
const MAX_RESTART_BACKOFF: Duration = Duration::from_secs(10);
const FAST_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);
const IMMEDIATE_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that starting Postgres needs.
pub(crate) struct Server {
    pub launcher: Launcher,
    pub binaries: Binaries,
    pub data_dir: PathBuf,
    pub arguments: Vec<String>,
    pub socket: PathBuf,
    /// Connects to the database `postgres`, which every cluster has.
    pub maintenance_options: PgConnectOptions,
    /// Held until Postgres has exited.
    pub _lock: DirLock,
}

impl Server {
    /// Creates the cluster under a temporary name and renames it when it is complete.
    pub async fn init_cluster(&self, durable: bool) -> Result<(), Error> {
        let incomplete = self.data_dir.with_extension("new");
        let cannot_use = |source| Error::file(&incomplete, source);
        remove_dir(&incomplete).await.map_err(cannot_use)?;
        self.launcher.create_dir(&incomplete).map_err(cannot_use)?;
        let mut arguments = vec![
            format!("--username={OWNER}"),
            // No other user can enter the socket's directory.
            "--auth=trust".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--locale=C".to_owned(),
            "--no-instructions".to_owned(),
        ];
        if !durable {
            arguments.push("--no-sync".to_owned());
        }
        let log_start = self.launcher.log_length();
        let mut initdb = self.launcher.run(&self.binaries.program("initdb"), &arguments, &incomplete)?;
        if !initdb.wait().await.is_ok_and(|status| status.success()) {
            let log_tail = self.launcher.log_since(log_start);
            return Err(Error::Initdb { log: self.launcher.log.clone(), log_tail });
        }
        fs::rename(&incomplete, &self.data_dir).map_err(|source| Error::file(&self.data_dir, source))?;
        tracing::info!(directory = %self.data_dir.display(), "Created a database cluster");
        Ok(())
    }

    /// Starts Postgres and waits until it accepts connections. Stops an earlier Postgres that still uses the data
    /// directory, and waits for its exit.
    pub async fn start(&self) -> Result<Process, Error> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.stop_leftover().await?;
            let log_start = self.launcher.log_length();
            let mut postgres =
                self.launcher.run(&self.binaries.program("postgres"), &self.arguments, &self.data_dir)?;
            if self.becomes_ready(&mut postgres, deadline).await {
                return Ok(postgres);
            }
            let log_tail = self.launcher.log_since(log_start);
            if !data_dir_in_use(&log_tail) || Instant::now() >= deadline {
                return Err(Error::NotStarted { log: self.launcher.log.clone(), log_tail });
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// Returns false if Postgres exits or the deadline passes.
    async fn becomes_ready(&self, postgres: &mut Process, deadline: Instant) -> bool {
        let started = Instant::now();
        while !postgres.has_exited() && Instant::now() < deadline {
            match timeout_at(deadline, self.maintenance_options.connect()).await {
                Ok(Ok(connection)) => {
                    // It was only a probe, so a failure to close it does not matter.
                    let _ = connection.close().await;
                    return !postgres.has_exited();
                }
                // Postgres is up, although it rejects this connection.
                Ok(Err(sqlx::Error::Database(error))) if !is_starting(error.code().as_deref()) => {
                    return !postgres.has_exited();
                }
                Ok(Err(_)) | Err(_) => {}
            }
            // A small cluster is ready in some 50 ms, a recovery takes longer.
            let interval_ms = if started.elapsed() < Duration::from_secs(1) { 10 } else { 100 };
            sleep(Duration::from_millis(interval_ms)).await;
        }
        false
    }

    /// Stops a Postgres that outlived its program and its watchdog, but only if it accepts connections on the socket:
    /// the pid in postmaster.pid may belong to another process by now.
    async fn stop_leftover(&self) -> Result<(), Error> {
        if UnixStream::connect(&self.socket).await.is_ok() {
            tracing::warn!("Stopping an embedded Postgres that an earlier process left running");
            self.pg_ctl_stop("fast", FAST_SHUTDOWN_TIMEOUT).await?;
            if UnixStream::connect(&self.socket).await.is_ok() {
                self.pg_ctl_stop("immediate", IMMEDIATE_SHUTDOWN_TIMEOUT).await?;
            }
        }
        Ok(())
    }

    /// Ignores the exit status of `pg_ctl`, which also fails if Postgres has just exited.
    async fn pg_ctl_stop(&self, mode: &str, limit: Duration) -> Result<(), Error> {
        let limit = limit.as_secs().to_string();
        let arguments = ["stop", "-m", mode, "-w", "-t", &limit].map(str::to_owned);
        let program = self.binaries.program("pg_ctl");
        let mut pg_ctl = self.launcher.run(&program, &arguments, &self.data_dir)?;
        pg_ctl.wait().await.map_err(|source| Error::Launch { program, source })?;
        Ok(())
    }

    /// Restarts Postgres whenever it exits, until `stop` receives a message or loses its sender.
    pub async fn supervise(self, mut postgres: Process, mut stop: oneshot::Receiver<()>) -> Result<(), Error> {
        loop {
            tokio::select! {
                _ = &mut stop => return self.stop(postgres).await,
                _ = postgres.wait() => tracing::warn!(
                    log = %self.launcher.log.display(),
                    "The embedded Postgres exited unexpectedly; restarting it"
                ),
            }
            // If only the shell was killed, its reader now stops Postgres.
            postgres.interrupt();
            postgres = tokio::select! {
                _ = &mut stop => return self.stop_leftover().await,
                postgres = self.restart() => postgres,
            };
            tracing::info!("The embedded Postgres is running again");
        }
    }

    /// Retries without end: the cause, for example a full disk, may be temporary.
    async fn restart(&self) -> Process {
        let mut backoff = RETRY_DELAY;
        loop {
            sleep(backoff).await;
            match self.start().await {
                Ok(postgres) => return postgres,
                Err(error) => tracing::error!(%error, "Cannot restart the embedded Postgres; trying again"),
            }
            backoff = (backoff * 2).min(MAX_RESTART_BACKOFF);
        }
    }

    async fn stop(&self, mut postgres: Process) -> Result<(), Error> {
        postgres.interrupt();
        if timeout(FAST_SHUTDOWN_TIMEOUT, postgres.wait()).await.is_ok() {
            return Ok(());
        }
        tracing::warn!("The embedded Postgres did not stop in time; forcing it, so the next start recovers");
        self.pg_ctl_stop("immediate", IMMEDIATE_SHUTDOWN_TIMEOUT).await?;
        match timeout(IMMEDIATE_SHUTDOWN_TIMEOUT, postgres.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::NotStopped),
        }
    }
}

pub(crate) fn postgres_arguments(settings: &Settings) -> Vec<String> {
    let mut parameters = vec![
        "listen_addresses=".to_owned(),
        // The data directory: only its owner can enter it, and the server's path to it is short at any depth.
        "unix_socket_directories=.".to_owned(),
        "unix_socket_permissions=0700".to_owned(),
        format!("port={PORT}"),
        format!("max_connections={}", settings.max_connections),
    ];
    if !settings.durable {
        parameters.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned));
    }
    parameters.into_iter().flat_map(|parameter| ["-c".to_owned(), parameter]).collect()
}

/// Retries for four seconds, because an interrupted `initdb` may still be removing its files.
async fn remove_dir(directory: &Path) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if attempts < 20 => attempts += 1,
            result => return result,
        }
        sleep(RETRY_DELAY).await;
    }
}

/// Whether the log of a failed start shows that an earlier Postgres, or one of its processes, has not exited yet.
/// Waiting does not help against any other cause.
fn data_dir_in_use(log: &str) -> bool {
    ["already exists", "still in use", "already in use"].iter().any(|sign| log.contains(sign))
}

/// SQLSTATE `cannot_connect_now`: Postgres is starting up, recovering or shutting down.
fn is_starting(code: Option<&str>) -> bool {
    code == Some("57P03")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_data_directory_in_use_is_waited_for() {
        assert!(data_dir_in_use("FATAL:  lock file \"postmaster.pid\" already exists"));
        assert!(data_dir_in_use("FATAL:  pre-existing shared memory block is still in use"));
        assert!(!data_dir_in_use("FATAL:  could not write lock file: No space left on device"));
    }
}
