//! A client of `ListEvents` and `WatchEvents`.

use std::time::Duration;

use sqlx::ConnectOptions as _;
use tokio::time::timeout;
use tonic::{Response, Status, Streaming};
use turnkey::grpc::pb::{
    Event, ListEventsRequest, ListEventsResponse, WatchEventsRequest, WatchEventsResponse,
    watch_events_response::Update,
};

use super::fixture::Fixture;

/// A message that does not come within this time never comes.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// A stream of events.
pub struct Watch {
    stream: Streaming<WatchEventsResponse>,
    /// The cursor of the last checkpoint.
    pub cursor: String,
}

impl Watch {
    pub const fn new(stream: Streaming<WatchEventsResponse>) -> Self {
        Self { stream, cursor: String::new() }
    }

    pub async fn next_update(&mut self) -> Result<Update, Status> {
        let message = timeout(MESSAGE_TIMEOUT, self.stream.message()).await.expect("a message comes in time")?;
        let update = message.expect("the stream ends with an error").update.unwrap();
        if let Update::Checkpoint(checkpoint) = &update {
            self.cursor.clone_from(&checkpoint.cursor);
        }
        Ok(update)
    }

    /// Returns the next event, after any number of checkpoints.
    pub async fn next_event(&mut self) -> Result<Event, Status> {
        loop {
            if let Update::Event(event) = self.next_update().await? {
                return Ok(event);
            }
        }
    }

    pub async fn next_events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.next_event().await.unwrap());
        }
        events
    }

    /// Reads until the next checkpoint and returns its cursor.
    pub async fn checkpoint(&mut self) -> String {
        while !matches!(self.next_update().await.unwrap(), Update::Checkpoint(_)) {}
        self.cursor.clone()
    }

    /// Reads to the end of the stream and returns its error.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next_update().await {
                return status;
            }
        }
    }
}

impl Fixture {
    pub async fn watch(&self, request: WatchEventsRequest) -> Watch {
        Watch::new(self.provisioning.clone().watch_events(request).await.unwrap().into_inner())
    }

    /// Watches everything after this cursor.
    pub async fn watch_from(&self, cursor: &str) -> Watch {
        self.watch(WatchEventsRequest { cursor: cursor.to_owned(), ..WatchEventsRequest::default() }).await
    }

    /// Returns the error with which a stream from this cursor ends.
    pub async fn watch_error(&self, cursor: &str) -> Status {
        let request = WatchEventsRequest { cursor: cursor.to_owned(), ..WatchEventsRequest::default() };
        match self.provisioning.clone().watch_events(request).await {
            Ok(response) => Watch::new(response.into_inner()).end().await,
            Err(status) => status,
        }
    }

    /// Watches everything from now on. Every later change is in the stream.
    pub async fn watch_from_now(&self) -> Watch {
        let mut watch = self.watch_from("").await;
        watch.checkpoint().await;
        watch
    }

    pub async fn list_events(&self, request: ListEventsRequest) -> Result<ListEventsResponse, Status> {
        self.provisioning.clone().list_events(request).await.map(Response::into_inner)
    }

    /// Waits until no transaction is open that is older than this call. Until then the latest events are not shown;
    /// such a transaction may belong to another test.
    pub async fn wait_for_older_transactions(&self) {
        let mut connection = self.database.superuser.connect().await.unwrap();
        let xid: String =
            sqlx::query_scalar("SELECT pg_current_xact_id()::text").fetch_one(&mut connection).await.unwrap();
        let is_oldest = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::xid8";
        while !sqlx::query_scalar::<_, bool>(is_oldest).bind(&xid).fetch_one(&mut connection).await.unwrap() {}
    }

    /// Every event up to now.
    pub async fn events(&self) -> Vec<Event> {
        self.wait_for_older_transactions().await;
        self.all_events(ListEventsRequest::default()).await
    }

    /// The events on all pages.
    pub async fn all_events(&self, request: ListEventsRequest) -> Vec<Event> {
        let (mut request, mut events) = (request, Vec::new());
        loop {
            let page = self.list_events(request.clone()).await.unwrap();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return events;
            }
            request.page_token = page.next_page_token;
        }
    }
}

pub fn types(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.r#type.as_str()).collect()
}

pub fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}
