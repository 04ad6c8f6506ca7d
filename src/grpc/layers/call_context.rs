//! The outermost layer: gives each call its span, its trace id and its deadline, and turns a panic into an answer.

use std::{
    any::Any,
    fmt,
    panic::AssertUnwindSafe,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};

use super::{call_metrics::CallMetrics, concurrency_limit::CallPermit};
use crate::{
    domain::Caller,
    error::Error,
    grpc::{
        auth::{is_public, rpc_method},
        status,
    },
    telemetry,
};

/// A call gets no further than this to its answer, whatever its caller asks for: also one whose message never ends, which
/// would keep its place for ever.
const MAX_CALL_DURATION: Duration = Duration::from_secs(30);

/// What a handler needs to know of its call beside the message. A call that came past no layer has no deadline.
#[derive(Debug, Clone)]
pub struct CallContext {
    pub trace_id: TraceId,
    pub deadline: Option<Instant>,
    pub caller: Caller,
    /// Held by the call and by the work it began, which may go on without it.
    pub permit: Option<CallPermit>,
}

impl Default for CallContext {
    fn default() -> Self {
        Self { trace_id: TraceId::default(), deadline: None, caller: Caller::anonymous(), permit: None }
    }
}

impl CallContext {
    pub fn deadline_exceeded(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// The trace-id of a W3C `traceparent`: 16 bytes, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// The caller's, so that both logs tell one story, else a fresh one.
    fn from_headers_or_random(headers: &HeaderMap) -> Self {
        headers
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .and_then(Self::from_traceparent)
            .unwrap_or_else(|| Self(uuid::Uuid::new_v4().into_bytes()))
    }

    /// `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, <https://www.w3.org/TR/trace-context/#traceparent-header>.
    fn from_traceparent(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (_version, trace_id) = (parts.next()?, parts.next()?);
        let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if trace_id.len() != 32 || !trace_id.bytes().all(is_hex) {
            return None;
        }
        let number = u128::from_str_radix(trace_id, 16).ok().filter(|&number| number != 0)?;
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[derive(Debug, Clone, Copy)]
pub struct CallContextLayer;

impl<S> Layer<S> for CallContextLayer {
    type Service = CallContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallContextService { inner }
    }
}

#[derive(Debug, Clone)]
pub struct CallContextService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for CallContextService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let timeout = parse_grpc_timeout(request.headers());
        let path = request.uri().path();
        // What is not ours has one name, or callers could make up any number of them.
        let rpc = (!is_public(path)).then(|| rpc_method(path).unwrap_or("_OTHER"));
        let span = rpc.map_or_else(Span::none, rpc_span);
        let trace_id = trace(&span, request.headers());
        let measured = rpc.map(|rpc| CallMetrics::new(rpc, span.clone()));
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        request.extensions_mut().insert(CallContext { trace_id, deadline, ..CallContext::default() });
        // tonic has a timer for `grpc-timeout` as well, but answers CANCELLED where the specification says
        // DEADLINE_EXCEEDED. This one is started before tonic's and polled before it, so it is the one that is heard.
        let expired = tokio::time::sleep(timeout.unwrap_or(MAX_CALL_DURATION).min(MAX_CALL_DURATION));
        // Unwind-safe: what the call worked on is dropped with it.
        let answer = AssertUnwindSafe(span.in_scope(|| self.inner.call(request))).catch_unwind();
        let measured = move |answer| match measured {
            Some(measured) => measured.observe_response(answer),
            None => answer,
        };
        let call = async move {
            let error = tokio::select! {
                biased;
                answer = answer => match answer {
                    Ok(Ok(answer)) => return Ok(measured(map_message_too_large(answer))),
                    Ok(error) => return error,
                    Err(panic) => Error::internal(panic_message(&*panic)),
                },
                () = expired => Error::DeadlineExceeded,
            };
            Ok(measured(status::from_error(error, trace_id).into_http()))
        };
        Box::pin(call.instrument(span))
    }
}

/// tonic says `OUT_OF_RANGE` of a message that is too large, and the specification, like every other implementation,
/// `RESOURCE_EXHAUSTED` (<https://grpc.io/docs/guides/status-codes/>). No RPC of ours answers the former.
fn map_message_too_large(mut answer: Response<Body>) -> Response<Body> {
    if let Some(status) = answer.headers_mut().get_mut("grpc-status").filter(|status| *status == "11") {
        *status = HeaderValue::from_static("8");
    }
    answer
}

/// At the level of errors: whoever logs nothing else needs their trace ids all the more.
fn rpc_span(rpc: &'static str) -> Span {
    use tracing::field::Empty;
    tracing::error_span!(
        "rpc",
        otel.name = rpc,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = rpc,
        rpc.response.status_code = Empty,
        error.type = Empty,
        turnkey.caller = Empty,
        trace_id = Empty,
        span_id = Empty,
    )
}

/// The ids of the trace and of the span in it, from here on in every line of the log.
fn trace(span: &Span, headers: &HeaderMap) -> TraceId {
    let (trace_id, span_id) = match telemetry::trace::set_remote_parent(span, headers) {
        Some((trace_id, span_id)) => (TraceId(trace_id), u64::from_be_bytes(span_id)),
        None => (TraceId::from_headers_or_random(headers), uuid::Uuid::new_v4().as_u64_pair().1),
    };
    tracing::record_all!(span, trace_id = %trace_id, span_id = %format_args!("{span_id:016x}"));
    trace_id
}

/// The words of a panic.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", said.unwrap_or("without a word"))
}

/// At most 8 digits and a unit, as the gRPC specification has it ("gRPC over HTTP2", Requests). Anything else is left to
/// tonic to ignore.
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
    use super::*;

    /// The `grpc-status` of what the layer answers around this service.
    async fn status_around<F>(timeout: Option<&str>, inner: fn() -> F) -> tonic::Code
    where
        F: Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send + 'static,
    {
        let mut request = Request::new(Body::empty());
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        }
        let mut service = CallContextLayer.layer(tower::service_fn(move |_request: Request<Body>| inner()));
        let answer = service.call(request).await.unwrap();
        tonic::Status::from_header_map(answer.headers()).unwrap().code()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_ends_with_deadline_exceeded() {
        assert_eq!(status_around(Some("5S"), std::future::pending).await, tonic::Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_deadline_or_with_a_far_one_ends_all_the_same() {
        assert_eq!(status_around(None, std::future::pending).await, tonic::Code::DeadlineExceeded);
        assert_eq!(status_around(Some("99H"), std::future::pending).await, tonic::Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_is_the_answer() {
        let in_time = || async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok(tonic::Status::not_found("here").into_http())
        };
        assert_eq!(status_around(Some("5S"), in_time).await, tonic::Code::NotFound);
        assert_eq!(status_around(None, in_time).await, tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_of_one_call() {
        let panics = || async { panic!("a bug") };
        assert_eq!(status_around(None, panics).await, tonic::Code::Internal);
    }

    fn timeout(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        parse_grpc_timeout(&headers)
    }

    #[test]
    fn timeouts_are_read_in_every_unit() {
        assert_eq!(timeout("2H"), Some(Duration::from_hours(2)));
        assert_eq!(timeout("3M"), Some(Duration::from_mins(3)));
        assert_eq!(timeout("4S"), Some(Duration::from_secs(4)));
        assert_eq!(timeout("5m"), Some(Duration::from_millis(5)));
        assert_eq!(timeout("6u"), Some(Duration::from_micros(6)));
        assert_eq!(timeout("7n"), Some(Duration::from_nanos(7)));
        assert!(timeout("99999999H").is_some());
        for bad in ["", "S", "5", "5x", "-1S", "123456789S", "1 S", "+1S"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_trace_id_is_the_callers_where_it_is_well_formed() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceId::from_traceparent(parent).unwrap().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e473-0-0",
        ] {
            assert_eq!(TraceId::from_traceparent(bad), None, "{bad:?}");
        }
    }
}
