//! HTTP/2 below gRPC, for clients that misbehave.

use std::{io, net::SocketAddr, sync::LazyLock, time::Duration};

use h2::{
    Ping, PingPong,
    client::{Builder, SendRequest},
};
use http::Request;
use prost::bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::certificate::SERVER_NAME;

/// A server that does not acknowledge a PING within this time does not serve the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

pub const CREATE_PATH: &str = "/turnkey.v1.TenantProvisioning/CreateFullyProvisioned";

pub fn grpc_post(path: &str) -> Request<()> {
    let request = Request::post(format!("http://turnkey{path}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// The prefix of a gRPC message: not compressed, its length.
pub fn message_prefix(length: u32) -> [u8; 5] {
    let [a, b, c, d] = length.to_be_bytes();
    [0, a, b, c, d]
}

/// A message with its prefix.
pub fn framed(message: &[u8]) -> Bytes {
    let prefix = message_prefix(message.len().try_into().unwrap());
    [&prefix, message].concat().into()
}

/// Zeros that all calls share, so that an attack uses the memory of the server and not that of the test. At most 4 MiB.
pub fn zeros(length: u32) -> Bytes {
    static ZEROS: LazyLock<Bytes> = LazyLock::new(|| vec![0; 4 * 1024 * 1024].into());
    ZEROS.slice(..usize::try_from(length).unwrap())
}

/// "Rapid reset", CVE-2023-44487: opens streams and resets them at once, so that none of them counts as open. Returns
/// how many streams the server accepted before it sent GOAWAY, at most `limit`.
pub async fn reset_streams(address: &str, limit: usize) -> usize {
    let socket = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut resets = 0;
    let mut ready = client.ready().await;
    while let Ok(mut client) = ready
        && resets < limit
    {
        let Ok((_response, mut stream)) = client.send_request(grpc_post(CREATE_PATH), false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        resets += 1;
        ready = client.ready().await;
    }
    connection.abort();
    resets
}

/// A port of a server.
#[derive(Clone)]
pub struct Port {
    pub address: SocketAddr,
    /// `None` for plaintext.
    pub tls: Option<TlsConnector>,
}

/// A connection in plaintext or with TLS.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

impl Port {
    pub async fn connect(&self) -> io::Result<Box<dyn Socket>> {
        let socket = TcpStream::connect(self.address).await?;
        Ok(match &self.tls {
            None => Box::new(socket),
            Some(tls) => Box::new(tls.connect(SERVER_NAME.try_into().unwrap(), socket).await?),
        })
    }

    /// Opens an HTTP/2 connection with these settings. The server need not have accepted it.
    pub async fn http2(&self, settings: &Builder) -> io::Result<Http2> {
        let (requests, mut connection) = settings.handshake(self.connect().await?).await.map_err(io::Error::other)?;
        let pings = connection.ping_pong().unwrap();
        Ok(Http2 { requests, pings, connection: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }
}

/// An open HTTP/2 connection, closed when dropped. It acknowledges PINGs.
pub struct Http2 {
    pub requests: SendRequest<Bytes>,
    pings: PingPong,
    connection: AbortOnDropHandle<Result<(), h2::Error>>,
}

impl Http2 {
    /// Whether the server has accepted the connection and serves it.
    pub async fn is_open(&mut self) -> bool {
        matches!(timeout(PING_TIMEOUT, self.pings.ping(Ping::opaque())).await, Ok(Ok(_)))
    }

    /// Waits until the connection is closed.
    pub async fn closed(self) {
        let _ = self.connection.await;
    }
}
