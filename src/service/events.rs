//! Lists and watches events.
//!
//! Each replica has one reader while it has watchers. It reads what follows its position at most four times a second,
//! and shares the latest events with all watchers: as long as a watcher keeps up, it makes no query of its own. A
//! watcher that begins earlier, or is slow, reads pages until it has caught up, one watcher at a time. Nothing waits in
//! a queue for a watcher, so its memory is bounded whatever its client does.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::TenantService;
use crate::{
    domain::{
        event::{Event, EventPosition, ListEvents, WatchEvents},
        paging::Page,
    },
    error::{Error, ErrorChain, Result},
    store::Store,
};

const READ_INTERVAL: Duration = Duration::from_millis(250);
/// Events of one query.
const READ_LIMIT: i64 = 256;
/// The latest events that watchers share.
const SHARED_EVENTS: usize = 1_024;
/// How long the reader tries again before it ends the streams of its watchers. Each of them then resumes elsewhere.
const MAX_OUTAGE: Duration = Duration::from_secs(10);
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(8);
/// Events per statement of the cleanup.
const CLEANUP_BATCH_SIZE: i64 = 1_000;

/// One message of a stream.
#[derive(Debug, Clone)]
pub enum EventUpdate {
    Event(Arc<Event>),
    /// All matching events up to this position have been sent.
    Checkpoint(EventPosition),
}

/// Resolves when a stream has to end, with the reason.
pub type StreamEnd = BoxFuture<'static, Error>;

/// What the reader shares: the events after `start`; the last one is at `end`.
#[derive(Debug, Clone)]
struct Tail {
    start: EventPosition,
    end: EventPosition,
    events: Vec<Arc<Event>>,
}

impl Tail {
    /// Adds the events up to `end`, and drops the oldest events if they are too many.
    fn append(&mut self, events: Vec<Event>, end: EventPosition) {
        self.events.extend(events.into_iter().map(Arc::new));
        self.end = end;
        if let Some(surplus @ 1..) = self.events.len().checked_sub(SHARED_EVENTS) {
            self.start = self.events[surplus - 1].position;
            self.events.drain(..surplus);
        }
    }
}

/// `None` until the first read. An error is the last value.
type SharedTail = Option<Result<Arc<Tail>>>;

/// The reader, while there are watchers.
#[derive(Debug)]
pub(super) struct EventFeed {
    reader: Mutex<Weak<watch::Sender<SharedTail>>>,
    /// Permits the queries of watchers that have to catch up.
    catching_up: Semaphore,
}

impl Default for EventFeed {
    fn default() -> Self {
        Self { reader: Mutex::default(), catching_up: Semaphore::new(1) }
    }
}

impl EventFeed {
    /// Returns what the reader shares, and starts it if it does not run.
    fn subscribe(&self, store: &Store) -> watch::Receiver<SharedTail> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = reader.upgrade() {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        *reader = Arc::downgrade(&sender);
        tokio::spawn(run_reader(store.clone(), sender));
        receiver
    }
}

/// Reads until there is no watcher.
async fn run_reader(store: Store, sender: Arc<watch::Sender<SharedTail>>) {
    let mut reads = interval(READ_INTERVAL);
    reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tail: Option<Tail> = None;
    let mut last_success = Instant::now();
    loop {
        reads.tick().await;
        if sender.receiver_count() == 0 {
            return;
        }
        match read_on(&store, tail.clone()).await {
            Ok(read) => {
                last_success = Instant::now();
                sender.send_replace(Some(Ok(Arc::new(read.clone()))));
                tail = Some(read);
            }
            Err(error) if may_retry(&error, tail.is_some(), last_success) => {
                tracing::debug!(cause = %ErrorChain(&error), "Cannot read events; trying again");
            }
            Err(error) => {
                sender.send_replace(Some(Err(error)));
                return;
            }
        }
    }
}

/// The first read is not retried: a stream that has not begun fails at once.
fn may_retry(error: &Error, has_begun: bool, last_success: Instant) -> bool {
    has_begun && last_success.elapsed() < MAX_OUTAGE && !matches!(error, Error::CursorExpired)
}

/// Adds what follows the tail. Without a tail, begins one at the last event.
async fn read_on(store: &Store, tail: Option<Tail>) -> Result<Tail> {
    let Some(mut tail) = tail else {
        let position = store.last_event_position().await?;
        return Ok(Tail { start: position, end: position, events: Vec::new() });
    };
    let read = store.read_events(tail.end, READ_LIMIT).await?;
    tail.append(read.events, read.end);
    Ok(tail)
}

impl TenantService {
    /// Returns one page of events, oldest first.
    pub async fn list_events(&self, list: ListEvents) -> Result<Page<Event>> {
        self.store.list_events(&list).await
    }

    /// Streams the matching events after the cursor, each once and in order, with a checkpoint at least every 10 s,
    /// until `end`. The last message before its error is a checkpoint.
    ///
    /// # Errors
    /// [`Error::CursorExpired`], at once or when the events after a slow watcher's position have been deleted; the
    /// error of the reader if the database is unavailable for some time; that of `end`.
    pub fn watch_events(
        self: Arc<Self>,
        watch: WatchEvents,
        end: StreamEnd,
    ) -> impl Stream<Item = Result<EventUpdate>> + Send + 'static {
        let tail = self.event_feed.subscribe(&self.store);
        let position = watch.cursor;
        let is_checked = position.is_none();
        let reader = WatchReader { service: self, watch, position, is_checked, tail, next_checkpoint: Instant::now() };
        let watcher = Watcher { reader, end };
        stream::unfold(Some(watcher), |watcher| async move { Some(watcher?.next().await) }).flat_map(stream::iter)
    }

    /// Deletes the events whose retention is over. The cursors before them expire.
    pub async fn delete_expired_events(&self) -> Result<()> {
        let before = self.clock.now() - self.event_retention;
        while self.store.delete_expired_events(before, CLEANUP_BATCH_SIZE).await? {}
        Ok(())
    }
}

/// One stream.
struct Watcher {
    reader: WatchReader,
    end: StreamEnd,
}

/// Reads what a stream has not sent yet.
struct WatchReader {
    service: Arc<TenantService>,
    watch: WatchEvents,
    /// Up to which everything has been sent. `None` before the first read of a watcher without a cursor.
    position: Option<EventPosition>,
    /// Whether the cursor was compared with what the database has.
    is_checked: bool,
    tail: watch::Receiver<SharedTail>,
    next_checkpoint: Instant,
}

impl Watcher {
    /// Waits for what comes next. Returns it, and the watcher unless the stream ends with it.
    async fn next(mut self) -> (Vec<Result<EventUpdate>>, Option<Self>) {
        loop {
            let read = tokio::select! {
                biased;
                error = &mut self.end => Err(error),
                read = self.reader.read() => read,
            };
            let mut updates: Vec<_> = match read {
                Ok(events) => events.into_iter().map(|event| Ok(EventUpdate::Event(event))).collect(),
                Err(error) => return (self.reader.last_updates(error), None),
            };
            // The first checkpoint follows at once, so that a client has a cursor from the beginning.
            if let Some(position) =
                self.reader.position.filter(|_position| self.reader.next_checkpoint <= Instant::now())
            {
                updates.push(Ok(EventUpdate::Checkpoint(position)));
                self.reader.next_checkpoint = Instant::now() + CHECKPOINT_INTERVAL;
            }
            if !updates.is_empty() {
                return (updates, Some(self));
            }
        }
    }
}

impl WatchReader {
    fn last_updates(&self, error: Error) -> Vec<Result<EventUpdate>> {
        let is_expired = matches!(error, Error::CursorExpired);
        let checkpoint =
            self.position.filter(|_position| !is_expired).map(|position| Ok(EventUpdate::Checkpoint(position)));
        checkpoint.into_iter().chain([Err(error)]).collect()
    }

    /// Returns the matching events of the next range, after waiting for one if there is none. Returns none if it
    /// contained no matching event or a checkpoint is due. Cancel-safe: the position changes with the return.
    async fn read(&mut self) -> Result<Vec<Arc<Event>>> {
        if let (Some(cursor), false) = (self.position, self.is_checked) {
            return self.catch_up(cursor).await;
        }
        loop {
            let tail = self.tail.borrow_and_update().clone().transpose()?;
            if let Some(tail) = tail {
                let position = *self.position.get_or_insert(tail.end);
                if position < tail.start || !is_same_history(position, tail.start) {
                    return self.catch_up(position).await;
                }
                if position < tail.end {
                    self.position = Some(tail.end);
                    let first = tail.events.partition_point(|event| event.position <= position);
                    return Ok(self.matching(tail.events[first..].iter().cloned()));
                }
            }
            tokio::select! {
                changed = self.tail.changed() => {
                    if changed.is_err() && self.tail.borrow().as_ref().is_none_or(Result::is_ok) {
                        // The reader ended when it had no watcher, a moment ago.
                        self.tail = self.service.event_feed.subscribe(&self.service.store);
                    }
                }
                () = sleep_until(self.next_checkpoint), if self.position.is_some() => return Ok(Vec::new()),
            }
        }
    }

    async fn catch_up(&mut self, position: EventPosition) -> Result<Vec<Arc<Event>>> {
        // Never closed.
        let _permit = self.service.event_feed.catching_up.acquire().await.map_err(Error::internal)?;
        let read = self.service.store.read_events(position, READ_LIMIT).await?;
        self.position = Some(read.end);
        self.is_checked = true;
        Ok(self.matching(read.events.into_iter().map(Arc::new)))
    }

    fn matching(&self, events: impl Iterator<Item = Arc<Event>>) -> Vec<Arc<Event>> {
        events.filter(|event| self.watch.filter.matches(event)).collect()
    }
}

fn is_same_history(one: EventPosition, other: EventPosition) -> bool {
    (one.history, one.tag) == (other.history, other.tag)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::TenantId;

    fn position(id: u64) -> EventPosition {
        EventPosition { id, ..EventPosition::default() }
    }

    fn event(id: u64) -> Event {
        Event {
            position: position(id),
            event_type: "tenant.created".to_owned(),
            time: OffsetDateTime::UNIX_EPOCH,
            tenant_id: TenantId::from_uuid(Uuid::nil()),
            caller: String::new(),
            trace_id: None,
            data: String::new(),
        }
    }

    #[test]
    fn a_tail_keeps_the_latest_events_and_begins_after_the_last_one_that_it_dropped() {
        let mut tail = Tail { start: position(10), end: position(10), events: Vec::new() };
        let full = 10 + SHARED_EVENTS as u64;
        tail.append((11..=full).map(event).collect(), position(full));
        assert_eq!((tail.start, tail.end, tail.events.len()), (position(10), position(full), SHARED_EVENTS));
        tail.append((full + 1..=full + 3).map(event).collect(), position(full + 3));
        assert_eq!((tail.start, tail.end, tail.events.len()), (position(13), position(full + 3), SHARED_EVENTS));
        assert_eq!(tail.events[0].position, position(14));
        // The end may be after the last event.
        tail.append(Vec::new(), position(full + 9));
        assert_eq!((tail.start, tail.end, tail.events.len()), (position(13), position(full + 9), SHARED_EVENTS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_fails_is_tried_again_for_some_time_after_the_last_success() {
        let unavailable = Error::DeadlineExceeded;
        let last_success = Instant::now();
        assert!(may_retry(&unavailable, true, last_success));
        assert!(!may_retry(&unavailable, false, last_success), "the stream has not begun");
        assert!(!may_retry(&Error::CursorExpired, true, last_success));
        tokio::time::advance(MAX_OUTAGE / 2).await;
        assert!(may_retry(&unavailable, true, last_success));
        tokio::time::advance(MAX_OUTAGE / 2).await;
        assert!(!may_retry(&unavailable, true, last_success));
    }

    #[test]
    fn positions_are_of_the_same_history_if_its_number_and_its_tag_are_the_same() {
        let one = EventPosition { history: 1, tag: 2, xid: 3, id: 4 };
        assert!(is_same_history(one, EventPosition { xid: 5, id: 6, ..one }));
        assert!(!is_same_history(one, EventPosition { history: 2, ..one }));
        assert!(!is_same_history(one, EventPosition { tag: 3, ..one }));
    }
}
