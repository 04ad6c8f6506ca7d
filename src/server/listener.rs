//! Accepts connections, within limits in all and for each address, and serves each in its own task, so that a slow
//! client does not delay others.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    StartError,
    client_stream::{FirstBytes, HttpVersion},
    connection::{ConnectionTimes, serve_connection},
    tls,
};
use crate::{
    grpc::{Connection, FairLimit, PeerAddress, certificate_sans, layers::InnerService},
    service::Clock,
    telemetry::LogLimiter,
};

/// Maximum time of the TLS handshake and the first bytes together. Slower connections are closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay after a failed accept, for example when the process has no file descriptor left.
pub(super) const ACCEPT_ERROR_BACKOFF: Duration = Duration::from_millis(100);
/// Connections that the kernel has accepted and this process has not.
const BACKLOG: u32 = 1_024;
/// The kernel's buffers of a socket count as memory of the process's cgroup. By default they can grow to megabytes.
const SOCKET_BUFFER_BYTES: u32 = 256 * 1024;

/// A bound socket. Clients can connect already; they wait until a server takes the connections.
#[derive(Debug)]
pub struct BoundListener {
    pub(super) listener: TcpListener,
    pub address: SocketAddr,
}

impl BoundListener {
    pub(super) fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let listen = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            #[cfg(not(windows))]
            socket.set_reuseaddr(true)?;
            // The sockets of the connections inherit both.
            socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
            socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        listen().map_err(|source| StartError::Listen { address, source })
    }
}

/// The versions of HTTP that a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    /// For gRPC.
    Http2,
    Http1AndHttp2,
}

/// What the connections of a listener have in common.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub versions: Versions,
    /// Shared by all listeners.
    pub connections: FairLimit<PeerAddress>,
    /// `None` for plaintext.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    pub times: ConnectionTimes,
    pub clock: Clock,
    pub stop: CancellationToken,
}

impl Acceptor {
    /// Serves until it is stopped and every connection has closed.
    pub async fn serve(self, bound: BoundListener, service: impl InnerService) {
        let tasks = TaskTracker::new();
        let refusals = Refusals::default();
        while let Some(accepted) = self.stop.run_until_cancelled(bound.listener.accept()).await {
            match accepted {
                Ok((socket, address)) => {
                    let peer = PeerAddress::from(address.ip());
                    let Some(share) = self.connections.try_acquire(&peer, 1) else {
                        refusals.log("the limit of open connections is reached");
                        continue;
                    };
                    let (acceptor, service) = (self.clone(), service.clone());
                    tasks.spawn(async move {
                        acceptor.handshake_and_serve(socket, peer, service).await;
                        drop(share);
                    });
                }
                Err(error) => {
                    refusals.log(&error.to_string());
                    tokio::time::sleep(ACCEPT_ERROR_BACKOFF).await;
                }
            }
        }
        drop(bound);
        tasks.close();
        tasks.wait().await;
    }
}

impl Acceptor {
    async fn handshake_and_serve(self, socket: TcpStream, peer: PeerAddress, service: impl InnerService) {
        // Fails if the client has disconnected already; the handshake then fails too.
        let _ = socket.set_nodelay(true);
        match self.tls.clone() {
            None => self.read_first_and_serve(async { Ok(socket) }, |_| None, peer, service).await,
            Some(config) => {
                // The certificates that are in force at this moment.
                let config = tls::for_versions(&config.borrow(), self.versions);
                let handshake = TlsAcceptor::from(config).accept(socket);
                self.read_first_and_serve(handshake, tls::client_certificate, peer, service).await;
            }
        }
    }

    async fn read_first_and_serve<Io>(
        mut self,
        handshake: impl Future<Output = io::Result<Io>>,
        client_certificate: impl FnOnce(&Io) -> Option<CertificateDer<'static>>,
        peer: PeerAddress,
        service: impl InnerService,
    ) where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let versions = self.versions;
        let with_first_bytes = async {
            let mut io = handshake.await?;
            let first = FirstBytes::read(&mut io).await?;
            if versions == Versions::Http2 && first.version() != HttpVersion::Http2 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak HTTP/2"));
            }
            Ok((io, first))
        };
        // At debug level, so that clients cannot flood the log.
        let (io, first) = match self.stop.run_until_cancelled(timeout(HANDSHAKE_TIMEOUT, with_first_bytes)).await {
            Some(Ok(Ok(opened))) => opened,
            Some(Ok(Err(error))) => return tracing::debug!(%error, "Connection closed before its first request"),
            Some(Err(_elapsed)) => return tracing::debug!("Connection closed: no request in time"),
            None => return,
        };
        let certificate = client_certificate(&io);
        let not_after = certificate.as_ref().and_then(tls::not_after);
        // Negative if it expired since the handshake.
        self.times.expires_in = not_after.map(|at| (at - self.clock.now()).try_into().unwrap_or_default());
        let sans = certificate.as_ref().map(certificate_sans).unwrap_or_default();
        let connection = Arc::new(Connection::new(peer, sans));
        serve_connection(io, first, connection, service, self.times, self.stop).await;
    }
}

/// Logs connections that are closed at once.
#[derive(Default)]
struct Refusals(LogLimiter<String>);

impl Refusals {
    fn log(&self, reason: &str) {
        if let Some(count) = self.0.count(reason.to_owned()) {
            tracing::warn!(count, "Refused connections: {reason}");
        }
    }
}
