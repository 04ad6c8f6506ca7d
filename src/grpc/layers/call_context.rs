//! The outermost layer: creates the span, trace id and deadline of each call, has its metrics recorded, and converts a
//! panic to a status.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use http::{HeaderMap, Request};
use tonic::body::Body;
use tracing::{Instrument as _, Span};

use super::{
    admission::CallPermit,
    call_metrics::CallMetrics,
    middleware::{CallFuture, InnerService, Middleware},
    refusal_log::RefusalLog,
    transcoding::Transcoding,
};
use crate::{
    domain::Caller,
    error::Error,
    grpc::{
        auth::{is_public, rpc_method},
        status,
    },
    telemetry::trace::{self, SpanIds, TraceId},
};

/// In the log of refused calls, the calls without a span.
const HEALTH_OR_REFLECTION: &str = "health or reflection";
/// Upper bound on the time until a call's response, whatever deadline the client sets.
pub const MAX_CALL_DURATION: Duration = Duration::from_secs(30);

/// `rpc.method` of an unknown path (<https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/>).
const UNKNOWN_RPC: &str = "_OTHER";
const GRPC: &str = "grpc";

/// What layers and handlers know of a call besides its message. Without this layer, a call has no deadline.
#[derive(Debug, Clone)]
pub struct CallContext {
    pub trace_id: TraceId,
    pub deadline: Option<Instant>,
    /// `None` until the authentication layer has identified it. A handler refuses a call without a caller.
    pub caller: Option<Caller>,
    /// Held by the call and by its work, which may outlive it.
    pub permit: Option<CallPermit>,
}

impl Default for CallContext {
    fn default() -> Self {
        Self { trace_id: TraceId::INVALID, deadline: None, caller: None, permit: None }
    }
}

impl CallContext {
    pub fn deadline_exceeded(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// Returns the trace id of a call, which is invalid without this layer.
pub fn trace_id(request: &Request<Body>) -> TraceId {
    request.extensions().get::<CallContext>().map_or(TraceId::INVALID, |context| context.trace_id)
}

#[derive(Debug, Clone, Default)]
pub struct CallContextMiddleware {
    refusals: RefusalLog,
}

impl Middleware for CallContextMiddleware {
    type Future<S: InnerService> = CallFuture;

    fn call<S: InnerService>(&self, inner: &mut S, mut request: Request<Body>) -> CallFuture {
        let timeout = parse_grpc_timeout(request.headers());
        let path = request.uri().path();
        // One name for all unknown paths: clients could otherwise create any number of metric series.
        let rpc = (!is_public(path)).then(|| rpc_method(path).unwrap_or(UNKNOWN_RPC));
        let transcoding = request.extensions().get::<Transcoding>();
        let system = transcoding.map_or(GRPC, |Transcoding(transcoder)| transcoder.rpc_system());
        let (span, trace_id) =
            trace::call_span(request.headers(), |ids| rpc.map_or_else(Span::none, |rpc| rpc_span(system, rpc, ids)));
        let metrics = rpc.map(|rpc| CallMetrics::new(system, rpc, trace::exported(&span)));
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        request.extensions_mut().insert(CallContext { trace_id, deadline, ..CallContext::default() });
        // tonic has a timer for `grpc-timeout` too, but returns CANCELLED where the specification requires
        // DEADLINE_EXCEEDED. This timer starts before tonic's and is polled before it, therefore it expires first.
        let expired = tokio::time::sleep(timeout.unwrap_or(MAX_CALL_DURATION).min(MAX_CALL_DURATION));
        // Unwind-safe: the state of the call is dropped with it.
        let response = AssertUnwindSafe(span.in_scope(|| inner.call(request))).catch_unwind();
        let (refusals, logged_rpc) = (self.refusals.clone(), rpc.unwrap_or(HEALTH_OR_REFLECTION));
        let observe = move |response| {
            refusals.observe(logged_rpc, &response);
            match metrics {
                Some(metrics) => metrics.observe_response(response),
                None => response,
            }
        };
        let call = async move {
            let error = tokio::select! {
                biased;
                response = response => match response {
                    Ok(Ok(response)) => return Ok(observe(response)),
                    Err(panic) => Error::internal(panic_message(&*panic)),
                },
                () = expired => Error::DeadlineExceeded,
            };
            Ok(observe(status::from_error(error, trace_id).into_http()))
        };
        Box::pin(call.instrument(span))
    }
}

/// At error level, so that error logs have trace ids even if nothing else is logged.
fn rpc_span(system: &'static str, rpc: &'static str, ids: Option<SpanIds>) -> Span {
    use tracing::field::Empty;
    // The exporter chooses the ids of its spans. What only an exporter needs would make every log line longer.
    let is_exported = ids.is_none();
    tracing::error_span!(
        "rpc",
        // Without a known method, the conventions name the span after the system.
        otel.name = is_exported.then_some(if rpc == UNKNOWN_RPC { system } else { rpc }),
        otel.kind = is_exported.then_some("server"),
        otel.status_code = Empty,
        rpc.system.name = system,
        rpc.method = rpc,
        rpc.response.status_code = Empty,
        error.type = Empty,
        turnkey.caller = Empty,
        trace_id = ids.map(|ids| display(ids.trace_id)),
        span_id = ids.map(|ids| display(ids.span_id)),
    )
}

/// Returns the message of a panic.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", message.unwrap_or("no message"))
}

/// Parses at most 8 digits and a unit, as in the gRPC specification ("gRPC over HTTP2", Requests). Returns `None` for
/// anything else, which tonic ignores too.
fn parse_grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_hours(amount)),
        "M" => Some(Duration::from_mins(amount)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Response;
    use tower::{Layer as _, Service as _};

    use super::{super::MiddlewareLayer, *};

    /// The `grpc-status` of the layer around this service.
    async fn status_around<F>(timeout: Option<&str>, inner: fn() -> F) -> tonic::Code
    where
        F: Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send + 'static,
    {
        let mut request = Request::new(Body::empty());
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        }
        let inner = tower::service_fn(move |_request: Request<Body>| inner());
        let mut service = MiddlewareLayer(CallContextMiddleware::default()).layer(inner);
        let response = service.call(request).await.unwrap();
        tonic::Status::from_header_map(response.headers()).unwrap().code()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_ends_with_deadline_exceeded() {
        assert_eq!(status_around(Some("5S"), std::future::pending).await, tonic::Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_deadline_or_with_a_distant_one_ends_too() {
        assert_eq!(status_around(None, std::future::pending).await, tonic::Code::DeadlineExceeded);
        assert_eq!(status_around(Some("99H"), std::future::pending).await, tonic::Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_before_the_deadline_is_returned() {
        let in_time = || async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(tonic::Status::not_found("here").into_http())
        };
        assert_eq!(status_around(Some("5S"), in_time).await, tonic::Code::NotFound);
        assert_eq!(status_around(None, in_time).await, tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let panics = || async { panic!("a bug") };
        assert_eq!(status_around(None, panics).await, tonic::Code::Internal);
    }

    fn timeout(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        parse_grpc_timeout(&headers)
    }

    #[test]
    fn timeouts_are_parsed_in_every_unit() {
        assert_eq!(timeout("2H"), Some(Duration::from_hours(2)));
        assert_eq!(timeout("3M"), Some(Duration::from_mins(3)));
        assert_eq!(timeout("4S"), Some(Duration::from_secs(4)));
        assert_eq!(timeout("5m"), Some(Duration::from_millis(5)));
        assert_eq!(timeout("6u"), Some(Duration::from_micros(6)));
        assert_eq!(timeout("7n"), Some(Duration::from_nanos(7)));
        assert!(timeout("99999999H").is_some());
        for invalid in ["", "S", "5", "5x", "-1S", "123456789S", "1 S", "+1S"] {
            assert_eq!(timeout(invalid), None, "{invalid:?}");
        }
    }
}
