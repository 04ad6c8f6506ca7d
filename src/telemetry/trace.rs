//! Joins a call to its client's trace by the header `traceparent` (<https://www.w3.org/TR/trace-context/>). How spans
//! are exported is in `export`.

use std::sync::atomic::{AtomicBool, Ordering};

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
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: &str = "traceparent";

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Whether the subscriber exports spans.
static ARE_SPANS_EXPORTED: AtomicBool = AtomicBool::new(false);

pub(super) fn set_spans_exported() {
    ARE_SPANS_EXPORTED.store(true, Ordering::Relaxed);
}

/// Returns the span if it is exported, and otherwise one that records nothing: the log writes the fields of a span
/// again for each that is added, so what only an exporter needs is added to exported spans only.
pub fn exported(span: &Span) -> Span {
    if ARE_SPANS_EXPORTED.load(Ordering::Relaxed) { span.clone() } else { Span::none() }
}

/// The ids of a span and of its trace.
#[derive(Debug, Clone, Copy)]
pub struct SpanIds {
    pub trace_id: TraceId,
    pub span_id: SpanId,
}

/// Creates the span of a call as a child of the client's span, or of a new trace without a valid `traceparent`. Both
/// ids are valid even if spans are not exported, so that log lines can be correlated.
///
/// `create` has the ids for the fields `trace_id` and `span_id`. It has none if the span is exported: the exporter then
/// chooses them, and they are recorded here.
pub fn call_span(headers: &HeaderMap, create: impl FnOnce(Option<SpanIds>) -> Span) -> (Span, TraceId) {
    let parent = remote_parent(headers);
    if !ARE_SPANS_EXPORTED.load(Ordering::Relaxed) {
        let ids = generate_ids(&parent);
        return (create(Some(ids)), ids.trace_id);
    }
    let span = create(None);
    let ids = exported_ids(&span, parent.clone()).unwrap_or_else(|| generate_ids(&parent));
    tracing::record_all!(span, trace_id = %ids.trace_id, span_id = %ids.span_id);
    (span, ids.trace_id)
}

fn remote_parent(headers: &HeaderMap) -> Context {
    if headers.contains_key(TRACEPARENT) {
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
    } else {
        Context::new()
    }
}

/// Returns `None` for a span that is disabled.
fn exported_ids(span: &Span, parent: Context) -> Option<SpanIds> {
    span.set_parent(parent).ok()?;
    let context = span.context();
    let exported = context.span().span_context().clone();
    exported.is_valid().then(|| SpanIds { trace_id: exported.trace_id(), span_id: exported.span_id() })
}

fn generate_ids(parent: &Context) -> SpanIds {
    // The generator of exported traces: it needs no system call for an id.
    let generator = RandomIdGenerator::default();
    let remote = parent.span().span_context().trace_id();
    let trace_id = if remote == TraceId::INVALID { generator.new_trace_id() } else { remote };
    SpanIds { trace_id, span_id: generator.new_span_id() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace_id(traceparent: &str) -> String {
        let headers =
            HeaderMap::from_iter([(http::HeaderName::from_static(TRACEPARENT), traceparent.parse().unwrap())]);
        let (_span, trace_id) = call_span(&headers, |ids| {
            let ids = ids.unwrap();
            assert_ne!((ids.trace_id, ids.span_id), (TraceId::INVALID, SpanId::INVALID));
            Span::none()
        });
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
