//! The `turnkey` executable as a process, and its log.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tonic::transport::Channel;
use turnkey::grpc::pb::tenant_provisioning_client::TenantProvisioningClient;

use super::{fixture::channel, http1::Http};

/// A log line that does not come within this time never comes.
const LOG_TIMEOUT: Duration = Duration::from_secs(30);

/// A running process, killed when dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    /// The log lines that were read so far.
    pub log: Vec<String>,
}

/// A temporary folder on the disk of the target directory.
pub fn temp_folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The executable in `folder`, without the settings of the test's own environment.
pub fn turnkey(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnkey"));
    command.current_dir(folder).env_remove("DATABASE_URL").env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TURNKEY_") || name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command.env("TURNKEY_LOG_FORMAT", "json").stdin(Stdio::null());
    command
}

/// `turnkey serve` on this database and on any free port.
pub fn serve(folder: &Path, options: &PgConnectOptions) -> Command {
    let mut command = turnkey(folder);
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("DATABASE_URL", database_url(options));
    command
}

/// `command`, started by this shell script, which gets `argument` as `$0` and the command as `$@`.
pub fn through_shell(command: &Command, script: &str, argument: impl AsRef<OsStr>) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(argument).arg(command.get_program());
    with_context_of(command, shell)
}

/// `command` with another executable.
pub fn with_executable(command: &Command, executable: &Path) -> Command {
    with_context_of(command, Command::new(executable))
}

/// Gives `other` the arguments, the variables and the folder of `command`.
fn with_context_of(command: &Command, mut other: Command) -> Command {
    other.args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        other.current_dir(folder);
    }
    other
}

/// Permits the test to hold this many sockets, if the system does. Its processes inherit the limit.
pub fn raise_open_files_limit(count: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(soft.max(count)), hard).unwrap();
}

/// The options as a `DATABASE_URL`. The path of the socket becomes absolute, because the process has another working
/// directory.
pub fn database_url(options: &PgConnectOptions) -> String {
    let socket = std::path::absolute(options.get_socket().unwrap()).unwrap();
    let (role, database) = (options.get_username(), options.get_database().unwrap());
    format!("postgres://{role}@localhost/{database}?host={}", socket.display())
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Invalid UTF-8 ends the log here, and fails the test that waits for more.
            for line in log.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, log: Vec::new() }
    }

    /// Reads the log up to a line that contains this text, and returns the line.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(LOG_TIMEOUT) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("no line with {text:?} ({error}) in the log:\n{}", self.log.join("\n")),
            }
        }
    }

    /// As [`Self::wait_for`], for a log in JSON.
    pub fn wait_for_json(&mut self, text: &str) -> Value {
        serde_json::from_str(&self.wait_for(text)).unwrap()
    }

    /// Returns the next line, or `None` at the end of the log.
    pub fn next_line(&mut self) -> Option<String> {
        let line = self.lines.recv_timeout(LOG_TIMEOUT).ok()?;
        self.log.push(line.clone());
        Some(line)
    }

    /// Waits until the server is ready, and returns its address.
    pub fn address(&mut self) -> String {
        let line = self.wait_for_json("Turnkey listens on");
        self.wait_for(r#""Serving""#);
        line["address"].as_str().unwrap().to_owned()
    }

    /// Waits until the server is ready and serves HTTP. The two log lines come in either order.
    pub fn http(&mut self) -> Http {
        loop {
            let find = |text: &str| self.log.iter().find(|line| line.contains(text));
            if let (Some(line), Some(_ready)) = (find("HTTP is served on"), find(r#""Serving""#)) {
                let line: Value = serde_json::from_str(line).unwrap();
                return Http { address: line["address"].as_str().unwrap().parse().unwrap() };
            }
            self.wait_for("");
        }
    }

    /// Waits until the server is ready, and connects to it.
    pub async fn provisioning(&mut self) -> TenantProvisioningClient<Channel> {
        let address = self.address();
        TenantProvisioningClient::new(channel(&address).await)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits until the process has ended, and reads the rest of its log. Blocks the thread: on a runtime with a single
    /// thread the test's own clients cannot respond in the meantime, and the server waits for them until its timeout.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        while let Ok(line) = self.lines.recv_timeout(LOG_TIMEOUT) {
            self.log.push(line);
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
