//! Serves one connection: HTTP over the tower services, and the reasons to close it before its client does.
//!
//! tonic's own server has none of the latter, and no way to reset a stream whose response is not read.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::abortable;
use http::Request;
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::ServiceExt as _;

use super::client_stream::{ClientStream, FirstBytes, HttpVersion};
use crate::grpc::{Connection, STREAM_ABORT, layers::InnerService};

/// These bound the cost of one connection. hyper leaves most of them unlimited.
const MAX_CONCURRENT_STREAMS: u32 = 256;
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 256;
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
/// The same for HTTP/1, with the request line.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// What HTTP/1 reads ahead, and what of a response waits in it.
const MAX_HTTP1_BUFFER_BYTES: usize = 64 * 1024;
/// How much of a message a client may send before the server reads it.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How much of a response waits in HTTP/2. The rest waits in `grpc/layers/held_response.rs`.
const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the reasons to close a connection are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a connection may last, and parts of it.
#[derive(Debug, Clone)]
pub(super) struct ConnectionTimes {
    /// At this age GOAWAY is sent. In HTTP/1 the connection closes after the next response.
    pub max_age: Duration,
    /// How long the connection may stay open after that.
    pub grace: Duration,
    /// Without a call for this long, GOAWAY is sent.
    pub idle_timeout: Duration,
    /// How long a client may take to read a response.
    pub response_timeout: Duration,
    /// How long an HTTP/1 client may take to send the head of its next request.
    pub head_timeout: Duration,
    /// When the client's certificate expires.
    pub expires_in: Option<Duration>,
}

/// Serves until the client disconnects, or there is a reason to close. After `stop` the calls in flight finish.
pub(super) async fn serve_connection<Io>(
    io: Io,
    first: FirstBytes,
    connection: Arc<Connection>,
    service: impl InnerService,
    times: ConnectionTimes,
    stop: CancellationToken,
) where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::clone(&connection);
    let service = TowerToHyperService::new(service.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&shared));
        request.map(Body::new)
    }));
    let version = first.version();
    let io = TokioIo::new(ClientStream::new(io, first, Arc::clone(&connection)));
    match version {
        HttpVersion::Http1 => {
            let serving = http1(times.head_timeout).serve_connection(io, service);
            serve_until_closed(serving, connection, times, stop).await;
        }
        HttpVersion::Http2 => {
            serve_until_closed(http2().serve_connection(io, service), connection, times, stop).await;
        }
    }
}

async fn serve_until_closed(
    serving: impl GracefulConnection<Error = hyper::Error>,
    connection: Arc<Connection>,
    times: ConnectionTimes,
    stop: CancellationToken,
) {
    let mut serving = pin!(serving);
    let mut lifetime = Lifetime { connection, times, started_at: Instant::now(), went_away_at: None };
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            result = &mut serving => {
                if let Err(error) = result {
                    tracing::debug!(%error, "Connection ended with an error");
                }
                return;
            }
            _ = checks.tick() => match lifetime.check() {
                Verdict::Keep => {}
                Verdict::GoAway(reason) => {
                    tracing::debug!("GOAWAY: {reason}");
                    serving.as_mut().graceful_shutdown();
                    lifetime.connection.going_away.cancel();
                }
                Verdict::Close(reason) => {
                    tracing::debug!("Connection closed: {reason}");
                    return;
                }
            },
            () = stop.cancelled(), if lifetime.went_away_at.is_none() => {
                lifetime.went_away_at = Some(Instant::now());
                serving.as_mut().graceful_shutdown();
                lifetime.connection.going_away.cancel();
            }
        }
    }
}

fn http1(head_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HTTP1_BUFFER_BYTES);
    builder
}

fn http2() -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(StreamExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESET_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

/// Runs each HTTP/2 stream in a task that [`Connection`] can abort. That resets the stream.
#[derive(Debug, Clone, Copy)]
struct StreamExecutor;

impl<Stream> Executor<Stream> for StreamExecutor
where
    Stream: Future + Send + 'static,
    Stream::Output: Send + 'static,
{
    fn execute(&self, stream: Stream) {
        let (stream, abort) = abortable(stream);
        tokio::spawn(STREAM_ABORT.scope(abort, stream));
    }
}

/// Decides when to close a connection.
struct Lifetime {
    connection: Arc<Connection>,
    times: ConnectionTimes,
    started_at: Instant,
    /// When GOAWAY was sent.
    went_away_at: Option<Instant>,
}

enum Verdict {
    Keep,
    /// Accept no more calls, finish those in flight, then close.
    GoAway(&'static str),
    Close(&'static str),
}

impl Lifetime {
    fn check(&mut self) -> Verdict {
        let age = self.started_at.elapsed();
        if self.times.expires_in.is_some_and(|expires_in| age >= expires_in) {
            return Verdict::Close("the client's certificate has expired");
        }
        if !self.connection.reset_unread_streams(self.times.response_timeout) {
            return Verdict::Close("the client does not read");
        }
        if let Some(went_away_at) = self.went_away_at {
            let is_late = went_away_at.elapsed() >= self.times.grace;
            return if is_late { Verdict::Close("still open after GOAWAY") } else { Verdict::Keep };
        }
        let reason = if age >= self.times.max_age {
            "maximum age reached"
        } else if self.connection.idle_time() >= self.times.idle_timeout {
            "no call for some time"
        } else {
            return Verdict::Keep;
        };
        self.went_away_at = Some(Instant::now());
        Verdict::GoAway(reason)
    }
}
