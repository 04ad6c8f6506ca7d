//! The bounds on what clients can occupy that are not settings: there is no reason to change them in operation. Tests
//! shorten the times.
//!
//! `docs/threat-model.md` lists every bound with the memory that it permits.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Amounts are in all; one caller gets a quarter of each (see [`Bounds::share_of_one`]).
#[derive(Debug, Clone)]
pub struct Bounds {
    /// How long the message of a call may take to arrive.
    pub message_timeout: Duration,
    /// How long a client may take to read a response, or one message of a stream.
    pub response_timeout: Duration,
    /// How long a connection may stay open after GOAWAY, or after its last HTTP/1 response.
    pub connection_grace: Duration,
    /// A connection without a call for this long is closed.
    pub connection_idle_timeout: Duration,
    /// How long an HTTP/1 connection may wait for its next request, the time to receive the request's head included. A
    /// load balancer must close its idle connections earlier; most do so after 60 s.
    pub http1_head_timeout: Duration,
    /// Calls whose message has arrived in part.
    pub incomplete_messages: usize,
    /// Bytes of messages that have arrived, in part or in full, until the response has been read.
    pub request_bytes: usize,
    /// Bytes of responses that clients have not read yet.
    pub response_bytes: usize,
    pub health_watches: usize,
    pub reflection_streams: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            message_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(30),
            connection_grace: Duration::from_secs(30),
            connection_idle_timeout: Duration::from_mins(5),
            http1_head_timeout: Duration::from_secs(75),
            incomplete_messages: 1_024,
            request_bytes: 32 * MIB,
            response_bytes: 48 * MIB,
            health_watches: 512,
            reflection_streams: 16,
        }
    }
}

impl Bounds {
    /// How much of an amount one caller can have.
    pub const fn share_of_one(amount: usize) -> usize {
        amount / 4
    }
}
