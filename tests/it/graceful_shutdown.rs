//! SIGTERM in the middle of work: whoever was let in gets an answer, and nobody can hold up the end.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use sqlx::PgPool;
use tempfile::tempdir_in;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc, task::JoinSet};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use turnkey::grpc::pb::tenant_provisioning_client::TenantProvisioningClient;

use crate::{
    cluster::Cluster,
    fixture::{channel, named},
    process::{Program, serving},
};

const CALLERS: usize = 8;
/// What operators rely on.
const LIMIT: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_finishes_the_calls_in_flight_whatever_other_clients_do() {
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut program = Program::start(&mut serving(folder.path(), &database.server));
    let address = program.address();
    // One never speaks, one stops after the preface, one listens to a stream that has no end of its own.
    let silent = TcpStream::connect(&address).await.unwrap();
    let mut speechless = TcpStream::connect(&address).await.unwrap();
    speechless.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
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
                    Ok(answer) => sender.send(answer.into_inner().tenant.unwrap().slug).unwrap(),
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
    program.signal(Signal::SIGTERM);
    let asked = Instant::now();
    callers.join_all().await;
    while let Some(slug) = answered.recv().await {
        slugs.insert(slug);
    }
    let ended = tokio::task::spawn_blocking(move || program.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(asked.elapsed() < LIMIT, "{:?}", asked.elapsed());
    drop((silent, speechless, stream));

    let superuser = PgPool::connect_with(database.superuser).await.unwrap();
    let made: Vec<String> = sqlx::query_scalar("SELECT slug FROM tenants").fetch_all(&superuser).await.unwrap();
    assert_eq!(made.into_iter().collect::<BTreeSet<_>>(), slugs, "what was made was answered");
}
