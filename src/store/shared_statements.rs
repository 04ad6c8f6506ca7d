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
    /// What the results of two items depend on if both have it. It also orders the items of a statement, so that no two statements lock
    /// the same rows in opposite orders.
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

/// The items that wait for a statement. Cheap to clone. It has no bound of its own; the limit on concurrent calls bounds
/// the items of [`Lane::Single`], and a batch has a bounded number of items here at a time.
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

    /// Takes up to `max` items from the lanes in turn, each lane in the order of arrival. Leaves out items with a key in
    /// use by another statement or of an item left out before them, and those with a key of an item taken before them,
    /// unless they have waited for such an item already: it has most likely determined their result, and if not, Postgres
    /// refuses the statement.
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
mod tests {
    use std::{iter, ops::RangeInclusive};

    use proptest::prelude::*;
    use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

    use super::*;

    /// A statement whose items are pairs of a name and a number. The number is returned; the names of a statement are
    /// recorded when it begins, and it ends when a permit is added.
    #[derive(Default)]
    struct Recorder {
        begun: Mutex<Vec<Vec<&'static str>>>,
        /// Statements whose end is allowed.
        ends: Option<Arc<Semaphore>>,
        running: Mutex<Running>,
    }

    #[derive(Default)]
    struct Running {
        names: Vec<&'static str>,
        ended: BTreeSet<&'static str>,
        statements: usize,
    }

    /// Items with these names fail in a certain way.
    const REFUSED: &str = "refused";
    const LOST: &str = "lost";
    const PANICKING: &str = "panicking";

    type Item = (&'static str, u32);

    impl Recorder {
        fn begin(&self, items: &[&Item]) {
            let mut running = self.running.lock().unwrap();
            for (name, _) in items {
                assert!(!running.names.contains(name), "{name} is in two statements");
                let is_repeated = items.iter().filter(|(other, _)| other == name).count() > 1;
                assert!(!is_repeated || running.ended.contains(name), "{name} is twice in the first statement");
            }
            running.names.extend(items.iter().map(|(name, _)| *name));
            running.statements += 1;
            assert!(items.len() <= Self::MAX_ITEMS && running.statements <= Self::MAX_STATEMENTS + Self::MAX_ITEMS);
            self.begun.lock().unwrap().push(items.iter().map(|(name, _)| *name).collect());
        }

        fn end(&self, items: &[&Item]) {
            let mut running = self.running.lock().unwrap();
            running.names.retain(|name| !items.iter().any(|(ended, _)| ended == name));
            running.ended.extend(items.iter().map(|(name, _)| *name));
            running.statements -= 1;
        }
    }

    impl SharedStatement for Recorder {
        type Item = Item;
        type Key = &'static str;
        type Output = u32;
        type Connection = ();

        const MAX_ITEMS: usize = 4;
        const MAX_STATEMENTS: usize = 2;

        fn keys((name, _): &Item) -> Vec<&'static str> {
            vec![name]
        }

        async fn connect(&self) -> Result<()> {
            tokio::task::yield_now().await;
            Ok(())
        }

        async fn run(&self, (): (), items: &[&Item]) -> std::result::Result<Vec<u32>, StatementFailure> {
            self.begin(items);
            if let Some(ends) = &self.ends {
                ends.acquire().await.unwrap().forget();
            }
            tokio::task::yield_now().await;
            self.end(items);
            let includes = |name| items.iter().any(|(other, _)| *other == name);
            assert!(!includes(PANICKING), "a bug in the statement");
            if includes(REFUSED) {
                return Err(StatementFailure { error: Error::Conflict, retry_alone: true });
            }
            if includes(LOST) {
                return Err(StatementFailure { error: Error::DeadlineExceeded, retry_alone: false });
            }
            Ok(items.iter().map(|(_, number)| *number).collect())
        }

        fn wait_timed_out(&self) -> Error {
            Error::Overloaded
        }
    }

    /// Statements that end only when the test lets them.
    fn held() -> (SharedStatements<Recorder>, Arc<Semaphore>) {
        let ends = Arc::new(Semaphore::new(0));
        (SharedStatements::new(Recorder { ends: Some(Arc::clone(&ends)), ..Recorder::default() }), ends)
    }

    fn begun(statements: &SharedStatements<Recorder>) -> Vec<Vec<&'static str>> {
        statements.0.statement.begun.lock().unwrap().clone()
    }

    /// Runs all other tasks until each of them waits.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// Starts a call for each item.
    async fn start(
        calls: &mut JoinSet<Result<u32>>,
        statements: &SharedStatements<Recorder>,
        lane: Lane,
        items: impl IntoIterator<Item = Item>,
    ) {
        for item in items {
            let statements = statements.clone();
            calls.spawn(async move { statements.run(lane, item).await });
        }
        settle().await;
    }

    /// Occupies both statements, one after the other.
    async fn occupy(calls: &mut JoinSet<Result<u32>>, statements: &SharedStatements<Recorder>) {
        for name in ["first", "second"] {
            start(calls, statements, Lane::Single, [(name, 0)]).await;
        }
    }

    fn numbered(names: &[&'static str]) -> Vec<Item> {
        iter::zip(names.iter().copied(), 1..).collect()
    }

    /// The names of failed calls' errors, and the sum of the outputs of the others.
    async fn join(calls: JoinSet<Result<u32>>) -> (Vec<String>, u32) {
        let (mut errors, mut sum) = (Vec::new(), 0);
        for output in calls.join_all().await {
            match output {
                Ok(number) => sum += number,
                Err(error) => errors.push(error.to_string()),
            }
        }
        (errors, sum)
    }

    #[tokio::test]
    async fn a_lone_item_is_sent_at_once_and_later_ones_share_the_next_statement_in_order() {
        let (statements, ends) = held();
        let mut calls = JoinSet::new();
        occupy(&mut calls, &statements).await;
        assert_eq!(begun(&statements), [["first"], ["second"]]);
        start(&mut calls, &statements, Lane::Single, numbered(&["d", "a", "c", "b", "e"])).await;
        assert_eq!((begun(&statements).len(), statements.waiting()), (2, 5));
        ends.add_permits(1);
        settle().await;
        assert_eq!(begun(&statements)[2], ["a", "b", "c", "d"]);
        ends.add_permits(3);
        assert_eq!(join(calls).await, (vec![], 15));
        assert_eq!(begun(&statements)[3], ["e"]);
    }

    #[tokio::test]
    async fn items_with_a_key_in_common_wait_for_the_first_of_them_and_delay_no_other_item() {
        let (statements, ends) = held();
        let mut calls = JoinSet::new();
        start(&mut calls, &statements, Lane::Single, [("a", 1), ("a", 2), ("a", 3)]).await;
        start(&mut calls, &statements, Lane::Single, [("a", 4), ("b", 5)]).await;
        assert_eq!(begun(&statements), [["a"], ["b"]]);
        ends.add_permits(4);
        assert_eq!(join(calls).await, (vec![], 15));
        assert_eq!(begun(&statements)[2..], [["a", "a", "a"]]);
    }

    #[tokio::test]
    async fn batches_and_single_calls_get_half_of_each_statement() {
        let (statements, ends) = held();
        let mut calls = JoinSet::new();
        occupy(&mut calls, &statements).await;
        start(&mut calls, &statements, Lane::Batch, numbered(&["a", "b", "c", "d", "e", "f"])).await;
        start(&mut calls, &statements, Lane::Single, numbered(&["w", "x", "y"])).await;
        ends.add_permits(100);
        assert_eq!(join(calls).await, (vec![], 21 + 6));
        assert_eq!(begun(&statements)[2..], [vec!["a", "b", "w", "x"], vec!["c", "d", "e", "y"], vec!["f"]]);
    }

    #[tokio::test]
    async fn the_items_of_a_statement_that_was_rolled_back_are_tried_once_each_alone() {
        let (statements, ends) = held();
        let mut calls = JoinSet::new();
        occupy(&mut calls, &statements).await;
        start(&mut calls, &statements, Lane::Single, numbered(&["a", "b", REFUSED])).await;
        ends.add_permits(100);
        assert_eq!(join(calls).await, (vec![Error::Conflict.to_string()], 3));
        assert_eq!(begun(&statements)[2..], [vec!["a", "b", REFUSED], vec!["a"], vec!["b"], vec![REFUSED]]);
    }

    #[tokio::test]
    async fn when_the_outcome_is_unknown_each_call_fails_and_nothing_is_tried_again() {
        let (statements, ends) = held();
        let mut calls = JoinSet::new();
        occupy(&mut calls, &statements).await;
        start(&mut calls, &statements, Lane::Single, numbered(&["a", LOST, "z"])).await;
        ends.add_permits(100);
        assert_eq!(join(calls).await, (vec![Error::DeadlineExceeded.to_string(); 3], 0));
        assert_eq!(begun(&statements).len(), 3);
    }

    #[tokio::test]
    async fn a_panic_fails_only_the_calls_of_its_statement() {
        let (statements, ends) = held();
        let mut calls = JoinSet::new();
        occupy(&mut calls, &statements).await;
        start(&mut calls, &statements, Lane::Single, numbered(&["a", PANICKING, "c", "d", "e"])).await;
        ends.add_permits(100);
        let (errors, sum) = join(calls).await;
        assert_eq!((errors, sum), (vec!["internal error".to_owned(); 4], 5));
        // The keys of the statement are free again.
        assert_eq!(statements.run(Lane::Single, ("a", 7)).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_waits_for_a_limited_time_and_one_that_runs_is_awaited() {
        let (statements, ends) = held();
        let mut calls = JoinSet::new();
        occupy(&mut calls, &statements).await;
        let started_at = Instant::now();
        assert!(matches!(statements.run(Lane::Single, ("late", 1)).await, Err(Error::Overloaded)));
        assert_eq!((started_at.elapsed().as_secs(), statements.waiting()), (MAX_WAIT.as_secs(), 0));
        ends.add_permits(2);
        assert_eq!(join(calls).await, (vec![], 0));
    }

    #[tokio::test]
    async fn a_dropped_call_takes_its_waiting_item_back_and_leaves_one_that_runs_to_its_statement() {
        let (statements, ends) = held();
        let mut calls = JoinSet::new();
        occupy(&mut calls, &statements).await;
        start(&mut calls, &statements, Lane::Single, [("a", 1)]).await;
        calls.shutdown().await;
        assert_eq!(statements.waiting(), 0);
        ends.add_permits(2);
        statements.close().await;
        assert_eq!(begun(&statements), [["first"], ["second"]]);
        assert_eq!(statements.0.statement.running.lock().unwrap().statements, 0, "both ended");
    }

    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", REFUSED];

    fn arrivals() -> impl Strategy<Value = Vec<(usize, bool, RangeInclusive<u8>)>> {
        let arrival =
            (0..NAMES.len(), any::<bool>(), 0..5_u8).prop_map(|(name, is_batch, pause)| (name, is_batch, 1..=pause));
        prop::collection::vec(arrival, 1..60)
    }

    proptest! {
        /// The recorder checks the limits and that keys are distinct.
        #[test]
        fn every_call_gets_its_own_output_in_any_order_of_arrival(arrivals in arrivals()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let statements = SharedStatements::new(Recorder::default());
                let mut calls = JoinSet::new();
                for (number, (name, is_batch, pauses)) in (0_u32..).zip(arrivals) {
                    let (statements, name) = (statements.clone(), NAMES[name]);
                    let lane = if is_batch { Lane::Batch } else { Lane::Single };
                    calls.spawn(async move { (name, number, statements.run(lane, (name, number)).await) });
                    for _ in pauses {
                        tokio::task::yield_now().await;
                    }
                }
                for (name, number, output) in calls.join_all().await {
                    match output {
                        Ok(output) => assert_eq!(output, number),
                        Err(error) => assert!(name == REFUSED && matches!(error, Error::Conflict)),
                    }
                }
                assert_eq!(statements.waiting(), 0);
                statements.close().await;
            });
        }
    }
}
