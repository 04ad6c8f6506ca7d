//! SIGTERM under load: calls in progress get their response, and no client can delay the shutdown.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use sqlx::PgPool;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc, task::JoinSet};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use turnkey::grpc::pb::tenant_provisioning_client::TenantProvisioningClient;

use crate::support::{
    database::Cluster,
    fixture::channel,
    process::{Process, serve, temp_folder},
    requests::named,
};

const CALLERS: usize = 8;
/// The documented limit.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_finishes_the_calls_in_progress_despite_idle_clients() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(&mut serve(folder.path(), &database.server));
    let address = process.address();
    // One sends nothing, one stops after the preface, one reads a stream that never ends by itself.
    let silent = TcpStream::connect(&address).await.unwrap();
    let mut preface_only = TcpStream::connect(&address).await.unwrap();
    preface_only.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    let watch = HealthCheckRequest { service: String::new() };
    let stream = HealthClient::new(channel(&address).await).watch(watch).await.unwrap();

    let (sender, mut answered) = mpsc::unbounded_channel();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let mut client = TenantProvisioningClient::new(channel(&address).await);
        let sender = sender.clone();
        callers.spawn(async move {
            for number in 0.. {
                let request = named(&format!("tenant-{caller}-{number}"));
                match client.create_fully_provisioned(request).await {
                    Ok(response) => sender.send(response.into_inner().tenant.unwrap().slug).unwrap(),
                    Err(_) => return,
                }
            }
        });
    }
    drop(sender);
    let mut slugs = BTreeSet::new();
    while slugs.len() < 100 {
        slugs.insert(answered.recv().await.unwrap());
    }
    process.signal(Signal::SIGTERM);
    let signalled = Instant::now();
    callers.join_all().await;
    while let Some(slug) = answered.recv().await {
        slugs.insert(slug);
    }
    let status = tokio::task::spawn_blocking(move || process.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(signalled.elapsed() < SHUTDOWN_LIMIT, "{:?}", signalled.elapsed());
    drop((silent, preface_only, stream));

    let superuser = PgPool::connect_with(database.superuser).await.unwrap();
    let created: Vec<String> = sqlx::query_scalar("SELECT slug FROM tenants").fetch_all(&superuser).await.unwrap();
    assert_eq!(created.into_iter().collect::<BTreeSet<_>>(), slugs, "every created tenant was acknowledged");
}
