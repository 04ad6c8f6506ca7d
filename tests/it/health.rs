//! Health reports whether the database is usable.

use std::{collections::HashSet, time::Duration};

use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tonic::{Code, Request, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};
use turnkey::{
    grpc::pb::{ListPackagesRequest, tenant_provisioning_client::TenantProvisioningClient},
    store,
};

use crate::support::{
    database::{Cluster, TestDatabase, start_own_postgres},
    fixture::{Fixture, channel, settings},
    process::{Process, database_url, temp_folder, turnkey},
    requests::{bella, named},
    responses::reason,
};

const READINESS: [&str; 3] = ["", "turnkey.v1.TenantProvisioning", "turnkey.v1.PackageCatalog"];

async fn status(client: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    client.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner().status()
}

async fn watch(client: &mut HealthClient<Channel>) -> Streaming<HealthCheckResponse> {
    client.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner()
}

/// Reads the stream until it reports this status.
async fn wait_for_status(changes: &mut Streaming<HealthCheckResponse>, expected: ServingStatus) {
    while changes.message().await.unwrap().expect("the stream continues").status() != expected {}
}

#[tokio::test]
async fn every_health_name_is_serving_with_a_database() {
    let fixture = Fixture::start().await;
    fixture.server.readiness().wait_for(|&ready| ready).await.unwrap();
    let mut client = fixture.health().await;
    for service in READINESS.into_iter().chain(["live"]) {
        assert_eq!(status(&mut client, service).await, ServingStatus::Serving, "{service:?}");
    }
    let unknown = client.check(HealthCheckRequest { service: "unknown".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn a_watch_of_an_unknown_name_reports_it_and_stays_open_until_the_server_stops() {
    let fixture = Fixture::start().await;
    let mut client = fixture.health().await;
    let unknown = HealthCheckRequest { service: "unknown".to_owned() };
    let mut changes = client.watch(unknown).await.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let mut live = client.watch(HealthCheckRequest { service: "live".to_owned() }).await.unwrap().into_inner();
    assert_eq!(live.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    fixture.server.stop().await;
    for stream in [&mut changes, &mut live] {
        assert_eq!(stream.message().await.unwrap(), None, "the server ends the stream");
    }
}

#[tokio::test]
async fn readiness_follows_a_database_that_stops_and_starts_again() {
    let root = temp_folder();
    let postgres = start_own_postgres(root.path()).await;
    let fixture = Fixture::start_on(TestDatabase::migrated_on(&postgres).await).await;
    let mut client = fixture.health().await;
    let mut changes = watch(&mut client).await;
    wait_for_status(&mut changes, ServingStatus::Serving).await;
    fixture.create(bella()).await.unwrap();

    postgres.stop().await.unwrap();
    wait_for_status(&mut changes, ServingStatus::NotServing).await;
    for service in READINESS {
        assert_eq!(status(&mut client, service).await, ServingStatus::NotServing, "{service:?}");
    }
    assert_eq!(status(&mut client, "live").await, ServingStatus::Serving);
    let error = fixture.create(named("meanwhile")).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));

    let postgres = start_own_postgres(root.path()).await;
    wait_for_status(&mut changes, ServingStatus::Serving).await;
    fixture.create(named("afterwards")).await.unwrap();
    assert_eq!(fixture.row_counts().await, [2, 2, 6, 2]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_health_watcher_receives_only_changes_and_does_not_delay_the_shutdown() {
    let fixture = Fixture::start().await;
    fixture.server.readiness().wait_for(|&ready| ready).await.unwrap();
    let mut client = fixture.health().await;
    let mut changes = watch(&mut client).await;
    let mut statuses = vec![changes.message().await.unwrap().unwrap().status()];
    let superuser = fixture.superuser_pool().await;
    let mut probed_at = HashSet::new();
    while probed_at.len() < 3 {
        let started: Vec<String> = sqlx::query_scalar(
            "SELECT query_start::text FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_is_in_recovery%'",
        )
        .fetch_all(&superuser)
        .await
        .unwrap();
        probed_at.extend(started);
    }
    fixture.server.stop().await;
    // A stream that is not ended by the server ends with an error.
    while let Some(change) = changes.message().await.expect("the server ends the stream") {
        statuses.push(change.status());
    }
    assert_eq!(statuses, [ServingStatus::Serving, ServingStatus::NotServing]);
}

#[tokio::test]
async fn a_network_that_drops_all_packets_is_noticed_and_dead_connections_are_replaced() {
    let (fixture, proxy) = Fixture::behind_proxy(settings()).await;
    let mut client = fixture.health().await;
    let mut changes = watch(&mut client).await;
    wait_for_status(&mut changes, ServingStatus::Serving).await;
    let bella = fixture.tenant("bella").await;

    proxy.blackhole();
    // More calls than connections, some of them in transactions. Calls that wait for the pool get the same errors.
    let mut calls = JoinSet::new();
    for number in 0..12 {
        let (mut provisioning, mut catalog) = (fixture.provisioning.clone(), fixture.catalog.clone());
        let tenant_id = bella.id.clone();
        calls.spawn(async move {
            let limit = Duration::from_secs(10);
            if number % 2 == 0 {
                let mut request = Request::new(named(&format!("tenant-{number}")));
                request.set_timeout(limit);
                provisioning.create_fully_provisioned(request).await.unwrap_err()
            } else {
                let mut request = Request::new(ListPackagesRequest { tenant_id, ..Default::default() });
                request.set_timeout(limit);
                catalog.list_packages(request).await.unwrap_err()
            }
        });
    }
    while let Some(error) = calls.join_next().await {
        let error = error.unwrap();
        // Until the probe has noticed, the pool only appears exhausted.
        let expected = [(Code::Unavailable, "DATABASE_UNAVAILABLE"), (Code::ResourceExhausted, "OVERLOADED")];
        assert!(expected.contains(&(error.code(), &reason(&error))), "{error:?}");
    }
    wait_for_status(&mut changes, ServingStatus::NotServing).await;
    let error = fixture.create(named("meanwhile")).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));

    proxy.restore();
    wait_for_status(&mut changes, ServingStatus::Serving).await;
    for number in 0..8 {
        fixture.create(named(&format!("afterwards-{number}"))).await.unwrap();
    }
}

#[tokio::test]
async fn the_service_is_not_ready_until_the_database_is_migrated() {
    let database = Cluster::get().empty().await;
    let owner = database.owner.clone();
    let fixture = Fixture::start_on(database).await;
    let mut client = fixture.health().await;
    let mut changes = watch(&mut client).await;
    wait_for_status(&mut changes, ServingStatus::NotServing).await;
    let error = fixture.create(bella()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);

    store::migrate(&owner.into()).await.unwrap();
    wait_for_status(&mut changes, ServingStatus::Serving).await;
    fixture.create(bella()).await.unwrap();
}

#[tokio::test]
async fn the_service_is_not_ready_on_a_read_only_database() {
    let database = Cluster::get().migrated().await;
    database.execute(format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name())).await;
    let fixture = Fixture::start_on(database).await;
    let _client = fixture.health().await;
    fixture.wait_for_readiness(ServingStatus::NotServing).await;
    let error = fixture.create(bella()).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_separate_health_address_serves_health_and_nothing_else() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(
        turnkey(folder.path())
            .args(["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .env("DATABASE_URL", database_url(&database.server)),
    );
    let line = process.wait_for_json("Health is served on");
    let address = line["address"].as_str().unwrap().to_owned();
    process.wait_for(r#""Serving""#);
    let mut client = HealthClient::new(channel(&address).await);
    for name in ["", "live", "turnkey.v1.TenantProvisioning", "turnkey.v1.PackageCatalog"] {
        assert_eq!(status(&mut client, name).await, ServingStatus::Serving, "{name}");
    }
    let mut provisioning = TenantProvisioningClient::new(channel(&address).await);
    let error = provisioning.create_fully_provisioned(bella()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    let healthcheck = turnkey(folder.path()).args(["healthcheck", "--listen", &address]).output().unwrap();
    assert!(healthcheck.status.success());
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
}
