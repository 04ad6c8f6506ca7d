//! Postgres stops, becomes read-only or is replaced by its standby, all under load. No acknowledged tenant is lost, and the
//! service recovers without a restart.

use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    database::SERVER,
    faults::{drop_packets_under_load, promote_standby_under_load, stop_postgres_under_load},
    fixture::Fixture,
    load::Load,
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
