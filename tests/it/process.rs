//! The program itself, as a process.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::postgres::PgConnectOptions;
use turnkey::grpc::pb::tenant_provisioning_client::TenantProvisioningClient;

use crate::fixture::channel;

/// A line that does not come within this never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `turnkey`; killed when dropped.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    /// All that was read of the log so far.
    pub log: Vec<String>,
}

/// The program with none of this process' settings and with `folder` as its own.
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

/// The same as a server on this database, at any port that is free.
pub fn serving(folder: &Path, options: &PgConnectOptions) -> Command {
    let mut command = turnkey(folder);
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("DATABASE_URL", url(options));
    command
}

/// The options as a `DATABASE_URL`. The socket's folder is made absolute: the program works in another one.
pub fn url(options: &PgConnectOptions) -> String {
    let socket = std::path::absolute(options.get_socket().unwrap()).unwrap();
    let (role, database) = (options.get_username(), options.get_database().unwrap());
    format!("postgres://{role}@localhost/{database}?host={}", socket.display())
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Bytes that are no text would end the log early and fail the test that waits for more.
            for line in log.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, log: Vec::new() }
    }

    /// Reads the log up to a line that holds this text, and answers the line.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(why) => panic!("no line with {text:?} ({why}) in the log:\n{}", self.log.join("\n")),
            }
        }
    }

    /// The next line, or none where it has ended.
    pub fn next_line(&mut self) -> Option<String> {
        let line = self.lines.recv_timeout(PATIENCE).ok()?;
        self.log.push(line.clone());
        Some(line)
    }

    /// The address it serves on, once it serves.
    pub fn address(&mut self) -> String {
        let line = self.wait_for("Turnkey listens on");
        let (_, after) = line.split_once(r#""address":""#).unwrap();
        let address = after.split('"').next().unwrap().to_owned();
        self.wait_for(r#""Serving""#);
        address
    }

    pub async fn provisioning(&mut self) -> TenantProvisioningClient<tonic::transport::Channel> {
        let address = self.address();
        TenantProvisioningClient::new(channel(&address).await)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Its end, and the rest of its log. Blocks: on a runtime of one thread the test's clients could not answer meanwhile,
    /// and the program would wait for them as long as it may.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.log.push(line);
        }
        status
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
