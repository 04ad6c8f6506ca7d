//! A primary and a synchronous standby with streaming replication.

use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::{Uid, User};
use sqlx::postgres::PgConnectOptions;
use tempfile::{TempDir, tempdir_in};

use super::database::{Cluster, SERVER, TestDatabase, execute, postgres_bin_dir};

const SUPERUSER: &str = "postgres";
/// They only name the Unix sockets; neither server listens on the network.
const PORTS: [u16; 2] = [5501, 5502];

pub struct ReplicatedCluster {
    postgres_bin_dir: PathBuf,
    folder: TempDir,
}

impl ReplicatedCluster {
    /// Starts both. From then on, COMMIT waits for the standby.
    pub async fn start() -> Self {
        let postgres_bin_dir = postgres_bin_dir(&Cluster::get().superuser()).await;
        let cluster = Self { postgres_bin_dir, folder: tempdir_in("/tmp").unwrap() };
        if let Some(user) = postgres_user() {
            chown(cluster.folder.path(), Some(user.uid.into()), Some(user.gid.into())).unwrap();
        }
        let path = cluster.folder.path().display();
        cluster.run("initdb", &["-D", &cluster.data(0), "-U", SUPERUSER, "--auth=trust", "--no-sync"]);
        cluster.run(
            "pg_ctl",
            &["-w", "-D", &cluster.data(0), "-l", &format!("{path}/log-0"), "-o", &cluster.options(0), "start"],
        );
        let from = ["-h", cluster.folder.path().to_str().unwrap(), "-p", "5501", "-U", SUPERUSER, "--checkpoint=fast"];
        cluster.run("pg_basebackup", &[&from[..], &["-R", "-D", &cluster.data(1)]].concat());
        cluster.run(
            "pg_ctl",
            &["-w", "-D", &cluster.data(1), "-l", &format!("{path}/log-1"), "-o", &cluster.options(1), "start"],
        );
        // Two calls, because ALTER SYSTEM cannot run in a transaction, and several statements in one call are one.
        execute(&cluster.superuser(0), "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        execute(&cluster.superuser(0), "SELECT pg_reload_conf()").await;
        cluster
    }

    pub fn superuser(&self, number: usize) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.folder.path())
            .port(PORTS[number])
            .username(SUPERUSER)
            .database("postgres")
    }

    /// Creates the schema on the primary.
    pub async fn database(&self) -> TestDatabase {
        let superuser = self.superuser(0);
        execute(&superuser, format!("CREATE ROLE {SERVER} LOGIN")).await;
        let server = superuser.clone().username(SERVER);
        let database = TestDatabase { owner: superuser.clone(), server, superuser };
        database.migrate().await;
        database
    }

    /// The URL of both hosts, the standby first.
    pub fn url(&self, role: &str) -> String {
        let host = self.folder.path().to_str().unwrap().replace('/', "%2F");
        let [primary, standby] = PORTS;
        format!("postgres://{role}@{host}:{standby},{host}:{primary}/postgres?target_session_attrs=read-write")
    }

    /// Stops the primary immediately.
    pub fn stop_primary(&self) {
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

    fn run(&self, executable: &str, arguments: &[&str]) {
        let path = self.postgres_bin_dir.join(executable);
        // Postgres refuses to run as root.
        let mut command = match postgres_user() {
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
        assert!(status.success(), "{executable} {arguments:?}");
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

fn postgres_user() -> Option<User> {
    Uid::effective()
        .is_root()
        .then(|| User::from_name("postgres").unwrap().expect("the package of Postgres creates this user"))
}
