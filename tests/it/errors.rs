//! Failures that are nobody's fault in particular.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinSet;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;
use turnkey::{config::ServerSettings, grpc::pb::get_tenant_request::Identifier};

use crate::{
    cluster::{Cluster, TestDatabase},
    fixture::{Fixture, bella, channel, named, reason, settings},
};

#[tokio::test]
async fn an_absent_database_is_unavailable_and_says_when_to_come_back() {
    // Nobody listens on port 1.
    let nowhere = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1).username("x").database("x");
    let database = TestDatabase { owner: nowhere.clone(), server: nowhere.clone(), superuser: nowhere };
    let fixture = Fixture::start_on(database).await;
    let failed = fixture.create(bella()).await.unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    assert!(failed.get_details_retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    assert!(!format!("{failed:?}").contains("127.0.0.1"), "nothing internal reaches a caller");
}

#[tokio::test]
async fn a_lock_held_too_long_is_unavailable_and_a_pool_full_of_waiting_calls_is_overloaded() {
    let settings = ServerSettings { database_max_connections: 4, ..settings() };
    let fixture = Fixture::start_with(Cluster::get().migrated().await, settings).await;
    let superuser = fixture.superuser_pool().await;
    let mut holder = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenants").execute(&mut *holder).await.unwrap();

    let mut calls = JoinSet::new();
    for number in 0..12 {
        let mut client = fixture.provisioning.clone();
        calls.spawn(async move { client.create_fully_provisioned(named(&format!("tenant-{number}"))).await });
    }
    let mut told: Vec<(Code, String)> = Vec::new();
    for answer in calls.join_all().await {
        let failed = answer.unwrap_err();
        assert!(failed.get_details_retry_info().is_some());
        told.push((failed.code(), reason(&failed)));
    }
    told.dedup();
    told.sort_by_key(|(_, reason)| reason.clone());
    told.dedup();
    let expected =
        [(Code::Unavailable, "DATABASE_UNAVAILABLE".to_owned()), (Code::ResourceExhausted, "OVERLOADED".to_owned())];
    assert_eq!(told, expected);

    holder.rollback().await.unwrap();
    assert!(fixture.create(bella()).await.is_ok(), "it recovers");
    assert_eq!(fixture.count("tenants").await, 1);
}

#[tokio::test]
async fn a_call_that_is_cut_off_still_ends_its_work_and_frees_its_connection() {
    let fixture = Fixture::start().await;
    let superuser = fixture.superuser_pool().await;
    let mut holder = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenants").execute(&mut *holder).await.unwrap();
    for number in 0..4 {
        let mut request = Request::new(named(&format!("tenant-{number}")));
        request.set_timeout(Duration::from_millis(50));
        assert!(fixture.provisioning.clone().create_fully_provisioned(request).await.is_err());
    }
    holder.rollback().await.unwrap();
    assert!(fixture.create(bella()).await.is_ok());
    let in_transaction: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
    )
    .fetch_one(&superuser)
    .await
    .unwrap();
    assert_eq!(in_transaction, 0);
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_seen_before_any_work() {
    let fixture = Fixture::start().await;
    let mut request = Request::new(bella());
    request.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
    let failed = fixture.provisioning.clone().create_fully_provisioned(request).await.unwrap_err();
    // The client has a timer of its own, and which of the two is faster is open.
    assert!(matches!(failed.code(), Code::DeadlineExceeded | Code::Cancelled), "{failed:?}");
    assert_eq!(fixture.count("tenants").await, 0);
}

#[tokio::test]
async fn a_text_with_a_nul_is_refused_before_it_reaches_the_database() {
    let fixture = Fixture::start().await;
    let mut request = bella();
    request.name = "Bella\0Weddings".to_owned();
    assert_eq!(fixture.create(request).await.unwrap_err().code(), Code::InvalidArgument);
    let identifier = Identifier::Slug("bella\0".to_owned());
    assert_eq!(fixture.get(identifier).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn beyond_the_bound_on_calls_callers_are_refused_at_once_and_health_goes_on() {
    let settings = ServerSettings { max_concurrent_calls: 1, ..settings() };
    let fixture = Fixture::start_with(Cluster::get().migrated().await, settings).await;
    let mut holder = fixture.superuser_pool().await.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenants").execute(&mut *holder).await.unwrap();
    let mut client = fixture.provisioning.clone();
    let waiting = tokio::spawn(async move { client.create_fully_provisioned(bella()).await });
    // Until it waits for the lock.
    while fixture.count("pg_locks WHERE NOT granted").await == 0 {}

    let refused = fixture.create(named("omers-cafe")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(refused.get_details_retry_info().is_some());
    let mut health = HealthClient::new(channel(&fixture.server.address.to_string()).await);
    let live = HealthCheckRequest { service: "live".to_owned() };
    assert_eq!(health.check(live).await.unwrap().into_inner().status(), ServingStatus::Serving);

    holder.rollback().await.unwrap();
    assert!(waiting.await.unwrap().is_ok());
    assert!(fixture.create(named("omers-cafe")).await.is_ok(), "there is room again");
}
