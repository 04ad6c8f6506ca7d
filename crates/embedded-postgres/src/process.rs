//! Runs the programs of Postgres so that none of them outlives this program, and none runs as root.
//!
//! [`crate::server`] decides what to run, when, and what a failure means.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use nix::unistd::{Uid, User};
use tokio::process::{Child, ChildStdin, Command};

use crate::{Error, open_own};

/// Runs `program -D directory …` and waits for it. Standard input is a pipe to which this program never writes: end of
/// file means that this program has ended, for any reason, and the script then interrupts its child. For Postgres, that
/// is a fast shutdown.
///
/// A background job reads the pipe. The shell redirects the standard input of background jobs to /dev/null, hence the
/// copy on descriptor 3. Descriptor 4 is the data directory, opened before the shell leaves it; see `DATA_DIR`.
const WATCHDOG_SCRIPT: &str = r#"
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

/// The name of the data directory for a child. The child's user may differ from this program's and may lack access to a
/// parent directory. On Linux the name is therefore an open descriptor, which needs no path. (`/proc/self/cwd` does not
/// work: Postgres 15 leaves its working directory to locate itself and cannot return.) Other systems have no such name;
/// there the child's user needs access to the whole path.
const DATA_DIR: &str = if cfg!(target_os = "linux") { "/proc/self/fd/4" } else { "." };

#[derive(Clone, Copy)]
struct UserIds {
    uid: u32,
    gid: u32,
}

pub(crate) struct Launcher {
    /// The user of the children, if this program runs as root.
    user: Option<UserIds>,
    pub log: PathBuf,
}

impl Launcher {
    /// An existing cluster keeps its owner, so that root can run a cluster that an ordinary user created.
    pub async fn new(log: PathBuf, data_dir: &Path) -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self { user: None, log });
        }
        let user = match fs::metadata(data_dir) {
            Ok(metadata) if metadata.uid() != 0 => UserIds { uid: metadata.uid(), gid: metadata.gid() },
            _ => unprivileged_user()?,
        };
        check_setpriv(user).await?;
        Ok(Self { user: Some(user), log })
    }

    /// Creates a directory that the user of the children owns.
    pub fn create_dir(&self, directory: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(directory)?;
        self.user.map_or(Ok(()), |UserIds { uid, gid }| chown(directory, Some(uid), Some(gid)))
    }

    /// The child has its own process group, so that Ctrl-C in a terminal does not reach it: this program still needs
    /// the database to finish its calls.
    pub fn run(&self, program: &Path, arguments: &[String], data_dir: &Path) -> Result<Process, Error> {
        let cannot_log = |source| Error::file(&self.log, source);
        let stdout = open_own(&self.log).map_err(cannot_log)?;
        let stderr = stdout.try_clone().map_err(cannot_log)?;
        let mut child = shell(self.user)
            .args(["-c", WATCHDOG_SCRIPT, "sh", DATA_DIR])
            .arg(program)
            .args(arguments)
            .current_dir(data_dir)
            .env("PG_GRANDPARENT_PID", stale_pid(data_dir).unwrap_or_else(std::process::id).to_string())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(|source| Error::Launch { program: program.to_path_buf(), source })?;
        // Tokio's `Child::wait` closes the child's standard input if it is still there.
        let stdin = child.stdin.take();
        Ok(Process { child, stdin })
    }

    pub fn log_length(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// Returns what was logged after `position`, limited to the last lines.
    pub fn log_since(&self, position: u64) -> String {
        const MAX_LINES: usize = 12;
        let mut bytes = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(position))?;
            file.read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            return format!("(cannot read it: {error})");
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(MAX_LINES)..].join("\n")
    }
}

/// A program of Postgres and the shell that watches it. When this is dropped, the shell interrupts the program.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    pub fn has_exited(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Causes the shell to interrupt the program. This works even if only the shell's reader is still alive.
    pub fn interrupt(&mut self) {
        self.stdin = None;
    }
}

fn unprivileged_user() -> Result<UserIds, Error> {
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(|user| UserIds { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
        .ok_or(Error::NoUnprivilegedUser)
}

/// Returns a command with a clean environment. The variables of this program are for the program and for the clients of
/// other servers: `PGDATA`, `PGPORT`, `PGOPTIONS` and more would change the private Postgres, `LD_PRELOAD` the
/// programs, and `LANG` the messages. `PATH` finds `setpriv` and the programs of `initdb`, `TZ` is the time zone of a
/// new cluster.
pub(crate) fn clean_command(program: impl AsRef<OsStr>) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.env_clear();
    command.envs(["PATH", "TZ"].into_iter().filter_map(|name| Some((name, env::var_os(name)?))));
    // English messages, which this crate searches, and no locale threads on macOS.
    command.env("LC_ALL", "C").env("HOME", "/");
    command
}

/// Drops root by setpriv, which starts in the data directory: `Command::uid` would drop root before entering it.
fn shell(user: Option<UserIds>) -> Command {
    let Some(UserIds { uid, gid }) = user else {
        return clean_command("/bin/sh").into();
    };
    let mut command = Command::from(clean_command("setpriv"));
    command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", "/bin/sh"]);
    command
}

/// Checks in advance that setpriv works: that of `BusyBox` lacks these options, and a container may forbid the change.
async fn check_setpriv(user: UserIds) -> Result<(), Error> {
    let reason = match shell(Some(user)).args(["-c", ":"]).output().await {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => "it is not installed".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::CannotDropRoot { reason })
}

/// Returns the pid in a leftover postmaster.pid if that process certainly is not a running Postgres.
///
/// After a restart of the machine or container, the pid may belong to another process. In a container without an init,
/// a killed Postgres remains as a zombie. In both cases Postgres would refuse to start. It ignores the pid if that is
/// the one in `PG_GRANDPARENT_PID`, but still performs its other checks. Deleting the file would disable those too.
fn stale_pid(data_dir: &Path) -> Option<u32> {
    let content = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid: u32 = content.lines().next()?.trim().parse().ok()?;
    // The file begins with the pid, the name in parentheses, and the state.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    (!stat.contains("(postgres)") || stat.contains("(postgres) Z")).then_some(pid)
}
