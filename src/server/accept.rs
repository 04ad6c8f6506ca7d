//! Takes connections in. Nobody's slowness keeps another waiting, and a socket that never speaks is closed.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

/// Whoever takes longer is not going to call.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// At once; the others wait in the listener's queue. So many that a flood of silent sockets does not shut others out,
/// so few that it costs no more than some megabytes.
const MAX_HANDSHAKES: usize = 4_096;
/// Connections that wait to be served.
const AHEAD: usize = 64;
/// After a failure to accept, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections whose hands were shaken. Ends when the stream is dropped.
pub(super) fn incoming<Io, Shaking>(
    listener: TcpListener,
    shake_hands: impl Fn(TcpStream) -> Shaking + Send + 'static,
) -> ReceiverStream<io::Result<Io>>
where
    Io: Send + 'static,
    Shaking: Future<Output = io::Result<Io>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            // Never closed, so there is always one to wait for.
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let Ok((connection, _)) = accepted.and_then(without_delay) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (shaken, sender) = (shake_hands(connection), sender.clone());
            tokio::spawn(async move {
                let _held = permit;
                match timeout(HANDSHAKE_LIMIT, shaken).await {
                    // A server that has stopped takes no more.
                    Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                    Ok(Err(error)) => tracing::debug!(%error, "No hands were shaken"),
                    Err(_elapsed) => tracing::debug!("A connection took too long to shake hands"),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

fn without_delay<Peer>((connection, peer): (TcpStream, Peer)) -> io::Result<(TcpStream, Peer)> {
    connection.set_nodelay(true)?;
    Ok((connection, peer))
}

/// All there is to do without TLS: to wait for the first byte.
pub(super) async fn first_byte(connection: TcpStream) -> io::Result<TcpStream> {
    connection.readable().await?;
    Ok(connection)
}
