//! Takes connections in. Nobody's slowness keeps another waiting, and a socket that never speaks is closed.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::AsyncRead,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use super::preface::PrefacedStream;

/// Whoever takes longer to shake hands and to say the first word is not going to call.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at once, those that do not speak yet included. So many that a flood of silent sockets does not shut others
/// out, so few that they cost no more than some megabytes. Those beyond are closed at once.
const MAX_CONNECTIONS: usize = 8_192;
/// Connections that wait to be served.
const ACCEPT_QUEUE: usize = 64;
/// After a failure to accept, such as for want of file descriptors.
const ACCEPT_ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// Connections whose hands were shaken, and whose peers speak HTTP/2. Ends when the stream is dropped.
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
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let Ok((connection, _)) = accepted else {
                tokio::time::sleep(ACCEPT_ERROR_BACKOFF).await;
                continue;
            };
            // Fails where the peer has left already, which will be seen.
            let _ = connection.set_nodelay(true);
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let (stream, sender) = (handshake(connection), sender.clone());
            tokio::spawn(async move {
                let read_preface = async { PrefacedStream::read_preface(stream.await?, place).await };
                match timeout(HANDSHAKE_TIMEOUT, read_preface).await {
                    // A server that has stopped takes no more.
                    Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                    Ok(Err(error)) => tracing::debug!(%error, "A connection came to nothing"),
                    Err(_elapsed) => tracing::debug!("A connection took too long to begin"),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}
