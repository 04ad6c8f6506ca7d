//! Three replicas on one database, callers that spread their calls over those that are ready, and a restart of one after the
//! other, as a Deployment does it: no call fails.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::sys::signal::Signal;
use tempfile::tempdir_in;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    cluster::{Cluster, TestDatabase},
    load::{Client, Failures, Load},
    process::{Program, turnkey, url},
};

/// Balances calls as a gRPC client does with `round_robin` and client-side health checking
/// (<https://github.com/grpc/proposal/blob/master/A17-client-side-health-checking.md>).
#[derive(Clone)]
struct Balancer {
    replicas: Arc<Vec<(Client, watch::Receiver<bool>)>>,
    next: Arc<AtomicUsize>,
}

impl Balancer {
    fn new(addresses: &[String]) -> Self {
        let replicas = addresses.iter().map(|address| {
            let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
            let (sender, is_ready) = watch::channel(false);
            tokio::spawn(follow(channel.clone(), sender));
            (Client::new(channel), is_ready)
        });
        Self { replicas: Arc::new(replicas.collect()), next: Arc::default() }
    }

    fn pick(&self) -> Client {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut in_turn = self.replicas.iter().cycle().skip(first % self.replicas.len()).take(self.replicas.len());
        in_turn.find(|(_, is_ready)| *is_ready.borrow()).expect("one is ready").0.clone()
    }

    async fn ready(&self, index: usize, expected: bool) {
        self.replicas[index].1.clone().wait_for(|&is_ready| is_ready == expected).await.unwrap();
    }
}

/// Ends with the test's runtime.
async fn follow(channel: Channel, is_ready: watch::Sender<bool>) {
    let mut health = HealthClient::new(channel);
    loop {
        let request = HealthCheckRequest { service: String::new() };
        if let Ok(changes) = health.watch(request).await {
            let mut changes = changes.into_inner();
            while let Ok(Some(change)) = changes.message().await {
                is_ready.send_replace(change.status() == ServingStatus::Serving);
            }
        }
        is_ready.send_replace(false);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn start(folder: &Path, database: &TestDatabase, listen: &str) -> Program {
    let mut command = turnkey(folder);
    // The pause is for balancers to notice; the one that a server takes on any other than a loopback address is longer.
    command.args(["--listen", listen, "--shutdown-delay", "1", "--database-max-connections", "4"]);
    Program::start(command.env("DATABASE_URL", url(&database.server)))
}

/// Addresses that nobody else picks ports of, where a machine has several: a port is free for a moment in between.
fn loopback(number: u8) -> String {
    if cfg!(target_os = "linux") { format!("127.0.53.{number}:0") } else { "127.0.0.1:0".to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_restart_under_load_fails_no_call() {
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut programs: Vec<Program> = (1..=3).map(|number| start(folder.path(), &database, &loopback(number))).collect();
    let addresses: Vec<String> = programs.iter_mut().map(Program::address).collect();
    let balancer = Balancer::new(&addresses);
    for index in 0..3 {
        balancer.ready(index, true).await;
    }
    let picking = balancer.clone();
    let mut load = Load::start(8, move || picking.pick());
    for (index, address) in addresses.iter().enumerate() {
        load.more(50).await;
        programs[index].signal(Signal::SIGTERM);
        balancer.ready(index, false).await;
        assert_eq!(programs[index].wait().code(), Some(0));
        programs[index] = start(folder.path(), &database, address);
        balancer.ready(index, true).await;
    }
    load.more(50).await;
    assert_eq!(load.failures(), Failures::new());
    load.stop_and_compare(&database.superuser).await;
    for program in &programs {
        program.signal(Signal::SIGTERM);
    }
    for program in &mut programs {
        assert_eq!(program.wait().code(), Some(0));
    }
}
