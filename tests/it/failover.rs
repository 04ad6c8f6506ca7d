//! Postgres stops, becomes read-only or is replaced by its standby, all under load. No acknowledged tenant is lost, and
//! the service recovers without a restart.

use std::net::TcpListener;

use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    database::{Cluster, SERVER},
    faults::{drop_packets_under_load, promote_standby_under_load, stop_postgres_under_load},
    fixture::Fixture,
    load::Load,
    process::{Process, serve, temp_folder, turnkey},
    replicated_cluster::ReplicatedCluster,
    requests::named,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_tenant_is_lost_when_postgres_stops_immediately_under_load() {
    let seed = rand::random();
    let outcome = stop_postgres_under_load(3, seed).await;
    assert!(outcome.is_sound(), "{outcome:?} with seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_recovers_when_the_primary_becomes_read_only_and_back() {
    let fixture = Fixture::start().await;
    let client = fixture.provisioning.clone();
    let mut load = Load::start(8, move || client.clone());
    load.wait_for_calls(50).await;
    let database = &fixture.database;
    let name = database.name();
    let terminate =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'turnkey' AND datname =";
    // New sessions find a read-only database, as after a failover that left the old primary behind.
    let read_only = "SET default_transaction_read_only = on";
    database.execute(format!("ALTER ROLE {SERVER} IN DATABASE {name} {read_only}")).await;
    database.execute(format!("{terminate} '{name}'")).await;
    fixture.wait_for_readiness(ServingStatus::NotServing).await;
    // The sessions that can only read are not terminated now: the pool must replace them by itself.
    database.execute(format!("ALTER ROLE {SERVER} IN DATABASE {name} RESET ALL")).await;
    load.wait_for_calls(50).await;
    fixture.wait_for_readiness(ServingStatus::Serving).await;
    load.stop_and_assert_sound(&database.superuser).await;
    for number in 0..8 {
        fixture.create(named(&format!("afterwards-{number}"))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_tenant_is_lost_when_the_standby_is_promoted_under_load() {
    let seed = rand::random();
    let outcome = promote_standby_under_load(seed).await;
    assert!(outcome.is_sound() && outcome.failed_attempts > 0, "{outcome:?} with seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_tenant_is_lost_when_the_network_drops_all_packets_under_load() {
    let seed = rand::random();
    let outcome = drop_packets_under_load(1, seed).await;
    assert!(outcome.is_sound() && outcome.failed_attempts > 0, "{outcome:?} with seed {seed}");
}

/// The URL names the standby first, and each command has to find the primary.
#[tokio::test(flavor = "multi_thread")]
async fn with_both_hosts_in_its_url_the_service_follows_the_primary_without_a_proxy() {
    let cluster = ReplicatedCluster::start().await;
    let database = cluster.database().await;
    let folder = temp_folder();
    let url = cluster.url(SERVER);
    let migrated = turnkey(folder.path()).arg("migrate").env("DATABASE_URL", cluster.url("postgres")).status().unwrap();
    assert!(migrated.success());
    let mut server = Process::start(serve(folder.path(), &database.server).env("DATABASE_URL", &url));
    let client = server.provisioning().await;
    let mut load = Load::start(8, move || client.clone());
    load.wait_for_calls(200).await;
    cluster.stop_primary();
    server.wait_for("Not serving");
    cluster.promote_standby();
    server.wait_for(r#""Serving""#);
    load.wait_for_calls(500).await;
    assert!(load.failures().keys().all(|(code, _)| code == "Unavailable"), "{:?}", load.failures());
    load.stop_and_assert_sound(&cluster.superuser(1)).await;
    let found = turnkey(folder.path()).arg("doctor").env("DATABASE_URL", &url).status().unwrap();
    assert!(found.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_never_responds_does_not_keep_the_service_from_another() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let database = Cluster::get().migrated().await.server;
    let socket = std::path::absolute(database.get_socket().unwrap()).unwrap();
    let hosts = format!("{},{}", silent.local_addr().unwrap(), socket.to_str().unwrap().replace('/', "%2F"));
    let url = format!("postgres://{}@{hosts}/{}", database.get_username(), database.get_database().unwrap());
    let folder = temp_folder();
    let mut server = Process::start(serve(folder.path(), &database).env("DATABASE_URL", url));
    server.provisioning().await.create_fully_provisioned(named("bella")).await.unwrap();
}
