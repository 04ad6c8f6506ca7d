//! `turnkey serve`: opens the database, starts the server and stops it at SIGTERM or SIGINT.

use std::{convert::Infallible, io};

use tokio::signal::unix::{SignalKind, signal};

use super::{Error, database::OpenDatabase, ready_file::ReadyFile};
use crate::{
    config::{ServeSettings, ServerSettings, service_credentials},
    server::{self, BoundListener, MetricsListener, Server},
    service::Clock,
    telemetry,
};

pub async fn run(settings: ServeSettings) -> Result<(), Error> {
    let ready_file = settings.ready_file.map(ReadyFile::new).transpose()?;
    let stopped = stop_signal()?;
    tokio::pin!(stopped);
    // Bind first, so that the first log line is the address, and a port in use is reported before a database is
    // started.
    let bound = server::bind(settings.server.listen)?;
    let metrics = telemetry::scrape().map(MetricsListener::start).transpose()?;
    let database = tokio::select! {
        database = OpenDatabase::open(settings.database) => database?,
        () = &mut stopped => return Ok(()),
    };
    // A killed server leaves its ready file behind. Not earlier: a second server, which fails to start above, must not
    // remove the file of the first.
    ready_file.as_ref().map_or(Ok(()), ReadyFile::remove)?;
    log_who_may_call(&settings.server);
    let served = serve(&database, bound, settings.migrate, ready_file.as_ref(), &settings.server, stopped).await;
    drop(metrics);
    database.close().await?;
    served
}

fn log_who_may_call(settings: &ServerSettings) {
    let on_loopback = [Some(settings.listen), settings.http_listen].into_iter().flatten().all(|a| a.ip().is_loopback());
    if let Some(tokens_file) = &settings.tokens_file {
        tracing::info!("Callers need a service token, a client certificate or a tenant key");
        if settings.tls.is_none() && !on_loopback {
            tracing::warn!(
                "Callers send tokens and keys in plaintext, and the network can read them: set --tls-cert and --tls-key, \
                 unless a proxy in front of this server encrypts the network"
            );
        }
        if let Some(reason) = service_credentials::writable_by_others(tokens_file) {
            tracing::warn!("The tokens file decides who may call, but {reason}");
        }
    } else if on_loopback {
        tracing::warn!("Callers need no credential: every program on this machine may call");
    } else {
        tracing::warn!("Callers need no credential: every client that reaches this address may call");
    }
}

async fn serve(
    database: &OpenDatabase,
    bound: BoundListener,
    migrate: bool,
    ready_file: Option<&ReadyFile>,
    settings: &ServerSettings,
    mut stopped: impl Future<Output = ()> + Unpin,
) -> Result<(), Error> {
    if migrate || database.is_embedded() {
        tokio::select! {
            migrated = database.migrate() => migrated?,
            () = &mut stopped => return Ok(()),
        }
    }
    let server = server::start(bound, database.server.clone(), settings, Clock::system())?;
    let ended = tokio::select! {
        () = &mut stopped => Ok(()),
        Err(error) = write_ready_file(&server, ready_file) => Err(error),
    };
    tracing::info!("Stopping");
    let removed = ready_file.map_or(Ok(()), ReadyFile::remove);
    server.stop().await;
    ended.and(removed)
}

/// Writes the address to the file once the server is SERVING. Returns only an error; otherwise it waits forever.
async fn write_ready_file(server: &Server, ready_file: Option<&ReadyFile>) -> Result<Infallible, Error> {
    if let Some(file) = ready_file {
        server.readiness().wait_for(|&ready| ready).await?;
        file.write(server.address)?;
        tracing::info!(path = %file.path().display(), "Wrote the ready file");
    }
    std::future::pending().await
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
