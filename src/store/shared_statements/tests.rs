//! The queue with a recorder in place of the database.

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
    connections: Mutex<usize>,
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
        *self.connections.lock().unwrap() += 1;
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
async fn a_lone_item_needs_one_connection() {
    let statements = SharedStatements::new(Recorder::default());
    for number in 1..=3 {
        statements.run(Lane::Single, ("a", 0)).await.unwrap();
        settle().await;
        assert_eq!(*statements.0.statement.connections.lock().unwrap(), number);
    }
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
