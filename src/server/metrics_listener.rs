//! Serves `GET /metrics` for Prometheus, in plaintext and without credentials: the metrics name no tenant and no
//! caller.
//!
//! A scraper sends a request every few seconds. Everything is bounded accordingly: few connections, one request on
//! each, one scrape at a time.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::Mutex,
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::timeout,
};

use super::{
    StartError,
    listener::{ACCEPT_ERROR_BACKOFF, BoundListener},
};
use crate::{
    grpc::{FairLimit, PeerAddress},
    telemetry::{LogLimiter, Scrape},
};

const PATH: &str = "/metrics";
const MAX_CONNECTIONS: usize = 16;
const MAX_CONNECTIONS_PER_ADDRESS: usize = 8;
/// From accepting a connection to the last byte of the response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Bounds the head of a request. hyper accepts no less.
const BUFFER_BYTES: usize = 8 * 1024;

/// Serves until it is dropped.
#[derive(Debug)]
pub struct MetricsListener(JoinHandle<()>);

impl Drop for MetricsListener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl MetricsListener {
    /// Serves the metrics on their address and logs it. It must be called within a runtime.
    ///
    /// # Errors
    /// [`StartError::ListenMetrics`].
    pub fn start(scrape: &'static Scrape) -> Result<Self, StartError> {
        let bound = BoundListener::bind(scrape.address).map_err(|error| match error {
            StartError::Listen { address, source } => StartError::ListenMetrics { address, source },
            other => other,
        })?;
        let address = bound.address;
        tracing::info!(%address, "Metrics are served on http://{address}{PATH}");
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "Every client that reaches this address may read the metrics, in plaintext");
        }
        let metrics = Arc::new(Metrics { scrape, turn: Mutex::default(), log: LogLimiter::default() });
        Ok(Self(tokio::spawn(metrics.serve(bound))))
    }
}

struct Metrics {
    scrape: &'static Scrape,
    /// Held by the request that reads the instruments.
    turn: Mutex<()>,
    log: LogLimiter<String>,
}

impl Metrics {
    async fn serve(self: Arc<Self>, bound: BoundListener) {
        let limit = FairLimit::new(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_ADDRESS);
        // Its tasks end with this one.
        let mut connections = JoinSet::new();
        loop {
            let (socket, address) = match bound.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.warn(&error.to_string());
                    tokio::time::sleep(ACCEPT_ERROR_BACKOFF).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let Some(share) = limit.try_acquire(&PeerAddress::from(address.ip()), 1) else {
                self.warn("too many connections");
                continue;
            };
            let metrics = Arc::clone(&self);
            connections.spawn(async move {
                if timeout(CONNECTION_TIMEOUT, metrics.serve_connection(socket)).await.is_err() {
                    tracing::debug!("Connection for metrics closed: no request in time, or the client does not read");
                }
                drop(share);
            });
        }
    }

    async fn serve_connection(&self, socket: TcpStream) {
        let service = service_fn(async |request| Ok::<_, Infallible>(self.respond(request).await));
        let mut http = http1::Builder::new();
        http.keep_alive(false).max_buf_size(BUFFER_BYTES);
        if let Err(error) = http.serve_connection(TokioIo::new(socket), service).await {
            tracing::debug!(%error, "Connection for metrics ended with an error");
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, "Metrics are at /metrics.\n");
        }
        if request.method() != Method::GET {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Metrics are read with GET.\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        let _turn = self.turn.lock().await;
        let scrape = self.scrape;
        let text = spawn_blocking(|| scrape.text()).await.map_err(|error| error.to_string());
        match text.and_then(|text| text.map_err(|error| error.to_string())) {
            Ok(text) => {
                let mut response = Response::new(Full::from(text));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Scrape::CONTENT_TYPE));
                response
            }
            Err(error) => {
                self.warn(&error);
                plain(StatusCode::INTERNAL_SERVER_ERROR, "The metrics cannot be read; the log has the reason.\n")
            }
        }
    }

    fn warn(&self, reason: &str) {
        if let Some(count) = self.log.count(reason.to_owned()) {
            tracing::warn!(count, "Cannot serve metrics: {reason}");
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
