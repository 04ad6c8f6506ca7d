//! What the layers and the server share about one client connection: who the client is, and what the connection is used
//! for at the moment.
//!
//! The server decides from it when a connection has to be closed, see `server/connection.rs`.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::AbortHandle;
use hashbrown::HashMap;
use tokio_util::sync::CancellationToken;

use crate::domain::service_credentials::San;

tokio::task_local! {
    /// Aborts the task of the current HTTP/2 stream, and so resets the stream. Set by the server.
    pub static STREAM_ABORT: AbortHandle;
}

/// The address that a connection is charged to: a single IPv4 address, or a /64 network, which is the smallest that an
/// IPv6 host is given (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerAddress(IpAddr);

impl From<IpAddr> for PeerAddress {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
        }
    }
}

/// One client connection.
#[derive(Debug)]
pub struct Connection {
    pub peer: PeerAddress,
    /// The subject alternative names of the client's verified certificate.
    pub sans: Vec<San>,
    /// Cancelled when GOAWAY is sent: streams that would last have to end.
    pub going_away: CancellationToken,
    usage: Mutex<Usage>,
}

#[derive(Debug)]
struct Usage {
    calls: usize,
    last_call_ended_at: Instant,
    /// By their numbers.
    unread_responses: HashMap<u64, UnreadResponse>,
    next_number: u64,
    /// Since when the client has not read what the server wants to write.
    write_blocked_since: Option<Instant>,
}

#[derive(Debug)]
struct UnreadResponse {
    since: Instant,
    stream: Option<AbortHandle>,
}

impl Connection {
    pub fn new(peer: PeerAddress, sans: Vec<San>) -> Self {
        let usage = Usage {
            calls: 0,
            last_call_ended_at: Instant::now(),
            unread_responses: HashMap::new(),
            next_number: 0,
            write_blocked_since: None,
        };
        Self { peer, sans, going_away: CancellationToken::new(), usage: Mutex::new(usage) }
    }

    /// Counts a call until the guard is dropped.
    pub fn begin_call(self: &Arc<Self>) -> CallInProgress {
        self.lock().calls += 1;
        CallInProgress(Arc::clone(self))
    }

    /// Records a response, or a message of a stream, until the guard is dropped: when all of it has been written.
    pub fn begin_response(self: &Arc<Self>) -> ResponseInProgress {
        let stream = STREAM_ABORT.try_with(Clone::clone).ok();
        let mut usage = self.lock();
        let number = usage.next_number;
        usage.next_number += 1;
        usage.unread_responses.insert(number, UnreadResponse { since: Instant::now(), stream });
        ResponseInProgress { connection: Arc::clone(self), number }
    }

    pub fn set_write_blocked(&self, is_blocked: bool) {
        let mut usage = self.lock();
        if is_blocked {
            usage.write_blocked_since.get_or_insert_with(Instant::now);
        } else {
            usage.write_blocked_since = None;
        }
    }

    /// How long the connection has had no call. Zero during a call.
    pub fn idle_time(&self) -> Duration {
        let usage = self.lock();
        if usage.calls > 0 { Duration::ZERO } else { usage.last_call_ended_at.elapsed() }
    }

    /// Resets the streams whose response has not been read for `timeout`. Returns false if that was not enough: if the
    /// client does not read the connection at all, or the rest of a response waits outside of its stream.
    pub fn reset_unread_streams(&self, timeout: Duration) -> bool {
        let is_late = |since: Instant| since.elapsed() > timeout;
        let mut usage = self.lock();
        let late = usage.unread_responses.values_mut().filter(|response| is_late(response.since));
        let has_reset_all = late.fold(true, |has_reset_all, response| match response.stream.take() {
            Some(stream) => {
                stream.abort();
                has_reset_all
            }
            None => false,
        });
        has_reset_all && !usage.write_blocked_since.is_some_and(is_late)
    }

    fn lock(&self) -> MutexGuard<'_, Usage> {
        // No code panics while it holds the lock.
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that keeps its connection from being idle.
#[derive(Debug)]
pub struct CallInProgress(Arc<Connection>);

impl Drop for CallInProgress {
    fn drop(&mut self) {
        let mut usage = self.0.lock();
        usage.calls -= 1;
        usage.last_call_ended_at = Instant::now();
    }
}

/// A response that has not been written in full.
#[derive(Debug)]
pub struct ResponseInProgress {
    connection: Arc<Connection>,
    number: u64,
}

impl Drop for ResponseInProgress {
    fn drop(&mut self) {
        self.connection.lock().unread_responses.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::abortable;

    use super::*;

    fn connection() -> Arc<Connection> {
        let peer = IpAddr::from([127, 0, 0, 1]).into();
        Arc::new(Connection::new(peer, Vec::new()))
    }

    #[test]
    fn an_ipv6_host_counts_with_its_network_and_an_ipv4_host_alone() {
        let peer = |text: &str| PeerAddress::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(peer("2001:db8:0:1::1"), peer("2001:db8:0:1:ffff::2"));
        assert_ne!(peer("2001:db8:0:1::1"), peer("2001:db8:0:2::1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"));
    }

    #[test]
    fn a_connection_is_idle_between_its_calls_only() {
        let connection = connection();
        let calls = [connection.begin_call(), connection.begin_call()];
        assert_eq!(connection.idle_time(), Duration::ZERO);
        drop(calls);
        assert!(connection.idle_time() > Duration::ZERO);
    }

    #[tokio::test]
    async fn a_stream_whose_response_is_not_read_is_reset_and_the_connection_closed_if_that_does_not_help() {
        let connection = connection();
        let (stream, abort) = abortable(std::future::pending::<()>());
        let response = STREAM_ABORT.sync_scope(abort, || connection.begin_response());
        assert!(connection.reset_unread_streams(Duration::from_mins(1)), "it is not late");
        assert!(!stream.is_aborted());
        assert!(connection.reset_unread_streams(Duration::ZERO));
        assert!(stream.is_aborted());
        assert!(!connection.reset_unread_streams(Duration::ZERO), "the response is still there");
        drop(response);
        assert!(connection.reset_unread_streams(Duration::ZERO));
    }

    #[test]
    fn a_client_that_reads_again_is_not_blocked() {
        let connection = connection();
        connection.set_write_blocked(true);
        assert!(!connection.reset_unread_streams(Duration::ZERO));
        connection.set_write_blocked(false);
        assert!(connection.reset_unread_streams(Duration::ZERO));
    }
}
