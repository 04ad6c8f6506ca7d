//! A filter of one layer that is asked every time.
//!
//! Filters of single layers note their verdict for the event to come, and an event that is always of interest is not asked
//! for again. A library that asks whether anybody listens and then says nothing, as sqlx does for every statement, leaves
//! its verdict behind, and the next such event is lost by it (<https://github.com/tokio-rs/tracing/issues/2519>).

use tracing::{Metadata, Subscriber, level_filters::LevelFilter, span, subscriber::Interest};
use tracing_subscriber::{
    layer::{Context, Filter},
    registry::LookupSpan,
};

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

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.0.max_level_hint()
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        self.0.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        self.0.on_record(id, values, context);
    }

    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        self.0.on_enter(id, context);
    }

    fn on_exit(&self, id: &span::Id, context: Context<'_, S>) {
        self.0.on_exit(id, context);
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        self.0.on_close(id, context);
    }
}
