//! Health follows the database.

use std::{collections::HashSet, time::Duration};

use embedded_postgres::{EmbeddedPostgres, Settings};
use nix::sys::signal::Signal;
use tempfile::tempdir_in;
use tokio::task::JoinSet;
use tonic::{Code, Request, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};
use turnkey::{
    grpc::pb::{ListPackagesRequest, tenant_provisioning_client::TenantProvisioningClient},
    store,
};

use crate::{
    cluster::{Cluster, TestDatabase},
    fixture::{Fixture, bella, channel, named, reason},
    process::{Program, turnkey, url},
    proxy::Proxy,
};

const READINESS: [&str; 3] = ["", "turnkey.v1.TenantProvisioning", "turnkey.v1.PackageCatalog"];

async fn client(fixture: &Fixture) -> HealthClient<Channel> {
    HealthClient::new(channel(&fixture.server.address.to_string()).await)
}

async fn status(client: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    client.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner().status()
}

/// Waits until readiness is that.
pub async fn until_it_is(fixture: &Fixture, expected: ServingStatus) {
    let everything = HealthCheckRequest { service: String::new() };
    until(&mut client(fixture).await.watch(everything).await.unwrap().into_inner(), expected).await;
}

async fn until(changes: &mut Streaming<HealthCheckResponse>, expected: ServingStatus) {
    while changes.message().await.unwrap().expect("the stream goes on").status() != expected {}
}

#[tokio::test]
async fn every_name_serves_with_a_database() {
    let fixture = Fixture::start().await;
    fixture.server.readiness().wait_for(|&ready| ready).await.unwrap();
    let mut client = client(&fixture).await;
    for service in READINESS.into_iter().chain(["live"]) {
        assert_eq!(status(&mut client, service).await, ServingStatus::Serving, "{service:?}");
    }
    let unknown = client.check(HealthCheckRequest { service: "nobody".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn a_database_that_goes_and_comes_back_turns_readiness_and_needs_no_restart() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let start = || {
        let root = root.path().join("cluster");
        EmbeddedPostgres::start(Settings { root, pg_bin: None, durable: false, max_connections: 20 })
    };
    let postgres = start().await.unwrap();
    let fixture = Fixture::start_on(TestDatabase::migrated_on(&postgres).await).await;
    let mut client = client(&fixture).await;
    let everything = HealthCheckRequest { service: String::new() };
    let mut changes = client.watch(everything).await.unwrap().into_inner();
    until(&mut changes, ServingStatus::Serving).await;
    fixture.create(bella()).await.unwrap();

    postgres.stop().await.unwrap();
    until(&mut changes, ServingStatus::NotServing).await;
    for service in READINESS {
        assert_eq!(status(&mut client, service).await, ServingStatus::NotServing, "{service:?}");
    }
    assert_eq!(status(&mut client, "live").await, ServingStatus::Serving);
    let failed = fixture.create(named("meanwhile")).await.unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));

    let postgres = start().await.unwrap();
    until(&mut changes, ServingStatus::Serving).await;
    fixture.create(named("afterwards")).await.unwrap();
    assert_eq!(fixture.row_counts().await, [2, 2, 6, 2]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_watcher_is_told_of_changes_only_and_its_stream_does_not_hold_up_a_stop() {
    let fixture = Fixture::start().await;
    fixture.server.readiness().wait_for(|&ready| ready).await.unwrap();
    let mut client = client(&fixture).await;
    let everything = HealthCheckRequest { service: String::new() };
    let mut changes = client.watch(everything).await.unwrap().into_inner();
    let mut told = vec![changes.message().await.unwrap().unwrap().status()];
    let superuser = fixture.superuser_pool().await;
    let mut probed_at = HashSet::new();
    while probed_at.len() < 3 {
        let asked: Vec<String> = sqlx::query_scalar(
            "SELECT query_start::text FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_is_in_recovery%'",
        )
        .fetch_all(&superuser)
        .await
        .unwrap();
        probed_at.extend(asked);
    }
    fixture.server.stop().await;
    // A stream that had to be cut would end with an error.
    while let Some(change) = changes.message().await.expect("the stream ends by itself") {
        told.push(change.status());
    }
    assert_eq!(told, [ServingStatus::Serving, ServingStatus::NotServing]);
}

#[tokio::test]
async fn a_database_that_falls_silent_is_noticed_and_its_dead_lines_are_left_for_new_ones() {
    let database = Cluster::get().migrated().await;
    let proxy = Proxy::start(&database.server).await;
    let fixture = Fixture::start_on(TestDatabase { server: proxy.options(&database.server), ..database }).await;
    let mut client = client(&fixture).await;
    let everything = HealthCheckRequest { service: String::new() };
    let mut changes = client.watch(everything).await.unwrap().into_inner();
    until(&mut changes, ServingStatus::Serving).await;
    let bella = fixture.tenant("bella").await;

    proxy.blackhole();
    // More than there are connections, some in transactions: what waits inside the pool hears the same.
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
    while let Some(failed) = calls.join_next().await {
        let failed = failed.unwrap();
        // Before the probe knows, a full pool is all that can be seen.
        let expected = [(Code::Unavailable, "DATABASE_UNAVAILABLE"), (Code::ResourceExhausted, "OVERLOADED")];
        assert!(expected.contains(&(failed.code(), &reason(&failed))), "{failed:?}");
    }
    until(&mut changes, ServingStatus::NotServing).await;
    let failed = fixture.create(named("meanwhile")).await.unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));

    proxy.restore();
    until(&mut changes, ServingStatus::Serving).await;
    for number in 0..8 {
        fixture.create(named(&format!("afterwards-{number}"))).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_without_the_schema_does_not_serve_until_it_is_migrated() {
    let database = Cluster::get().empty().await;
    let owner = database.owner.clone();
    let fixture = Fixture::start_on(database).await;
    let mut client = client(&fixture).await;
    let everything = HealthCheckRequest { service: String::new() };
    let mut changes = client.watch(everything).await.unwrap().into_inner();
    until(&mut changes, ServingStatus::NotServing).await;
    let failed = fixture.create(bella()).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);

    store::migrate(&owner).await.unwrap();
    until(&mut changes, ServingStatus::Serving).await;
    fixture.create(bella()).await.unwrap();
}

#[tokio::test]
async fn a_read_only_database_does_not_serve() {
    let database = Cluster::get().migrated().await;
    let read_only = "ALTER DATABASE {} SET default_transaction_read_only = on";
    let name = database.superuser.get_database().unwrap();
    crate::cluster::execute(&database.superuser, read_only.replace("{}", name)).await;
    let fixture = Fixture::start_on(database).await;
    let mut client = client(&fixture).await;
    let everything = HealthCheckRequest { service: String::new() };
    until(&mut client.watch(everything).await.unwrap().into_inner(), ServingStatus::NotServing).await;
    let failed = fixture.create(bella()).await.unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_can_be_asked_on_an_address_of_its_own_where_nothing_else_is_served() {
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut program = Program::start(
        turnkey(folder.path())
            .args(["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .env("DATABASE_URL", url(&database.server)),
    );
    let line = program.wait_for("Health is served on");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    program.wait_for(r#""Serving""#);
    let mut client = HealthClient::new(channel(&address).await);
    for name in ["", "live", "turnkey.v1.TenantProvisioning", "turnkey.v1.PackageCatalog"] {
        assert_eq!(status(&mut client, name).await, ServingStatus::Serving, "{name}");
    }
    let mut provisioning = TenantProvisioningClient::new(channel(&address).await);
    let refused = provisioning.create_fully_provisioned(bella()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let healthcheck = turnkey(folder.path()).args(["healthcheck", "--listen", &address]).output().unwrap();
    assert!(healthcheck.status.success());
    program.signal(Signal::SIGTERM);
    assert!(program.wait().success());
}
