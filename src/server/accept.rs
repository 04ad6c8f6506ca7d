//! Accepts connections. Each handshake runs in its own task, so that a slow client does not delay others.
//!
//! The caller passes the handshake; `tls.rs` provides that of TLS.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::AsyncRead,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use super::preface::PrefacedStream;

/// Maximum time of the TLS handshake and the HTTP/2 preface together. Slower connections are closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper bound of a listener's open connections, including those in the handshake. Further ones are closed immediately.
/// High enough that a flood of idle sockets does not lock out other clients, and low enough that the sockets use no
/// more than a few megabytes.
const MAX_CONNECTIONS: usize = 8_192;
/// Number of connections that have completed the handshake and wait until the server serves them.
const READY_QUEUE_LENGTH: usize = 64;
/// Delay after a failed accept, for example when the process has no file descriptor left.
const ACCEPT_ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// Returns a stream of the connections whose clients have sent the HTTP/2 preface. When the stream is dropped, the
/// listener closes. The items are results because tonic requires it; none is an error.
pub(super) fn incoming<Io, Handshake>(
    listener: TcpListener,
    handshake: impl Fn(TcpStream) -> Handshake + Send + 'static,
) -> ReceiverStream<io::Result<PrefacedStream<Io>>>
where
    Io: AsyncRead + Unpin + Send + 'static,
    Handshake: Future<Output = io::Result<Io>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(READY_QUEUE_LENGTH);
    tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let connection = match accepted {
                Ok((connection, _)) => connection,
                Err(error) => {
                    // At debug level, like all messages about one connection, so that clients cannot flood the log.
                    tracing::debug!(%error, "Cannot accept a connection");
                    tokio::time::sleep(ACCEPT_ERROR_BACKOFF).await;
                    continue;
                }
            };
            // Fails if the client has disconnected already; the handshake then fails too.
            let _ = connection.set_nodelay(true);
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                tracing::debug!("Connection closed: {MAX_CONNECTIONS} connections are open");
                continue;
            };
            tokio::spawn(complete_handshake(handshake(connection), permit, sender.clone()));
        }
    });
    ReceiverStream::new(receiver)
}

/// Completes the handshake, reads the preface and sends the connection to the server.
async fn complete_handshake<Io: AsyncRead + Unpin>(
    handshake: impl Future<Output = io::Result<Io>>,
    permit: OwnedSemaphorePermit,
    ready: mpsc::Sender<io::Result<PrefacedStream<Io>>>,
) {
    let read_preface = async { PrefacedStream::read_preface(handshake.await?, permit).await };
    match timeout(HANDSHAKE_TIMEOUT, read_preface).await {
        Ok(Ok(connection)) => {
            // Fails only if the server has stopped.
            let _ = ready.send(Ok(connection)).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "Connection closed before the HTTP/2 preface"),
        Err(_elapsed) => tracing::debug!("Connection closed: no HTTP/2 preface in time"),
    }
}
