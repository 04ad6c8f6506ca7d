//! Faults under load, of any number and size: the tests run each of them for seconds, `make soak` for minutes. A seed
//! determines when the fault happens.

use std::{path::Path, process::Command};

use embedded_postgres::{EmbeddedPostgres, Settings};
use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{net::TcpStream, sync::watch, task::JoinSet};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use turnkey::grpc::pb::{VerifyApiKeyRequest, tenant_provisioning_client::TenantProvisioningClient};

use super::{
    database::{Cluster, TestDatabase, pg_bin, postmaster_pid},
    fixture::{Fixture, one_connection, settings},
    http2::reset_streams,
    load::{CallerBehavior, Client, Load, Outcome},
    process::{Process, serve, temp_folder},
    process_memory::memory_kib,
    proxy::{Cut, Proxy},
    replicated_cluster::ReplicatedCluster,
    requests::{signup, unknown_secret_key},
};

const CALLERS: usize = 8;

/// A part of the statement that creates tenants.
pub const PROVISIONING_SQL: &str = "new_tenant AS";

fn start_load(fixture: &Fixture) -> Load {
    let client = fixture.provisioning.clone();
    Load::start(CALLERS, move || client.clone())
}

/// Kills the server with `SIGKILL` and starts another one.
pub async fn kill_server_under_load(kills: u32, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let start = || {
        let mut server = Process::start(&mut serve(folder.path(), &database.server));
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
        (server, Client::new(endpoint.connect_lazy()))
    };
    let (mut server, client) = start();
    let (sender, client) = watch::channel(client);
    let mut load = Load::start(CALLERS, move || client.borrow().clone());
    for _ in 0..kills {
        load.wait_for_calls(random.random_range(1..60)).await;
        server.signal(Signal::SIGKILL);
        let (next_server, client) = start();
        server = next_server;
        sender.send_replace(client);
    }
    load.wait_for_calls(60).await;
    load.stop(&database.superuser).await
}

/// Stops Postgres immediately: no checkpoint, connections are cut. Its supervisor starts it again.
pub async fn stop_postgres_under_load(stops: u32, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = temp_folder();
    let root = folder.path().join("cluster");
    let settings = Settings { root: root.clone(), pg_bin: pg_bin(), durable: true, max_connections: 50 };
    let postgres = EmbeddedPostgres::start(settings).await.unwrap();
    let fixture = Fixture::start_on(TestDatabase::migrated_on(&postgres).await).await;
    let mut load = start_load(&fixture);
    for _ in 0..stops {
        load.wait_for_calls(random.random_range(1..100)).await;
        let pid = postmaster_pid(&root).unwrap().to_string();
        assert!(Command::new("kill").args(["-QUIT", &pid]).status().unwrap().success());
        load.wait_for_calls(50).await;
    }
    let unavailable = ("Unavailable".to_owned(), "the database is unavailable".to_owned());
    assert!(load.failures().contains_key(&unavailable), "{:?}", load.failures());
    let outcome = load.stop(&fixture.database.superuser).await;
    postgres.stop().await.unwrap();
    outcome
}

/// Starts a server behind a proxy and waits until its probe has finished: the probe uses a transaction too, and an
/// injected fault must not hit it.
pub async fn start_ready_behind_proxy() -> (Fixture, Proxy) {
    let (fixture, proxy) = Fixture::behind_proxy(settings()).await;
    fixture.wait_for_readiness(ServingStatus::Serving).await;
    (fixture, proxy)
}

/// Cuts the connection to Postgres before a statement or before its response.
pub async fn cut_connections_under_load(cuts: u32, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let (fixture, proxy) = start_ready_behind_proxy().await;
    let mut load = start_load(&fixture);
    for _ in 0..cuts {
        proxy.inject(PROVISIONING_SQL, if random.random() { Cut::BeforeResponse } else { Cut::BeforeStatement });
        while !proxy.was_triggered() {
            load.wait_for_calls(1).await;
        }
        load.wait_for_calls(random.random_range(1..16)).await;
    }
    load.stop(&fixture.database.superuser).await
}

/// Drops all packets between server and Postgres until the server reports that it is not ready.
pub async fn drop_packets_under_load(times: u32, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let (fixture, proxy) = Fixture::behind_proxy(settings()).await;
    let mut load = start_load(&fixture);
    for _ in 0..times {
        load.wait_for_calls(random.random_range(1..100)).await;
        proxy.blackhole();
        fixture.wait_for_readiness(ServingStatus::NotServing).await;
        proxy.restore();
        load.wait_for_calls(50).await;
    }
    load.stop(&fixture.database.superuser).await
}

/// Stops the primary immediately and promotes its synchronous standby.
pub async fn promote_standby_under_load(seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = ReplicatedCluster::start().await;
    let database = cluster.database().await;
    // The proxy takes the place of a host name that moves.
    let proxy = Proxy::start(&database.server).await;
    let server = proxy.options(&database.server);
    let fixture = Fixture::start_on(TestDatabase { server, ..database }).await;
    let mut load = start_load(&fixture);
    load.wait_for_calls(random.random_range(200..800)).await;
    cluster.stop_primary();
    fixture.wait_for_readiness(ServingStatus::NotServing).await;
    cluster.promote_standby();
    proxy.redirect_to(&cluster.superuser(1));
    load.wait_for_calls(500).await;
    assert!(load.failures().keys().all(|(code, _)| code == "Unavailable"), "{:?}", load.failures());
    load.stop(&cluster.superuser(1)).await
}

/// Callers disconnect or reach their deadline after some milliseconds, and try again, until this many tenants were
/// created. The pool has a single connection.
pub async fn disconnect_under_load(tenants: u64, seed: u64) -> Outcome {
    let fixture = Fixture::with_settings(one_connection()).await;
    let client = fixture.provisioning.clone();
    let mut load = Load::start_with(CALLERS, CallerBehavior::Disconnects { seed }, move || client.clone());
    load.wait_for_calls(tenants).await;
    load.stop(&fixture.database.superuser).await
}

/// Floods the server with wrong keys, sign-ups, idle sockets and streams that are reset at once, until this many
/// tenants were created. Also returns the server's peak memory in KiB.
pub async fn flood_under_load(tenants: u64) -> (Outcome, u64) {
    let folder = temp_folder();
    let (server, address, database) = start_server(folder.path()).await;
    let client = TenantProvisioningClient::new(super::fixture::channel(&address).await);
    let calling = client.clone();
    let mut load = Load::start(CALLERS, move || calling.clone());
    load.wait_for_calls(1).await;
    let mut floods = JoinSet::new();
    for number in 0..16 {
        floods.spawn(verify_wrong_keys(client.clone()));
        floods.spawn(sign_up_repeatedly(client.clone(), number));
    }
    floods.spawn(open_sockets(address.clone()));
    floods.spawn(reset_streams_repeatedly(address));
    load.wait_for_calls(tenants).await;
    floods.shutdown().await;
    let peak_kib = memory_kib(server.pid(), "VmHWM").unwrap();
    (load.stop(&database.superuser).await, peak_kib)
}

/// Starts a server in its own process, whose memory can be measured.
pub async fn start_server(folder: &Path) -> (Process, String, TestDatabase) {
    let database = Cluster::get().migrated().await;
    let mut server = Process::start(&mut serve(folder, &database.server));
    let address = server.address();
    (server, address, database)
}

// The responses to a flood do not matter here.

async fn verify_wrong_keys(mut client: TenantProvisioningClient<Channel>) {
    let secret_key = unknown_secret_key("pk_live_nobody_0000000000000000");
    loop {
        let _ = client.verify_api_key(VerifyApiKeyRequest { secret_key: secret_key.clone() }).await;
    }
}

async fn sign_up_repeatedly(mut client: TenantProvisioningClient<Channel>, flood: u32) {
    for number in 0.. {
        let _ = client.create_from_signup(signup("Flood", &format!("flood-{flood}-{number}@example.com"))).await;
    }
}

async fn open_sockets(address: String) {
    loop {
        let mut sockets = Vec::new();
        for _ in 0..500 {
            sockets.extend(TcpStream::connect(&address).await);
        }
    }
}

async fn reset_streams_repeatedly(address: String) {
    loop {
        let _ = reset_streams(&address, 2_000).await;
    }
}
