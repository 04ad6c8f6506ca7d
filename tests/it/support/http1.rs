//! HTTP/1.1 below Connect and JSON. Each request has a connection of its own.

use std::net::SocketAddr;

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

/// An address that serves HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    pub address: SocketAddr,
}

/// A response that has been received in full.
#[derive(Debug)]
pub struct Received {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Http {
    pub async fn get(&self, path: &str) -> Received {
        self.send(Request::get(path).body(Bytes::new()).unwrap()).await
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, json: &Value) -> Received {
        self.post_with(path, json, &[]).await
    }

    /// Posts JSON with these headers.
    pub async fn post_with(&self, path: &str, json: &Value, headers: &[(&str, &str)]) -> Received {
        let mut request = Request::post(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(json.to_string().into()).unwrap()).await
    }

    pub async fn send(&self, request: Request<Bytes>) -> Received {
        let socket = TcpStream::connect(self.address).await.unwrap();
        send_over(socket, request).await
    }

    /// Sends these bytes and returns what the server sends until it closes the connection.
    pub async fn send_bytes(&self, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut received = Vec::new();
        // The server may reset the connection.
        let _ = socket.read_to_end(&mut received).await;
        String::from_utf8_lossy(&received).into_owned()
    }
}

/// Sends the request over a connection of its own.
pub async fn send_over<Socket>(socket: Socket, request: Request<Bytes>) -> Received
where
    Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    try_send_over(socket, request).await.unwrap()
}

/// The same for a server that may end meanwhile.
pub async fn try_send_over<Socket>(socket: Socket, mut request: Request<Bytes>) -> hyper::Result<Received>
where
    Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut client, connection) = handshake(TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, "localhost".parse().unwrap());
    }
    let response: Response<_> = client.send_request(request.map(Full::new)).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Received { status: head.status, headers: head.headers, body })
}

/// A request without a body.
pub fn request(method: Method, path: &str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse::<Uri>().unwrap();
    request
}
