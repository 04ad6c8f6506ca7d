//! Failures of the environment: an unreachable database, locks, deadlines, an exhausted pool.

use std::time::Duration;

use tokio::task::JoinSet;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_types::StatusExt as _;
use turnkey::{config::ServerSettings, grpc::pb::get_tenant_request::Identifier};

use crate::support::{
    database::TestDatabase,
    fixture::{Fixture, settings},
    requests::{bella, named},
    responses::reason,
};

#[tokio::test]
async fn an_unreachable_database_is_unavailable_with_a_retry_delay() {
    let fixture = Fixture::start_on(TestDatabase::unreachable()).await;
    let error = fixture.create(bella()).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    assert!(error.get_details_retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    assert!(!format!("{error:?}").contains("127.0.0.1"), "no internal detail may reach the client");
}

#[tokio::test]
async fn a_lock_timeout_is_unavailable_and_an_exhausted_pool_is_overloaded() {
    let settings = ServerSettings { database_max_connections: 4, ..settings() };
    let fixture = Fixture::with_settings(settings).await;
    let superuser = fixture.superuser_pool().await;
    let mut holder = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenants").execute(&mut *holder).await.unwrap();

    let mut calls = JoinSet::new();
    for number in 0..12 {
        let mut client = fixture.provisioning.clone();
        calls.spawn(async move { client.create_fully_provisioned(named(&format!("tenant-{number}"))).await });
    }
    let mut errors: Vec<(Code, String)> = Vec::new();
    for response in calls.join_all().await {
        let error = response.unwrap_err();
        assert!(error.get_details_retry_info().is_some());
        errors.push((error.code(), reason(&error)));
    }
    errors.dedup();
    errors.sort_by_key(|(_, reason)| reason.clone());
    errors.dedup();
    let expected =
        [(Code::Unavailable, "DATABASE_UNAVAILABLE".to_owned()), (Code::ResourceExhausted, "OVERLOADED".to_owned())];
    assert_eq!(errors, expected);

    holder.rollback().await.unwrap();
    assert!(fixture.create(bella()).await.is_ok(), "the service recovers");
    assert_eq!(fixture.count("tenants").await, 1);
}

#[tokio::test]
async fn a_call_past_its_deadline_still_finishes_its_work_and_frees_its_connection() {
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
async fn an_expired_deadline_is_noticed_before_any_work() {
    let fixture = Fixture::start().await;
    let mut request = Request::new(bella());
    request.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
    let error = fixture.provisioning.clone().create_fully_provisioned(request).await.unwrap_err();
    // The client has its own timer, and either of the two may be faster.
    assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled), "{error:?}");
    assert_eq!(fixture.count("tenants").await, 0);
}

#[tokio::test]
async fn a_nul_character_is_rejected_before_it_reaches_the_database() {
    let fixture = Fixture::start().await;
    let mut request = bella();
    request.name = "Bella\0Weddings".to_owned();
    assert_eq!(fixture.create(request).await.unwrap_err().code(), Code::InvalidArgument);
    let identifier = Identifier::Slug("bella\0".to_owned());
    assert_eq!(fixture.get(identifier).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn calls_above_the_concurrency_limit_are_rejected_at_once_and_health_checks_are_not() {
    let settings = ServerSettings { max_concurrent_calls: 1, ..settings() };
    let fixture = Fixture::with_settings(settings).await;
    let mut holder = fixture.superuser_pool().await.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenants").execute(&mut *holder).await.unwrap();
    let mut client = fixture.provisioning.clone();
    let waiting = tokio::spawn(async move { client.create_fully_provisioned(bella()).await });
    // Wait until the call is blocked by the lock.
    while fixture.count("pg_locks WHERE NOT granted").await == 0 {}

    let error = fixture.create(named("omers-cafe")).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(error.get_details_retry_info().is_some());
    assert_eq!(error.metadata().get("grpc-retry-pushback-ms").unwrap(), "200");
    let mut health = fixture.health().await;
    let live = HealthCheckRequest { service: "live".to_owned() };
    assert_eq!(health.check(live).await.unwrap().into_inner().status(), ServingStatus::Serving);

    holder.rollback().await.unwrap();
    assert!(waiting.await.unwrap().is_ok());
    assert!(fixture.create(named("omers-cafe")).await.is_ok(), "the permit is free again");
}
