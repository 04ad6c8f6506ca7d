//! Accepts connections. Each one completes its handshake in a task of its own, so that a slow client delays no other.
//!
//! TLS is not here: the handshake is a parameter.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::AsyncRead,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use super::preface::PrefacedStream;

/// Connections that do not complete the TLS handshake and the HTTP/2 preface within this time are closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper bound of open connections, those in the handshake included; further ones are closed at once. High enough that a
/// flood of idle sockets does not lock other clients out, low enough that the sockets cost no more than some megabytes.
const MAX_CONNECTIONS: usize = 8_192;
/// Connections that have completed the handshake and wait for the server to take them.
const ACCEPT_QUEUE: usize = 64;
/// Delay after a failed accept, for example when the process has no file descriptor left.
const ACCEPT_ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// Returns the connections whose clients have sent the HTTP/2 preface. Accepting ends when the stream is dropped.
pub(super) fn incoming<Io, Handshake>(
    listener: TcpListener,
    handshake: impl Fn(TcpStream) -> Handshake + Send + 'static,
) -> ReceiverStream<io::Result<PrefacedStream<Io>>>
where
    Io: AsyncRead + Unpin + Send + 'static,
    Handshake: Future<Output = io::Result<Io>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(ACCEPT_QUEUE);
    tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let Ok((connection, _)) = accepted else {
                tokio::time::sleep(ACCEPT_ERROR_BACKOFF).await;
                continue;
            };
            // Fails if the client has disconnected already; the handshake then fails too.
            let _ = connection.set_nodelay(true);
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
            let (handshake, sender) = (handshake(connection), sender.clone());
            tokio::spawn(async move {
                let read_preface = async { PrefacedStream::read_preface(handshake.await?, permit).await };
                match timeout(HANDSHAKE_TIMEOUT, read_preface).await {
                    // Sending fails only if the server has stopped.
                    Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                    Ok(Err(error)) => tracing::debug!(%error, "Connection closed before the HTTP/2 preface"),
                    Err(_elapsed) => tracing::debug!("Connection closed: no HTTP/2 preface in time"),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}
