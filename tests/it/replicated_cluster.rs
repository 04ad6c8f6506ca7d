//! A primary and a synchronous standby, by streaming replication.

use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::{Uid, User};
use sqlx::postgres::PgConnectOptions;
use tempfile::{TempDir, tempdir_in};

use crate::cluster::{Cluster, execute, postgres_bin_dir};

const SUPERUSER: &str = "postgres";
/// Names of sockets in a folder of its own; nobody listens on the network.
const PORTS: [u16; 2] = [5501, 5502];

pub struct ReplicatedCluster {
    postgres_bin_dir: PathBuf,
    folder: TempDir,
}

impl ReplicatedCluster {
    /// Both are running, and a COMMIT waits for both.
    pub async fn start() -> Self {
        let postgres_bin_dir = postgres_bin_dir(&Cluster::get().superuser()).await;
        let pair = Self { postgres_bin_dir, folder: tempdir_in("/tmp").unwrap() };
        if let Some(user) = other_user() {
            chown(pair.folder.path(), Some(user.uid.into()), Some(user.gid.into())).unwrap();
        }
        let path = pair.folder.path().display();
        pair.run("initdb", &["-D", &pair.data(0), "-U", SUPERUSER, "--auth=trust", "--no-sync"]);
        pair.run(
            "pg_ctl",
            &["-w", "-D", &pair.data(0), "-l", &format!("{path}/log-0"), "-o", &pair.options(0), "start"],
        );
        let from = ["-h", pair.folder.path().to_str().unwrap(), "-p", "5501", "-U", SUPERUSER, "--checkpoint=fast"];
        pair.run("pg_basebackup", &[&from[..], &["-R", "-D", &pair.data(1)]].concat());
        pair.run(
            "pg_ctl",
            &["-w", "-D", &pair.data(1), "-l", &format!("{path}/log-1"), "-o", &pair.options(1), "start"],
        );
        // Not in a block of statements, which would be one transaction.
        execute(&pair.superuser(0), "ALTER SYSTEM SET synchronous_standby_names = '*'".to_owned()).await;
        execute(&pair.superuser(0), "SELECT pg_reload_conf()".to_owned()).await;
        pair
    }

    pub fn superuser(&self, number: usize) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.folder.path())
            .port(PORTS[number])
            .username(SUPERUSER)
            .database("postgres")
    }

    /// The primary is gone from one moment to the next.
    pub fn lose_primary(&self) {
        self.run("pg_ctl", &["-D", &self.data(0), "-m", "immediate", "stop"]);
    }

    pub fn promote_standby(&self) {
        self.run("pg_ctl", &["-w", "-D", &self.data(1), "promote"]);
    }

    fn data(&self, number: usize) -> String {
        self.folder.path().join(format!("data-{number}")).to_str().unwrap().to_owned()
    }

    fn options(&self, number: usize) -> String {
        let (port, path) = (PORTS[number], self.folder.path().display());
        format!("-c listen_addresses='' -k {path} -p {port} -c fsync=off -c max_connections=50")
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let path = self.postgres_bin_dir.join(program);
        // Postgres refuses to run as root.
        let mut command = match other_user() {
            None => Command::new(path),
            Some(user) => {
                let mut command = Command::new("setpriv");
                let (uid, gid) = (format!("--reuid={}", user.uid), format!("--regid={}", user.gid));
                command.args([&uid, &gid, "--clear-groups", "--"]).arg(path);
                command
            }
        };
        command.args(arguments).current_dir(self.folder.path());
        let status = command.stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    }
}

impl Drop for ReplicatedCluster {
    fn drop(&mut self) {
        for number in 0..2 {
            if Path::new(&self.data(number)).join("postmaster.pid").exists() {
                self.run("pg_ctl", &["-D", &self.data(number), "-m", "immediate", "stop"]);
            }
        }
    }
}

fn other_user() -> Option<User> {
    Uid::effective().is_root().then(|| User::from_name("postgres").unwrap().expect("Postgres' package makes its user"))
}
