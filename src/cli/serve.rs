//! `turnkey serve`

use std::{fs, net::SocketAddr, path::PathBuf};

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
    if settings.server.listen.ip().is_loopback() {
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
    bound: server::Bound,
    migrate: bool,
    ready_file: Option<PathBuf>,
    settings: &crate::config::ServerSettings,
    mut stopped: impl Future<Output = ()> + Unpin,
) -> Result<(), Error> {
    if migrate || database.is_private() {
        tokio::select! {
            migrated = database.migrate() => migrated?,
            () = &mut stopped => return Ok(()),
        }
    }
    let server = server::start(bound, database.server.clone(), settings, Clock::system())?;
    let announced = announce(&server, ready_file);
    tokio::select! {
        () = &mut stopped => {}
        Err(error) = announced => {
            server.stop().await;
            return Err(error);
        }
    }
    tracing::info!("Stopping");
    server.stop().await;
    Ok(())
}

/// Writes the address to the file at the first SERVING; for ever waiting then, an end would be an error.
async fn announce(server: &Server, ready_file: Option<PathBuf>) -> Result<std::convert::Infallible, Error> {
    if let Some(path) = ready_file {
        server.readiness().wait_for(|&ready| ready).await?;
        write_address(&path, server.address)
            .map_err(|error| format!("cannot write the ready file {}: {error}", path.display()))?;
        tracing::info!(path = %path.display(), "Wrote the ready file");
    }
    std::future::pending().await
}

/// Whole or not at all: whoever waits for the file reads it as soon as it is there.
fn write_address(path: &std::path::Path, address: SocketAddr) -> std::io::Result<()> {
    let mut half_written = path.as_os_str().to_owned();
    half_written.push(".new");
    fs::write(&half_written, format!("{address}\n"))?;
    fs::rename(&half_written, path)
}

/// SIGTERM, or ctrl-c.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
