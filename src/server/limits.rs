//! Builds the limits on calls and connections from the settings.
//!
//! Each connection is an open file. The limit of open files is raised to what the system permits, and some descriptors
//! are reserved, so that clients cannot take those of the database and of files that are read again.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[cfg(feature = "mcp")]
use crate::grpc::layers::admission::Payer;
use crate::{
    config::{Bounds, ServerSettings},
    grpc::{
        FairLimit, PeerAddress,
        layers::{
            admission::{Admission, MAX_HEALTH_MESSAGE_BYTES},
            request_message::MessageLimits,
        },
    },
};

/// For the listeners, standard streams, the runtime, the health probe, and files that are read again.
const RESERVED_FILES: usize = 64;

/// The limits on the calls of one address.
pub(super) fn admission(settings: &ServerSettings) -> Admission {
    let bounds = &settings.bounds;
    // Without credentials, the names of callers are unknown.
    let is_anonymous = settings.tokens_file.is_none();
    let per_caller = |max, share| FairLimit::new(max, if is_anonymous { max } else { fair_share(max, share) });
    let fair = |max| per_caller(max, None);
    let per_address = |max| FairLimit::new(max, Bounds::share_of_one(max));
    let timeout = bounds.message_timeout;
    let incomplete = bounds.incomplete_messages;
    Admission {
        messages: MessageLimits { timeout, incomplete: fair(incomplete), bytes: fair(bounds.request_bytes) },
        calls: per_caller(settings.max_concurrent_calls, settings.max_concurrent_calls_per_caller),
        response_bytes: fair(bounds.response_bytes),
        health_messages: MessageLimits {
            timeout,
            incomplete: per_address(incomplete),
            bytes: per_address(incomplete * MAX_HEALTH_MESSAGE_BYTES),
        },
        health_watches: per_address(bounds.health_watches),
        reflection_streams: per_address(bounds.reflection_streams),
        reflection_timeout: bounds.response_timeout,
    }
}

/// The limit on the requests of agents. Their callers are always known.
#[cfg(feature = "mcp")]
pub(super) fn agent_requests(settings: &ServerSettings) -> FairLimit<Payer> {
    let (max, share) = (settings.max_concurrent_calls, settings.max_concurrent_calls_per_caller);
    FairLimit::new(max, fair_share(max, share))
}

/// What one caller may use of a limit.
fn fair_share(max: usize, share: Option<usize>) -> usize {
    share.unwrap_or_else(|| Bounds::share_of_one(max).max(1)).min(max)
}

/// The limit on the connections of all addresses together.
pub(super) fn connections(settings: &ServerSettings) -> FairLimit<PeerAddress> {
    let per_server = usize::try_from(settings.database_max_connections).unwrap_or(usize::MAX);
    let database = per_server.saturating_mul(1 + settings.catalog_reads.len());
    let max = raise_file_limit().max_connections(settings.max_connections, database);
    FairLimit::new(max, settings.max_connections_per_address.unwrap_or(max.div_ceil(2)).min(max))
}

/// How many files the process can have open; `None` if unknown.
struct FileLimit(Option<usize>);

/// Raises the soft limit to the hard limit.
fn raise_file_limit() -> FileLimit {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return FileLimit(None) };
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    FileLimit(Some(usize::try_from(limit).unwrap_or(usize::MAX)))
}

impl FileLimit {
    /// Returns how many client connections there can be beside the connections to the database: at most `wanted`.
    fn max_connections(&self, wanted: usize, database_connections: usize) -> usize {
        let Self(Some(limit)) = self else { return wanted };
        let available = limit.saturating_sub(RESERVED_FILES + database_connections).max(1);
        if available < wanted {
            tracing::warn!(
                "The limit of open files ({limit}) permits only {available} of {wanted} client connections; raise it \
                 (`ulimit -n`) or lower TURNKEY_MAX_CONNECTIONS"
            );
        }
        wanted.min(available)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_database_and_for_files() {
        assert_eq!(FileLimit(Some(20_000)).max_connections(4_096, 16), 4_096);
        assert_eq!(FileLimit(Some(1_024)).max_connections(4_096, 16), 1_024 - 64 - 16);
        assert_eq!(FileLimit(Some(10)).max_connections(4_096, 16), 1);
        assert_eq!(FileLimit(None).max_connections(4_096, 16), 4_096);
    }
}
