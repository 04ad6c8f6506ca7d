//! `turnkey serve`

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{Error, database::OpenDatabase};
use crate::{
    config::ServeSettings,
    server::{self, Server},
    service::Clock,
};

pub async fn run(settings: ServeSettings) -> Result<(), Error> {
    let stopped = stop_signal()?;
    tokio::pin!(stopped);
    // First of all, so that the first line of the log is the address, and a port in use costs no database.
    let bound = server::bind(settings.server.listen).await?;
    let database = tokio::select! {
        database = OpenDatabase::open(settings.database) => database?,
        () = &mut stopped => return Ok(()),
    };
    // One that was killed leaves its file behind. Not before here: a second server, which cannot start, must not take away
    // the first one's.
    remove(settings.ready_file.as_deref())?;
    if settings.server.tokens_file.is_some() {
        tracing::info!("Callers need a token, or a tenant's own key");
    } else if settings.server.listen.ip().is_loopback() {
        tracing::warn!("Callers need no credential: anyone on this machine may call");
    } else {
        tracing::warn!("Callers need no credential: anyone who reaches this address may call");
    }
    let served = serve(&database, bound, settings.migrate, settings.ready_file, &settings.server, stopped).await;
    database.close().await?;
    served
}

async fn serve(
    database: &OpenDatabase,
    bound: server::BoundListener,
    migrate: bool,
    ready_file: Option<PathBuf>,
    settings: &crate::config::ServerSettings,
    mut stopped: impl Future<Output = ()> + Unpin,
) -> Result<(), Error> {
    if migrate || database.is_embedded() {
        tokio::select! {
            migrated = database.migrate() => migrated?,
            () = &mut stopped => return Ok(()),
        }
    }
    let server = server::start(bound, database.server.clone(), settings, Clock::system()).await?;
    let ended = tokio::select! {
        () = &mut stopped => Ok(()),
        Err(error) = announce(&server, ready_file.as_deref()) => Err(error),
    };
    tracing::info!("Stopping");
    let removed = remove(ready_file.as_deref());
    server.stop().await;
    ended.and(removed)
}

/// Writes the address to the file at the first SERVING; for ever waiting then, an end would be an error.
async fn announce(server: &Server, ready_file: Option<&Path>) -> Result<std::convert::Infallible, Error> {
    if let Some(path) = ready_file {
        server.readiness().wait_for(|&ready| ready).await?;
        write_address(path, server.address)
            .map_err(|error| format!("cannot write the ready file {}: {error}", path.display()))?;
        tracing::info!(path = %path.display(), "Wrote the ready file");
    }
    std::future::pending().await
}

/// Whole or not at all: whoever waits for the file reads it as soon as it is there.
fn write_address(path: &Path, address: SocketAddr) -> io::Result<()> {
    let mut half_written = path.as_os_str().to_owned();
    half_written.push(".new");
    fs::write(&half_written, format!("{address}\n"))?;
    fs::rename(&half_written, path)
}

fn remove(ready_file: Option<&Path>) -> Result<(), Error> {
    match ready_file.map(fs::remove_file) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// SIGTERM, or ctrl-c.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
