//! A coordinator of Citus and two workers. With `CITUS_BIN`, the directory of a Postgres that has Citus, the tests run
//! on them.

use std::path::{Path, PathBuf};

use embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Mutex;

use super::database::execute;

/// The names that the sockets of an embedded Postgres have.
const PORT: u16 = 5432;

/// Passes the settings of a transaction on to the workers; without effect on plain Postgres. A query of its own, as
/// each of these settings: Citus passes on the whole text of a query.
pub const PROPAGATE_SETTINGS: &str = "SET LOCAL citus.propagate_set_commands = 'local'";

/// The Postgres with Citus that the developer chose.
pub fn citus_bin() -> Option<PathBuf> {
    std::env::var_os("CITUS_BIN").filter(|directory| !directory.is_empty()).map(PathBuf::from)
}

/// Says that a test is skipped, and returns true, if the tests do not run on Citus.
pub fn is_skipped_without_citus() -> bool {
    let is_skipped = citus_bin().is_none();
    if is_skipped {
        eprintln!("skipped: set CITUS_BIN to the programs of a Postgres with Citus");
    }
    is_skipped
}

/// Says that a test is skipped, and why, and returns true, if the tests run on Citus.
pub fn is_skipped_on_citus(reason: &str) -> bool {
    let is_skipped = citus_bin().is_some();
    if is_skipped {
        eprintln!("skipped on Citus: {reason}");
    }
    is_skipped
}

/// Whether a test can put a trigger on the table. Citus has none on distributed tables.
pub fn can_have_triggers(table: &str) -> bool {
    citus_bin().is_none() || !["segments", "packages"].contains(&table)
}

/// The number of calls, or a fifth of it on Citus, where they take so long that some of many at once wait for more than
/// the second after which they are rejected.
pub fn fewer_on_citus(calls: usize) -> usize {
    if citus_bin().is_some() { calls / 5 } else { calls }
}

/// Returns the name of the constraint that a statement violated. Of an error on a worker, Citus keeps the text only, in
/// which the name can have the number of a shard.
pub fn violated_constraint(error: &sqlx::Error) -> String {
    let error = error.as_database_error().unwrap();
    if let Some(constraint) = error.constraint() {
        return constraint.to_owned();
    }
    let message = error.message();
    let name = message.rsplit('"').nth(1).filter(|_| citus_bin().is_some()).unwrap_or(message);
    name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_').to_owned()
}

pub struct Node {
    postgres: EmbeddedPostgres,
    socket_dir: PathBuf,
}

impl Node {
    /// Starts a Postgres that has loaded Citus.
    pub async fn start(root: PathBuf, bin: &Path) -> Self {
        let settings =
            || Settings { root: root.clone(), pg_bin: Some(bin.to_owned()), durable: false, max_connections: 500 };
        let postgres = EmbeddedPostgres::start(settings()).await.unwrap();
        let library = "ALTER SYSTEM SET shared_preload_libraries = 'citus'";
        execute(&postgres.owner_options(), library).await;
        execute(&postgres.owner_options(), "ALTER SYSTEM SET max_prepared_transactions = 1000").await;
        postgres.stop().await.unwrap();
        let postgres = EmbeddedPostgres::start(settings()).await.unwrap();
        for setting in [
            "citus.node_conninfo = 'sslmode=disable'",
            "citus.shard_count = 4",
            // The maintenance of hundreds of databases would slow the tests down.
            "citus.distributed_deadlock_detection_factor = -1",
            "citus.recover_2pc_interval = -1",
        ] {
            execute(&postgres.owner_options(), format!("ALTER SYSTEM SET {setting}")).await;
        }
        execute(&postgres.owner_options(), "SELECT pg_reload_conf()").await;
        Self { postgres, socket_dir: root.join("postgres") }
    }

    pub fn superuser(&self) -> PgConnectOptions {
        self.postgres.owner_options().socket(&self.socket_dir)
    }
}

/// Makes the databases of this name, which the coordinator and the workers have, one database of Citus.
pub async fn connect(coordinator: &PgConnectOptions, workers: &[PgConnectOptions], database: &str) {
    // The nodes' roles, which adding a node copies, cannot be written by two sessions at once.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _held = ONE_AT_A_TIME.lock().await;
    for node in workers.iter().chain([coordinator]) {
        execute(&node.clone().database(database), "CREATE EXTENSION citus").await;
    }
    let host = |node: &PgConnectOptions| node.get_socket().unwrap().display().to_string();
    let database = coordinator.clone().database(database);
    execute(&database, format!("SELECT citus_set_coordinator_host('{}', {PORT})", host(coordinator))).await;
    for worker in workers {
        execute(&database, format!("SELECT citus_add_node('{}', {PORT})", host(worker))).await;
    }
}
