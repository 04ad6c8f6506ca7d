//! Joins a call to its client's trace by the header `traceparent` (<https://www.w3.org/TR/trace-context/>). How spans are
//! exported is in `export`.

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
pub use opentelemetry::{SpanId, TraceId};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{IdGenerator as _, RandomIdGenerator},
};
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

/// Makes the span a child of the client's span and returns its trace id and span id. Without a valid `traceparent` the
/// span begins a new trace. Both ids are valid even if traces are not exported, so that logs can be correlated.
pub fn set_remote_parent(span: &tracing::Span, headers: &HeaderMap) -> (TraceId, SpanId) {
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    let remote = parent.span().span_context().trace_id();
    // Fails if no exporter is installed.
    if span.set_parent(parent).is_ok() {
        let context = span.context();
        let span_context = context.span().span_context().clone();
        if span_context.is_valid() {
            return (span_context.trace_id(), span_context.span_id());
        }
    }
    // The generator of exported traces: it needs no system call for an id.
    let generator = RandomIdGenerator::default();
    let trace_id = if remote == TraceId::INVALID { generator.new_trace_id() } else { remote };
    (trace_id, generator.new_span_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace_id(traceparent: &str) -> String {
        let headers =
            HeaderMap::from_iter([(http::HeaderName::from_static("traceparent"), traceparent.parse().unwrap())]);
        let (trace_id, span_id) = set_remote_parent(&tracing::Span::none(), &headers);
        assert_ne!((trace_id, span_id), (TraceId::INVALID, SpanId::INVALID));
        trace_id.to_string()
    }

    #[test]
    fn the_trace_id_is_that_of_a_valid_traceparent_and_random_otherwise() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace_id(valid), "4bf92f3577b34da6a3ce929d0e0e4736");
        for invalid in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e473-0-0",
        ] {
            assert_ne!(trace_id(invalid), trace_id(invalid), "{invalid:?}");
        }
    }
}
