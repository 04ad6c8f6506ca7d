//! How a call becomes part of its caller's trace.

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Makes the span a child of what `traceparent` names, <https://www.w3.org/TR/trace-context/>, and answers its trace id and
/// its own id, big-endian; none where nothing is traced.
pub fn set_remote_parent(span: &tracing::Span, headers: &HeaderMap) -> Option<([u8; 16], [u8; 8])> {
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    // Fails where nothing is traced.
    span.set_parent(parent).ok()?;
    let context = span.context();
    let ids = context.span().span_context().clone();
    ids.is_valid().then(|| (ids.trace_id().to_bytes(), ids.span_id().to_bytes()))
}
