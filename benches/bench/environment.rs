//! What a benchmark runs against: a Postgres with fsync on, and a server process with its default settings, except that
//! a tenant can have more packages.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tempfile::TempDir;
use tonic::transport::Endpoint;
use turnkey::store;

use crate::{cpu_time::CpuTime, http::HttpTarget, process_memory::memory_kib};

pub struct BenchEnv {
    folder: TempDir,
    postgres: EmbeddedPostgres,
    server: ServerProcess,
    pub endpoint: Endpoint,
    pub http: HttpTarget,
    pub superuser: PgPool,
    pub postgres_bin_dir: PathBuf,
}

/// A `turnkey serve` process, killed on drop.
struct ServerProcess(Child);

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Fails if the process has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl BenchEnv {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = folder.path().join("cluster");
        let pg_bin = std::env::var_os("PG_BIN").map(Into::into);
        let settings = Settings { root, pg_bin, durable: true, max_connections: 200 };
        let postgres = EmbeddedPostgres::start(settings).await.unwrap();
        store::migrate(&postgres.owner_options().into()).await.unwrap();
        store::grant_provisioner(&postgres.owner_options(), postgres.server_options().get_username()).await.unwrap();
        let superuser = PgPool::connect_with(postgres.owner_options()).await.unwrap();
        let postgres_bin_dir: String = sqlx::query_scalar("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
            .fetch_one(&superuser)
            .await
            .unwrap();
        let (server, address, http) = start_server(&folder, &postgres.server_options());
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self { folder, postgres, server, endpoint, http, superuser, postgres_bin_dir: postgres_bin_dir.into() }
    }

    /// Returns the options with which the server connects.
    pub fn server_options(&self) -> PgConnectOptions {
        self.postgres.server_options()
    }

    pub fn resident_kib(&self) -> Option<u64> {
        memory_kib(self.server.0.id(), "VmRSS")
    }

    pub fn peak_kib(&self) -> Option<u64> {
        memory_kib(self.server.0.id(), "VmHWM")
    }

    /// Returns the time from the start of a process to SERVING, on the existing database: the median of nine starts.
    pub fn median_start_ms(&self) -> f64 {
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..9 {
            let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
            let started = Instant::now();
            let _server = start_server(&folder, &self.server_options());
            times.push(started.elapsed().as_secs_f64() * 1_000.0);
        }
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    /// Returns the CPU time used since the start. `None` if it is unknown.
    pub fn cpu_time(&self) -> Option<CpuTime> {
        let pid_file = fs::read_to_string(self.folder.path().join("cluster/postgres/postmaster.pid")).ok()?;
        CpuTime::of(self.server.0.id(), pid_file.lines().next()?.parse().ok()?)
    }

    pub async fn postgres_version(&self) -> String {
        sqlx::query_scalar("SHOW server_version").fetch_one(&self.superuser).await.unwrap()
    }

    pub async fn stop(self) {
        drop(self.server);
        self.superuser.close().await;
        self.postgres.stop().await.unwrap();
    }
}

/// Starts a server, waits until it is ready, and returns it with its addresses.
fn start_server(folder: &TempDir, options: &PgConnectOptions) -> (ServerProcess, String, HttpTarget) {
    let socket = std::path::absolute(options.get_socket().unwrap()).unwrap();
    let (role, database) = (options.get_username(), options.get_database().unwrap());
    let ready_file = folder.path().join("ready");
    // A port that is free now. Only the log has that of a port 0.
    let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Command::new(env!("CARGO_BIN_EXE_turnkey"))
        .args(["serve", "--listen", "127.0.0.1:0", "--ready-file"])
        .arg(&ready_file)
        .args(["--http-listen", &http.to_string()])
        .env("DATABASE_URL", format!("postgres://{role}@localhost/{database}?host={}", socket.display()))
        .env("TURNKEY_MAX_PACKAGES_PER_TENANT", "100000")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        // The log is written, as in production, and discarded.
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !ready_file.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    (ServerProcess(server), fs::read_to_string(ready_file).unwrap().trim().to_owned(), HttpTarget(http))
}
