//! The servers, their Postgres, the faults, and the watchers of events.

use std::process::Command;

use embedded_postgres::{EmbeddedPostgres, Settings};
use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic::transport::Endpoint;
use turnkey::{
    config::ServerSettings,
    domain::Argon2Params,
    grpc::pb::{
        Event, WatchEventsRequest, tenant_provisioning_client::TenantProvisioningClient, watch_events_response::Update,
    },
};

use super::{clients::Servers, events::create_archive};
use crate::support::{
    connect::{over_connect, over_grpc},
    database::{SERVER, TestDatabase, execute, pg_bin, postmaster_pid},
    events::Watch,
    fixture::{Fixture, settings},
    http1::Http,
    process::{Process, serve, temp_folder},
    proxy::{Cut, Proxy},
    replicated_cluster::ReplicatedCluster,
};

const SERVERS: usize = 2;
/// Parts of statements at which connections are cut: the first is in every statement that changes something.
const CUT_AT: [&str; 3] = ["INSERT INTO events", "COMMIT", "pg_advisory_xact_lock"];

/// Postgres and what can happen to it.
pub enum Postgres {
    /// Its supervisor restarts it when it stops.
    Single(Box<EmbeddedPostgres>),
    /// A primary and a synchronous standby.
    Replicated(ReplicatedCluster),
}

pub struct World {
    pub servers: Servers,
    postgres: Postgres,
    database: TestDatabase,
    proxy: Proxy,
    folder: TempDir,
    processes: Vec<Process>,
}

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Kills a server with `SIGKILL` and starts another one.
    KillServer,
    /// Cuts the connection of a statement, before it or before its response.
    CutConnection,
    /// Closes all connections of the servers, as a pooler does that restarts.
    CloseConnections,
    /// Stops Postgres immediately.
    StopPostgres,
    /// Stops the primary immediately and promotes its standby. Possible once.
    LosePrimary,
}

impl World {
    pub async fn with_single_postgres() -> Self {
        let folder = temp_folder();
        let root = folder.path().join("cluster");
        let settings = Settings { root, pg_bin: pg_bin(), durable: true, max_connections: 100 };
        let postgres = EmbeddedPostgres::start(settings).await.unwrap();
        let database = TestDatabase::migrated_on(&postgres).await;
        Self::start(Postgres::Single(Box::new(postgres)), database, folder).await
    }

    pub async fn with_standby() -> Self {
        let cluster = ReplicatedCluster::start().await;
        let superuser = cluster.superuser(0);
        execute(&superuser, format!("CREATE ROLE {SERVER} LOGIN")).await;
        let database = database_of(&cluster, 0);
        database.migrate().await;
        Self::start(Postgres::Replicated(cluster), database, temp_folder()).await
    }

    async fn start(postgres: Postgres, database: TestDatabase, folder: TempDir) -> Self {
        create_archive(&database.superuser).await;
        let proxy = Proxy::start(&database.server).await;
        let (servers, processes) = (Servers::of_database(&database.superuser), Vec::new());
        let mut world = Self { servers, postgres, database, proxy, folder, processes };
        for number in 0..SERVERS {
            world.start_server(number);
        }
        world
    }

    fn start_server(&mut self, number: usize) {
        let mut command = serve(self.folder.path(), &self.database.server);
        let options = self.proxy.options(&self.database.server);
        let (role, database) = (options.get_username(), options.get_database().unwrap());
        let url = format!("postgres://{role}@127.0.0.1:{}/{database}?sslmode=disable", options.get_port());
        // `Argon2Params::KEY`.
        command.env("TURNKEY_PASSWORD_ARGON2", "m=64,t=1,p=1");
        command.env("DATABASE_URL", url).env("TURNKEY_HTTP_LISTEN", "127.0.0.1:0");
        let mut process = Process::start(&mut command);
        let http = process.http();
        let line = process.log.iter().find(|line| line.contains("Turnkey listens on")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let address = line["address"].as_str().unwrap();
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        self.servers.replace(number, vec![over_grpc(channel), over_connect(http)]);
        // Of a server that is replaced, this is the end.
        if number < self.processes.len() {
            self.processes[number] = process;
        } else {
            self.processes.push(process);
        }
    }

    /// Injects a fault. `progress` waits until this many more calls were made.
    pub async fn inject(&mut self, fault: Fault, random: &mut StdRng, progress: &mut Progress) {
        match (fault, &self.postgres) {
            (Fault::KillServer, _) => {
                let number = random.random_range(0..SERVERS);
                self.processes[number].signal(Signal::SIGKILL);
                self.start_server(number);
            }
            (Fault::CutConnection, _) => {
                let cut = if random.random() { Cut::BeforeStatement } else { Cut::BeforeResponse };
                self.proxy.inject(CUT_AT[random.random_range(0..CUT_AT.len())], cut);
                while !self.proxy.was_triggered() {
                    progress.wait_for(1).await;
                }
            }
            (Fault::StopPostgres, Postgres::Single(_)) => {
                let pid = postmaster_pid(&self.folder.path().join("cluster")).unwrap().to_string();
                assert!(Command::new("kill").args(["-QUIT", &pid]).status().unwrap().success());
            }
            (Fault::LosePrimary, Postgres::Replicated(cluster)) => {
                cluster.stop_primary();
                cluster.promote_standby();
                self.database = database_of(cluster, 1);
                self.servers.set_superuser(&self.database.superuser);
                self.proxy.redirect_to(&self.database.server);
            }
            (Fault::CloseConnections, _) => {
                let close = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename =";
                execute(&self.database.superuser, format!("{close} '{SERVER}'")).await;
            }
            (fault, _) => panic!("{fault:?} needs another Postgres"),
        }
    }

    /// Ends the servers, and starts one in the test's own process in their place.
    pub async fn replace_servers(&mut self) -> Fixture {
        for process in &mut self.processes {
            process.signal(Signal::SIGKILL);
            process.wait();
        }
        let settings = ServerSettings { password_argon2: Argon2Params::KEY, ..settings() };
        let fixture = Fixture::start_with(self.database.clone(), settings).await;
        let address: Http = Http { address: fixture.server.address };
        let channel = Endpoint::from_shared(format!("http://{}", address.address)).unwrap().connect_lazy();
        self.servers.replace_all(vec![over_grpc(channel)]);
        fixture
    }

    pub async fn stop(self) {
        drop(self.processes);
        if let Postgres::Single(postgres) = self.postgres {
            postgres.stop().await.unwrap();
        }
    }
}

fn database_of(cluster: &ReplicatedCluster, number: usize) -> TestDatabase {
    let superuser = cluster.superuser(number);
    TestDatabase { owner: superuser.clone(), server: superuser.clone().username(SERVER), superuser }
}

/// Counts the calls that were made.
#[derive(Clone)]
pub struct Progress(watch::Receiver<u64>);

impl Progress {
    pub fn new() -> (watch::Sender<u64>, Self) {
        let (sender, receiver) = watch::channel(0);
        (sender, Self(receiver))
    }

    /// Waits until this many more calls were made.
    pub async fn wait_for(&mut self, calls: u64) {
        let goal = *self.0.borrow() + calls;
        let reached = self.0.wait_for(|&count| count >= goal);
        timeout(std::time::Duration::from_mins(1), reached).await.expect("the clients make progress").unwrap();
    }
}

/// A consumer of events that continues at its last cursor when its server ends.
pub struct Watcher {
    events: watch::Receiver<Vec<Event>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Everything after this call is seen.
    pub async fn start(servers: Servers, seed: u64) -> Self {
        let (received, events) = watch::channel(Vec::new());
        let (begun, mut has_begun) = watch::channel(false);
        let task = tokio::spawn(async move {
            let (mut random, mut cursor) = (StdRng::seed_from_u64(seed), String::new());
            loop {
                let mut client = TenantProvisioningClient::new(servers.grpc(&mut random));
                let request = WatchEventsRequest { cursor: cursor.clone(), ..WatchEventsRequest::default() };
                if let Ok(stream) = client.watch_events(request).await {
                    let mut watch = Watch::new(stream.into_inner());
                    while let Ok(update) = watch.next_update().await {
                        match update {
                            Update::Event(event) => {
                                cursor.clone_from(&event.id);
                                received.send_modify(|events| events.push(event));
                            }
                            Update::Checkpoint(checkpoint) => cursor = checkpoint.cursor,
                        }
                        begun.send_replace(true);
                    }
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        has_begun.wait_for(|&has_begun| has_begun).await.unwrap();
        Self { events, task }
    }

    /// Returns what it saw, once that includes this event.
    pub async fn seen_up_to(mut self, last: &str) -> Vec<Event> {
        let seen = self.events.wait_for(|events| events.last().is_some_and(|event| event.id == last));
        let seen = timeout(std::time::Duration::from_mins(1), seen).await.expect("the watcher sees the last event");
        let seen = seen.unwrap().clone();
        self.task.abort();
        seen
    }
}
