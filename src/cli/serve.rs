//! `turnkey serve`: opens the database, starts the server and stops it at SIGTERM or SIGINT.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{Error, database::OpenDatabase};
use crate::{
    config::{ServeSettings, ServerSettings, service_credentials},
    server::{self, BoundListener, Server},
    service::Clock,
};

pub async fn run(settings: ServeSettings) -> Result<(), Error> {
    let stopped = stop_signal()?;
    tokio::pin!(stopped);
    // Bind first, so that the first log line is the address, and a port in use is reported before a database is started.
    let bound = server::bind(settings.server.listen).await?;
    let database = tokio::select! {
        database = OpenDatabase::open(settings.database) => database?,
        () = &mut stopped => return Ok(()),
    };
    // A killed server leaves its ready file behind. Not earlier: a second server, which fails to start above, must not
    // remove the file of the first.
    remove(settings.ready_file.as_deref())?;
    log_who_may_call(&settings.server);
    let served = serve(&database, bound, settings.migrate, settings.ready_file, &settings.server, stopped).await;
    database.close().await?;
    served
}

fn log_who_may_call(settings: &ServerSettings) {
    if let Some(tokens_file) = &settings.tokens_file {
        tracing::info!("Callers need a service token, a client certificate or a tenant key");
        if settings.tls.is_none() && !settings.listen.ip().is_loopback() {
            tracing::warn!(
                "Callers send tokens and keys in plaintext, and the network can read them: set --tls-cert and --tls-key, \
                 unless a proxy in front of this server encrypts the network"
            );
        }
        if let Some(reason) = service_credentials::writable_by_others(tokens_file) {
            tracing::warn!("The tokens file decides who may call, but {reason}");
        }
    } else if settings.listen.ip().is_loopback() {
        tracing::warn!("Callers need no credential: every program on this machine may call");
    } else {
        tracing::warn!("Callers need no credential: every client that reaches this address may call");
    }
}

async fn serve(
    database: &OpenDatabase,
    bound: BoundListener,
    migrate: bool,
    ready_file: Option<PathBuf>,
    settings: &ServerSettings,
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
        Err(error) = write_ready_file(&server, ready_file.as_deref()) => Err(error),
    };
    tracing::info!("Stopping");
    let removed = remove(ready_file.as_deref());
    server.stop().await;
    ended.and(removed)
}

/// Writes the address to the file once the server is SERVING. Returns only an error; otherwise it waits forever.
async fn write_ready_file(server: &Server, ready_file: Option<&Path>) -> Result<Infallible, Error> {
    if let Some(path) = ready_file {
        server.readiness().wait_for(|&ready| ready).await?;
        write_address(path, server.address)
            .map_err(|error| format!("cannot write the ready file {}: {error}", path.display()))?;
        tracing::info!(path = %path.display(), "Wrote the ready file");
    }
    std::future::pending().await
}

/// Renames a complete file into place, because other programs read the file as soon as it exists.
fn write_address(path: &Path, address: SocketAddr) -> io::Result<()> {
    let mut incomplete = path.as_os_str().to_owned();
    incomplete.push(".new");
    fs::write(&incomplete, format!("{address}\n"))?;
    fs::rename(&incomplete, path)
}

fn remove(ready_file: Option<&Path>) -> Result<(), Error> {
    let Some(path) = ready_file else { return Ok(()) };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove the ready file {}: {error}", path.display()).into())
        }
        _ => Ok(()),
    }
}

/// Registers the signal handlers and returns a future that ends at SIGTERM or SIGINT.
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
