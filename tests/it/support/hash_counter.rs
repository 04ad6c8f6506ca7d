//! Counts the hashes that a server in the test's own process computes, by their spans.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use tracing::{Dispatch, Subscriber, span, subscriber::DefaultGuard};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _};

/// Counts as long as it lives. The test must have a single thread, on which the server then runs, too.
pub struct HashCounter {
    count: Arc<AtomicUsize>,
    _subscriber: DefaultGuard,
}

/// A second dispatcher beside that of the counter. If there is only one, tracing enables a new callsite by the
/// dispatcher of the thread that reaches it first. A test of another thread, which has none, would disable the span for
/// all.
static SECOND_DISPATCHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

struct CountHashes(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for CountHashes {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _id: &span::Id, _context: Context<'_, S>) {
        if attributes.metadata().name() == "hash" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl HashCounter {
    pub fn start() -> Self {
        LazyLock::force(&SECOND_DISPATCHER);
        let count = Arc::default();
        let subscriber = tracing_subscriber::registry().with(CountHashes(Arc::clone(&count)));
        Self { count, _subscriber: tracing::subscriber::set_default(subscriber) }
    }

    /// The number of hashes since the last call of this method. A check of a password's strength counts as one.
    pub fn take(&self) -> usize {
        self.count.swap(0, Ordering::SeqCst)
    }
}
