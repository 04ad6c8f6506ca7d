//! What can go wrong with the private Postgres, in words that a newcomer can act on.
//!
//! The messages are the interface here: each says what to do. Nothing branches on the variants.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no private Postgres, in words that a newcomer can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// No usable Postgres on this machine.
    #[error(
        "no Postgres 15 or newer on this machine (found: {found}). Install it: {remedy} — \
         or set PG_BIN to the directory that holds `initdb` and `postgres`, \
         or DATABASE_URL to a server you already have"
    )]
    NoPostgres {
        /// What was found and why it will not do.
        found: String,
        /// The command that installs Postgres.
        remedy: String,
    },
    /// The directory named by the user cannot be used.
    #[error("PG_BIN names no usable Postgres 15 or newer: {reason}")]
    PgBin {
        /// What is wrong with it.
        reason: String,
    },
    /// The cluster was made by a major version that is not installed (any more).
    #[error(
        "the data in {} was made by Postgres {major}, which is not installed (found: {found}). \
         Install Postgres {major}, or delete that folder to begin with an empty database",
        directory.display()
    )]
    OtherMajor {
        /// The data directory.
        directory: PathBuf,
        /// The version that made it.
        major: u16,
        /// What was found instead.
        found: String,
    },
    /// The folder belongs to another running program.
    #[error(
        "another turnkey is already running in {}: stop it first, or start this one in another folder",
        root.display()
    )]
    AlreadyRunning {
        /// The folder.
        root: PathBuf,
    },
    /// The system limits the length of a socket's path.
    #[error(
        "the path of the database socket, {}, is longer than {limit} bytes: \
         start turnkey in its own folder, or move that to a shorter path",
        path.display()
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// The most bytes it may have.
        limit: usize,
    },
    /// Root without an ordinary user to run Postgres as.
    #[error(
        "Postgres refuses to run as root, and there is neither a user `postgres` nor `nobody` to \
         run it as: start turnkey as an ordinary user"
    )]
    NoServiceUser,
    /// Root without the means to become another user.
    #[error(
        "Postgres refuses to run as root, and `setpriv`, which would run it as another user, does \
         not work here: {reason}. Install the package util-linux (on Alpine: setpriv), or start \
         turnkey as an ordinary user"
    )]
    CannotDropRoot {
        /// What setpriv said.
        reason: String,
    },
    /// A file or folder cannot be made, read or changed.
    #[error("cannot use {}: {source}{}", path.display(), whose(source))]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program of Postgres cannot be started.
    #[error("cannot run {}: {source}", program.display())]
    Launch {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb could not make the database cluster. Its last words ({}):\n{tail}", log.display())]
    Initdb {
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// Postgres ended, or was not ready in time.
    #[error("Postgres did not start. Its last words ({}):\n{tail}", log.display())]
    NotStarted {
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// Postgres is still there after every attempt to stop it.
    #[error("Postgres did not stop; `ps -ef | grep postgres` shows whether it is still there")]
    NotStopped,
    /// Postgres runs but refuses what this module asks of it.
    #[error("the private Postgres refused its first statements: {0}")]
    Database(#[from] sqlx::Error),
}

impl EmbeddedError {
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_path_buf(), source }
    }
}

/// What to do about a folder that root, or another ordinary user, has made.
fn whose(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        ". Another user made it: start turnkey as that user, or delete the folder"
    } else {
        ""
    }
}
