//! Lets concurrent calls share statements: items that arrive while statements run wait, and the next statement takes
//! them together. A single item is sent at once, and no item waits for others to arrive
//! (docs/adr/0012-shared-statements.md).
//!
//! Which items share a statement affects no result. Of two items with a key in common, the second waits until the first
//! has its result. If Postgres rolled a shared statement back, each of its items is tried once more, alone.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use tokio::{sync::oneshot, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::error::{Error, Result};

/// How long an item waits for a statement to take it. As long as `lock_timeout`, which bounds how long the statements
/// that run can wait for a lock.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// A statement that takes any number of items.
pub(super) trait SharedStatement: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    /// What the results of two items depend on if both have it. It also orders the items of a statement, so that no two
    /// statements lock the same rows in opposite orders.
    type Key: Ord + Clone + Send + 'static;
    type Output: Send + 'static;
    type Connection: Send + 'static;

    /// Maximum number of items in one statement.
    const MAX_ITEMS: usize;
    /// Maximum number of statements that run at a time.
    const MAX_STATEMENTS: usize;

    fn keys(item: &Self::Item) -> Vec<Self::Key>;

    /// Waits for a connection for one statement.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection>> + Send;

    /// Returns one output for each item, in their order.
    fn run(
        &self,
        connection: Self::Connection,
        items: &[&Self::Item],
    ) -> impl Future<Output = std::result::Result<Vec<Self::Output>, StatementFailure>> + Send;

    /// Returns the error of an item that no statement has taken in time.
    fn wait_timed_out(&self) -> Error;
}

/// A statement that failed as a whole.
#[derive(Debug)]
pub(super) struct StatementFailure {
    pub error: Error,
    /// Whether to try each item again, alone. Only if nothing was changed for certain: after a lost connection, the
    /// statement may have been committed.
    pub retry_alone: bool,
}

/// The two lanes of waiting items. A statement takes from both in turn, so that neither can starve the other.
#[derive(Debug, Clone, Copy)]
pub enum Lane {
    /// Items of calls that have one item.
    Single,
    /// Items of batches.
    Batch,
}

const LANES: usize = 2;

/// The items that wait for a statement. Cheap to clone. It has no bound of its own; the limit on concurrent calls
/// bounds the items of [`Lane::Single`], and a batch has a bounded number of items here at a time.
pub(super) struct SharedStatements<S: SharedStatement>(Arc<Queue<S>>);

struct Queue<S: SharedStatement> {
    statement: S,
    state: Mutex<State<S>>,
    workers: TaskTracker,
}

struct State<S: SharedStatement> {
    lanes: [VecDeque<Entry<S>>; LANES],
    next_id: u64,
    /// The keys of the items in statements that run.
    keys_in_use: BTreeSet<S::Key>,
    /// Each runs one statement at a time.
    workers: usize,
}

struct Entry<S: SharedStatement> {
    id: u64,
    item: S::Item,
    keys: Vec<S::Key>,
    /// Whether a statement left the item out because of its keys.
    has_waited: bool,
    /// The span of the waiting call.
    span: Span,
    reply: oneshot::Sender<Result<S::Output>>,
}

/// An item's place in its lane. When dropped, an item that still waits leaves the lane.
struct Place<S: SharedStatement> {
    queue: Arc<Queue<S>>,
    lane: Lane,
    id: u64,
}

impl<S: SharedStatement> SharedStatements<S> {
    pub fn new(statement: S) -> Self {
        let state = State { lanes: Default::default(), next_id: 0, keys_in_use: BTreeSet::new(), workers: 0 };
        Self(Arc::new(Queue { statement, state: Mutex::new(state), workers: TaskTracker::new() }))
    }

    /// Runs the item in the next statement that has room for it, and returns its output.
    ///
    /// If the future is dropped, an item that still waits is not run; one that a statement has taken is run to the end.
    ///
    /// # Errors
    /// [`SharedStatement::wait_timed_out`] if no statement takes the item in time.
    pub async fn run(&self, lane: Lane, item: S::Item) -> Result<S::Output> {
        let (place, mut reply) = self.join(lane, item);
        let output = match timeout(MAX_WAIT, &mut reply).await {
            Ok(output) => output,
            Err(_elapsed) if place.leave() => return Err(self.0.statement.wait_timed_out()),
            // A statement that runs ends within its own timeout.
            Err(_elapsed) => reply.await,
        };
        // No reply: the statement panicked.
        output.map_err(Error::internal)?
    }

    /// Adds the item to its lane, and starts a worker unless enough of them run.
    fn join(&self, lane: Lane, item: S::Item) -> (Place<S>, oneshot::Receiver<Result<S::Output>>) {
        let (reply, receiver) = oneshot::channel();
        let (keys, span) = (S::keys(&item), Span::current());
        let mut state = self.0.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.lanes[lane as usize].push_back(Entry { id, item, keys, has_waited: false, span, reply });
        Queue::start_worker(&self.0, &mut state);
        (Place { queue: Arc::clone(&self.0), lane, id }, receiver)
    }

    /// Returns the number of waiting items.
    pub fn waiting(&self) -> usize {
        self.0.lock().lanes.iter().map(VecDeque::len).sum()
    }

    /// Waits for the statements that run. Call it after the last item has arrived.
    pub async fn close(&self) {
        self.0.workers.close();
        self.0.workers.wait().await;
    }
}

impl<S: SharedStatement> Place<S> {
    /// Takes the item out of its lane. Returns false if a statement has taken it.
    fn leave(&self) -> bool {
        let mut state = self.queue.lock();
        let lane = &mut state.lanes[self.lane as usize];
        // The ids in a lane ascend.
        lane.binary_search_by_key(&self.id, |entry| entry.id).is_ok_and(|position| lane.remove(position).is_some())
    }
}

impl<S: SharedStatement> Drop for Place<S> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<S: SharedStatement> Queue<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_worker(queue: &Arc<Self>, state: &mut State<S>) {
        if state.workers < S::MAX_STATEMENTS {
            state.workers += 1;
            queue.workers.spawn(Arc::clone(queue).run_worker());
        }
    }

    /// Runs one statement after the other, until no item waits that can be taken.
    async fn run_worker(self: Arc<Self>) {
        loop {
            // First the connection: whatever arrives while the worker waits for it can share the statement.
            let connection = AssertUnwindSafe(self.statement.connect()).catch_unwind().await;
            let connection = connection.unwrap_or_else(|_panic| Err(Error::internal("connecting panicked")));
            let Some(entries) = Self::take(&self) else { return };
            let keys: Vec<S::Key> = entries.iter().flat_map(|entry| entry.keys.clone()).collect();
            // A panic drops the entries and with them the replies, so that it fails only their calls.
            let _ = AssertUnwindSafe(self.run_statement(connection, entries)).catch_unwind().await;
            let mut state = self.lock();
            for key in &keys {
                state.keys_in_use.remove(key);
            }
            if state.is_empty() {
                state.workers -= 1;
                return;
            }
        }
    }

    /// Takes the items of the next statement. If others remain, starts another worker. If there are none that can be
    /// taken, ends the current worker and returns `None`; the worker that uses their keys will take those that remain.
    fn take(queue: &Arc<Self>) -> Option<Vec<Entry<S>>> {
        let mut state = queue.lock();
        let mut entries = state.take(S::MAX_ITEMS);
        if entries.is_empty() {
            state.workers -= 1;
            return None;
        }
        if !state.is_empty() {
            Self::start_worker(queue, &mut state);
        }
        drop(state);
        entries.sort_by(|one, other| one.keys.cmp(&other.keys));
        Some(entries)
    }

    async fn run_statement(&self, connection: Result<S::Connection>, entries: Vec<Entry<S>>) {
        let items: Vec<&S::Item> = entries.iter().map(|entry| &entry.item).collect();
        // The statement appears in the trace of the first call.
        let span = entries.first().map_or_else(Span::none, |entry| entry.span.clone());
        let outputs = self.try_statement(connection, &items).instrument(span).await;
        match outputs {
            Ok(outputs) => {
                for (entry, output) in entries.into_iter().zip(outputs) {
                    entry.reply(Ok(output));
                }
            }
            Err(failure) if failure.retry_alone && entries.len() > 1 => {
                self.run_each_alone(entries).await;
            }
            Err(failure) => entries.into_iter().for_each(|entry| entry.reply(Err(failure.error.clone()))),
        }
    }

    /// Runs the items of a statement that was rolled back, those with a key in common in the order of arrival.
    async fn run_each_alone(&self, mut entries: Vec<Entry<S>>) {
        entries.sort_by_key(|entry| entry.id);
        while !entries.is_empty() {
            let mut keys = BTreeSet::new();
            let (next, later): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| {
                let is_first = !entry.has_key_in(&keys);
                keys.extend(entry.keys.iter().cloned());
                is_first
            });
            join_all(next.into_iter().map(|entry| self.run_alone(entry))).await;
            entries = later;
        }
    }

    /// Runs an item whose shared statement was rolled back in a statement of its own.
    async fn run_alone(&self, entry: Entry<S>) {
        let output = async {
            let outputs = self.try_statement(self.statement.connect().await, &[&entry.item]).await;
            let outputs = outputs.map_err(|failure| failure.error)?;
            outputs.into_iter().next().ok_or_else(|| Error::internal("the only item has no output"))
        };
        let output = output.instrument(entry.span.clone()).await;
        entry.reply(output);
    }

    async fn try_statement(
        &self,
        connection: Result<S::Connection>,
        items: &[&S::Item],
    ) -> std::result::Result<Vec<S::Output>, StatementFailure> {
        // Without a connection, each call fails as if it were alone.
        let connection = connection.map_err(|error| StatementFailure { error, retry_alone: false })?;
        self.statement.run(connection, items).await
    }
}

impl<S: SharedStatement> State<S> {
    fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    /// Takes up to `max` items from the lanes in turn, each lane in the order of arrival. Leaves out items with a key
    /// in use by another statement or of an item left out before them, and those with a key of an item taken before
    /// them, unless they have waited for such an item already: it has most likely determined their result, and if not,
    /// Postgres refuses the statement.
    fn take(&mut self, max: usize) -> Vec<Entry<S>> {
        let (mut taken, mut positions) = (Vec::new(), [0; LANES]);
        let (mut own_keys, mut left_out_keys) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let before = taken.len();
            for (lane, position) in self.lanes.iter_mut().zip(&mut positions) {
                while let Some(entry) = lane.get_mut(*position)
                    && (entry.has_key_in(&self.keys_in_use)
                        || entry.has_key_in(&left_out_keys)
                        || !entry.has_waited && entry.has_key_in(&own_keys))
                {
                    left_out_keys.extend(entry.keys.iter().cloned());
                    entry.has_waited = true;
                    *position += 1;
                }
                if taken.len() < max
                    && let Some(entry) = lane.remove(*position)
                {
                    own_keys.extend(entry.keys.iter().cloned());
                    taken.push(entry);
                }
            }
            if taken.len() == before {
                self.keys_in_use.append(&mut own_keys);
                return taken;
            }
        }
    }
}

impl<S: SharedStatement> Entry<S> {
    fn has_key_in(&self, keys: &BTreeSet<S::Key>) -> bool {
        self.keys.iter().any(|key| keys.contains(key))
    }

    fn reply(self, output: Result<S::Output>) {
        let Self { item, reply, .. } = self;
        // Before the reply: the caller may want back what it shares with the item.
        drop(item);
        // Sending fails if the call no longer waits, which is fine.
        let _ = reply.send(output);
    }
}

impl<S: SharedStatement> Clone for SharedStatements<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: SharedStatement> fmt::Debug for SharedStatements<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStatements").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
