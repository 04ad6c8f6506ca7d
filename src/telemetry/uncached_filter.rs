//! A per-layer filter that tracing evaluates for every event. It works around
//! <https://github.com/tokio-rs/tracing/issues/2519>.
//!
//! A per-layer filter stores its verdict in a thread-local, and the next event consumes it. tracing does not evaluate
//! the filter for a callsite whose interest is `always`, so an event of such a callsite consumes the verdict that
//! happens to be stored. `enabled!` without an event, which sqlx evaluates for every statement, leaves a `false` there,
//! and the next event of an `always` callsite is lost. If the filter reports `sometimes` instead, tracing evaluates it
//! for every event.

use tracing::{Event, Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    layer::{Context, Filter},
    registry::LookupSpan,
};

/// Delegates to the inner filter, but reports the interest `sometimes` instead of `always`.
pub(super) struct Uncached<F>(pub F);

impl<S, F> Filter<S> for Uncached<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    F: Filter<S>,
{
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        self.0.enabled(metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        let interest = self.0.callsite_enabled(metadata);
        if interest.is_always() { Interest::sometimes() } else { interest }
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        self.0.event_enabled(event, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.0.max_level_hint()
    }
}
