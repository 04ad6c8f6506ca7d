//! A Postgres that syncs, and a server with everything on.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tempfile::TempDir;
use tonic::transport::Endpoint;
use turnkey::store;

use crate::process_memory::memory_kib;

pub struct BenchEnv {
    folder: TempDir,
    postgres: EmbeddedPostgres,
    server: Serving,
    pub endpoint: Endpoint,
    pub superuser: PgPool,
    pub postgres_bin_dir: PathBuf,
}

/// A server, which ends with what it is needed for.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl BenchEnv {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = folder.path().join("cluster");
        let settings = Settings { root, pg_bin: None, durable: true, max_connections: 200 };
        let postgres = EmbeddedPostgres::start(settings).await.unwrap();
        store::migrate(&postgres.owner_options()).await.unwrap();
        store::grant_provisioner(&postgres.owner_options(), postgres.server_options().get_username()).await.unwrap();
        let superuser = PgPool::connect_with(postgres.owner_options()).await.unwrap();
        let postgres_bin_dir: String = sqlx::query_scalar("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
            .fetch_one(&superuser)
            .await
            .unwrap();
        let (server, address) = serve(&folder, &postgres.server_options());
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self { folder, postgres, server, endpoint, superuser, postgres_bin_dir: postgres_bin_dir.into() }
    }

    pub fn options(&self) -> PgConnectOptions {
        self.postgres.server_options()
    }

    pub fn resident_kib(&self) -> Option<u64> {
        memory_kib(self.server.0.id(), "VmRSS")
    }

    pub fn peak_kib(&self) -> Option<u64> {
        memory_kib(self.server.0.id(), "VmHWM")
    }

    /// From the start of a process to SERVING, on the database as it is: the median of nine.
    pub fn start_again_ms(&self) -> f64 {
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..9 {
            let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
            let started = Instant::now();
            let _serving = serve(&folder, &self.options());
            times.push(started.elapsed().as_secs_f64() * 1_000.0);
        }
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
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

/// A server that serves, and where.
fn serve(folder: &TempDir, options: &PgConnectOptions) -> (Serving, String) {
    let socket = std::path::absolute(options.get_socket().unwrap()).unwrap();
    let (role, database) = (options.get_username(), options.get_database().unwrap());
    let ready = folder.path().join("ready");
    let server = Command::new(env!("CARGO_BIN_EXE_turnkey"))
        .args(["serve", "--listen", "127.0.0.1:0", "--ready-file"])
        .arg(&ready)
        .env("DATABASE_URL", format!("postgres://{role}@localhost/{database}?host={}", socket.display()))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        // Everything on, the log included; nobody reads it.
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !ready.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    (Serving(server), fs::read_to_string(ready).unwrap().trim().to_owned())
}
