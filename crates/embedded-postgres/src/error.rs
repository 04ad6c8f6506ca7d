//! The errors of the embedded Postgres. Each message says what failed and what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::binaries::MIN_MAJOR;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no Postgres {MIN_MAJOR} or newer on this machine (found: {found}). Install it ({remedy}), set PG_BIN to the \
         directory that contains `initdb` and `postgres`, or set DATABASE_URL to a running server"
    )]
    NotInstalled { found: String, remedy: String },
    #[error("PG_BIN must name the directory of a Postgres {MIN_MAJOR} or newer: {reason}")]
    InvalidPgBin { reason: String },
    #[error(
        "Postgres {major} created the database in the directory {}, and no other version can run it ({found}). \
         Install Postgres {major}, or set PG_BIN to the directory of its programs. To start with an empty database \
         instead, delete that directory",
        data_dir.display()
    )]
    MajorVersionMismatch { data_dir: PathBuf, major: u16, found: String },
    #[error(
        "another process runs its embedded Postgres in {}: stop that process, or use another directory",
        root.display()
    )]
    AlreadyRunning { root: PathBuf },
    #[error(
        "the path of the database socket, {}, is longer than {limit} bytes: start this program in a parent directory \
         of the socket, or use a directory with a shorter path",
        path.display()
    )]
    SocketPathTooLong { path: PathBuf, limit: usize },
    #[error(
        "Postgres refuses to run as root, and there is neither a user `postgres` nor `nobody` to run it as: run this \
         program as an ordinary user"
    )]
    NoUnprivilegedUser,
    #[error(
        "Postgres refuses to run as root, and `setpriv` cannot run it as another user: {reason}. Install the package \
         util-linux (on Alpine: setpriv), or run this program as an ordinary user"
    )]
    CannotDropRoot { reason: String },
    #[error("cannot use {}{}: {source}", path.display(), permission_hint(source))]
    File { path: PathBuf, source: io::Error },
    #[error("cannot run {}: {source}", program.display())]
    Launch { program: PathBuf, source: io::Error },
    #[error("initdb did not create the database cluster. The cause is at the end of {}:\n{log_tail}", log.display())]
    Initdb { log: PathBuf, log_tail: String },
    #[error("Postgres did not start. The cause is at the end of {}:\n{log_tail}", log.display())]
    NotStarted { log: PathBuf, log_tail: String },
    #[error("Postgres did not stop: look for its process with `ps -ef | grep postgres`, and stop it with `kill -INT`")]
    NotStopped,
    #[error("cannot create the database and the roles in the embedded Postgres: {0}")]
    Database(#[from] sqlx::Error),
}

impl Error {
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_path_buf(), source }
    }
}

/// Returns what to do about a file of root or of another user.
fn permission_hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        " (another user created it: run this program as that user, or delete the directory)"
    } else {
        ""
    }
}
