//! The limit of open files, each connection being one. It is raised to what the system permits, and some descriptors are
//! reserved, so that clients cannot take those of the database and of files that are read again.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// For the listeners, standard streams, the runtime, the health probe, and files that are read again.
const RESERVED_FILES: usize = 64;

/// How many files the process can have open; `None` if unknown.
pub(super) struct FileLimit(Option<usize>);

/// Raises the soft limit to the hard limit.
pub(super) fn raise() -> FileLimit {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return FileLimit(None) };
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    FileLimit(Some(usize::try_from(limit).unwrap_or(usize::MAX)))
}

impl FileLimit {
    /// Returns how many client connections there can be beside the connections to the database: at most `wanted`.
    pub(super) fn max_connections(&self, wanted: usize, database_connections: usize) -> usize {
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
