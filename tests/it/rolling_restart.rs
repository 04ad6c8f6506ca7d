//! A rolling restart as in a Kubernetes Deployment: three replicas on one database are restarted in turn, clients
//! balance their calls over the ready ones, and no call fails.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::support::{
    database::{Cluster, TestDatabase},
    load::{Client, Failures, Load},
    process::{Process, database_url, temp_folder, turnkey},
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
            tokio::spawn(watch_health(channel.clone(), sender));
            (Client::new(channel), is_ready)
        });
        Self { replicas: Arc::new(replicas.collect()), next: Arc::default() }
    }

    fn pick(&self) -> Client {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut candidates = self.replicas.iter().cycle().skip(first % self.replicas.len()).take(self.replicas.len());
        candidates.find(|(_, is_ready)| *is_ready.borrow()).expect("a replica is ready").0.clone()
    }

    async fn wait_for_readiness(&self, index: usize, expected: bool) {
        self.replicas[index].1.clone().wait_for(|&is_ready| is_ready == expected).await.unwrap();
    }
}

/// Watches the health of a replica until the test's runtime ends.
async fn watch_health(channel: Channel, is_ready: watch::Sender<bool>) {
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

fn start(folder: &Path, database: &TestDatabase, listen: &str) -> Process {
    let mut command = turnkey(folder);
    // The delay gives balancers time to notice. The default is longer, except on loopback addresses.
    command.args(["--listen", listen, "--shutdown-delay", "1", "--database-max-connections", "4"]);
    Process::start(command.env("DATABASE_URL", database_url(&database.server)))
}

/// A separate loopback address for each replica, where the system has several: while a replica restarts, its port is
/// free, and another process could take it.
fn loopback(number: u8) -> String {
    if cfg!(target_os = "linux") { format!("127.0.53.{number}:0") } else { "127.0.0.1:0".to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_restart_under_load_fails_no_call() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut processes: Vec<Process> =
        (1..=3).map(|number| start(folder.path(), &database, &loopback(number))).collect();
    let addresses: Vec<String> = processes.iter_mut().map(Process::address).collect();
    let balancer = Balancer::new(&addresses);
    for index in 0..3 {
        balancer.wait_for_readiness(index, true).await;
    }
    let picking = balancer.clone();
    let mut load = Load::start(8, move || picking.pick());
    for (index, address) in addresses.iter().enumerate() {
        load.wait_for_calls(50).await;
        processes[index].signal(Signal::SIGTERM);
        balancer.wait_for_readiness(index, false).await;
        assert_eq!(processes[index].wait().code(), Some(0));
        processes[index] = start(folder.path(), &database, address);
        balancer.wait_for_readiness(index, true).await;
    }
    load.wait_for_calls(50).await;
    assert_eq!(load.failures(), Failures::new());
    load.stop_and_assert_sound(&database.superuser).await;
    for process in &processes {
        process.signal(Signal::SIGTERM);
    }
    for process in &mut processes {
        assert_eq!(process.wait().code(), Some(0));
    }
}
