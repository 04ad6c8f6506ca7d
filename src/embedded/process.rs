//! Runs the programs of Postgres so that none of them outlives this program, and none runs as root.
//!
//! What is run, when, and what its failure means is decided by the parent module.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::unistd::{Uid, User};
use tokio::process::{Child, ChildStdin, Command};

use super::EmbeddedError;

/// Starts `program -D directory …` and waits for it. Its standard input is the lifeline: this
/// program holds the other end and never writes, so end of file means that it is gone, however it
/// went, and then the child is interrupted (for Postgres that is the fast shutdown).
///
/// The reader is a background job, and those read from /dev/null, hence the copy on descriptor 3.
/// Descriptor 4 is the data directory, opened before the shell leaves it; see `DATA_DIRECTORY`.
const LIFELINE: &str = r#"
directory=$1 program=$2
shift 2
exec 3<&0 4<.
[ "$directory" = . ] || cd /
"$program" -D "$directory" "$@" </dev/null 3<&- &
child=$!
( read -r _ <&3; kill -INT "$child" ) 2>/dev/null &
reader=$!
exec 3<&-
wait "$child"
status=$?
kill "$reader" 2>/dev/null
wait "$reader" 2>/dev/null
exit "$status"
"#;

/// How a child names its data directory. The path to it may lead through directories that only
/// root can enter, and the user Postgres runs as is another one; an open descriptor needs no path.
/// (`/proc/self/cwd` does not do: Postgres 15 leaves its working directory to find itself and
/// cannot come back.) Other systems have no such descriptor; there the path must be open to the user.
const DATA_DIRECTORY: &str = if cfg!(target_os = "linux") { "/proc/self/fd/4" } else { "." };

/// The user and group a child runs as when this program is root, which Postgres refuses to be.
#[derive(Debug, Clone, Copy)]
struct Identity {
    user: u32,
    group: u32,
}

#[derive(Debug)]
pub(super) struct Launcher {
    identity: Option<Identity>,
    log: PathBuf,
}

impl Launcher {
    /// An existing cluster keeps its owner, so that root can run the one an ordinary user made.
    pub(super) async fn new(log: PathBuf, data_directory: &Path) -> Result<Self, EmbeddedError> {
        let identity = if Uid::effective().is_root() {
            let identity = match fs::metadata(data_directory) {
                Ok(metadata) if metadata.uid() != 0 => Identity { user: metadata.uid(), group: metadata.gid() },
                _ => service_user()?,
            };
            check_setpriv(identity).await?;
            Some(identity)
        } else {
            None
        };
        Ok(Self { identity, log })
    }

    /// Makes an empty directory that the children own.
    pub(super) fn make_directory(&self, directory: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(directory)?;
        match self.identity {
            Some(Identity { user, group }) => chown(directory, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// Its own process group keeps ctrl-c in a terminal away from the child: this program has to
    /// finish its calls first.
    pub(super) fn run(
        &self,
        program: &Path,
        arguments: &[String],
        data_directory: &Path,
    ) -> Result<Running, EmbeddedError> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(|source| EmbeddedError::file(&self.log, source))?;
        let errors = log.try_clone();
        let errors = errors.map_err(|source| EmbeddedError::file(&self.log, source))?;
        let mut child = self
            .shell()
            .args(["-c", LIFELINE, "sh", DATA_DIRECTORY])
            .arg(program)
            .args(arguments)
            .current_dir(data_directory)
            // Messages that this module can read, and no locale threads on macOS.
            .env("LC_ALL", "C")
            .env("PG_GRANDPARENT_PID", not_a_server(data_directory).to_string())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|source| EmbeddedError::Launch { program: program.to_path_buf(), source })?;
        // Tokio's `Child::wait` closes a standard input it finds, so it must not find this one.
        let lifeline = child.stdin.take();
        Ok(Running { child, lifeline })
    }

    /// `Command::uid` would drop root before it enters the data directory; setpriv is started in it.
    fn shell(&self) -> Command {
        match self.identity {
            Some(identity) => {
                let mut command = setpriv(identity);
                command.arg("/bin/sh");
                command
            }
            None => Command::new("/bin/sh"),
        }
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    pub(super) fn log_length(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// What was logged after `position`, at most the last lines of it.
    pub(super) fn log_since(&self, position: u64) -> String {
        const LINES: usize = 12;
        let mut bytes = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(position))?;
            file.read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            return format!("(cannot be read: {error})");
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

/// A child with its shell. Dropping it closes the lifeline, and the shell then stops the child.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Running {
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    pub(super) fn close_lifeline(&mut self) {
        self.lifeline = None;
    }
}

fn service_user() -> Result<Identity, EmbeddedError> {
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(|user| Identity { user: user.uid.as_raw(), group: user.gid.as_raw() })
        .ok_or(EmbeddedError::NoServiceUser)
}

fn setpriv(identity: Identity) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", identity.user)).arg(format!("--regid={}", identity.group)).arg("--clear-groups");
    command
}

/// Tried once beforehand: `BusyBox` has a setpriv that cannot do this, and a container may forbid it.
async fn check_setpriv(identity: Identity) -> Result<(), EmbeddedError> {
    let reason = match setpriv(identity).args(["/bin/sh", "-c", ":"]).output().await {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => "it is not installed".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(EmbeddedError::CannotDropRoot { reason })
}

/// The process in a left-over postmaster.pid if it is certainly no living Postgres, else this one.
///
/// After a restart of the machine or container the number in that file may belong to any process,
/// and in a container without an init a killed Postgres stays as a zombie. Either would keep
/// Postgres from starting. It ignores the number of its grandparent, which it takes from the
/// environment, and still makes its other checks; deleting the file would end those too.
fn not_a_server(data_directory: &Path) -> u32 {
    let this_process = std::process::id();
    let Ok(content) = fs::read_to_string(data_directory.join("postmaster.pid")) else {
        return this_process;
    };
    let Some(recorded): Option<u32> = content.lines().next().and_then(|line| line.trim().parse().ok()) else {
        return this_process;
    };
    // That file begins with the number, the name in brackets, and the state.
    match fs::read_to_string(format!("/proc/{recorded}/stat")) {
        Ok(stat) if !stat.contains("(postgres)") || stat.contains("(postgres) Z") => recorded,
        _ => this_process,
    }
}
