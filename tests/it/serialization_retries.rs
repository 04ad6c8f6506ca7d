//! Deadlocks and serialization failures: the service retries, and returns ABORTED after the third attempt.

use tonic::Code;
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::UpsertSegmentRequest;

use crate::support::{
    fixture::{Fixture, ONE_TENANT},
    requests::{bella, gold, rotation},
    responses::reason,
};

/// Lets the next statements that change this table fail with this SQLSTATE.
async fn fail_next_statements(fixture: &Fixture, table: &str, sqlstate: &str, failures: u32) {
    let sql = format!(
        "CREATE SEQUENCE attempts;
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             IF nextval('public.attempts') <= {failures} THEN
                 RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = 'injected conflict';
             END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER fail BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fail()"
    );
    fixture.database.execute(sql).await;
}

async fn attempts(fixture: &Fixture) -> i64 {
    sqlx::query_scalar("SELECT last_value FROM attempts").fetch_one(&fixture.superuser_pool().await).await.unwrap()
}

#[tokio::test]
async fn a_create_that_failed_twice_with_a_conflict_succeeds_on_the_third_attempt() {
    for sqlstate in ["40001", "40P01"] {
        let fixture = Fixture::start().await;
        fail_next_statements(&fixture, "packages", sqlstate, 2).await;
        assert!(fixture.create(bella()).await.is_ok());
        assert_eq!((attempts(&fixture).await, fixture.row_counts().await), (3, ONE_TENANT));
    }
}

#[tokio::test]
async fn after_three_conflicts_the_call_is_aborted_with_a_retry_delay() {
    let fixture = Fixture::start().await;
    fail_next_statements(&fixture, "api_keys", "40001", 1_000).await;
    let error = fixture.create(bella()).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Aborted, "CONFLICT"));
    assert!(error.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!((attempts(&fixture).await, fixture.row_counts().await), (3, [0; 4]));
}

#[tokio::test]
async fn every_kind_of_change_is_retried_after_conflicts() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let assert_retried = async || {
        assert!(attempts(&fixture).await >= 3, "it failed twice");
        fixture.database.execute("DROP SEQUENCE attempts; DROP FUNCTION fail CASCADE").await;
    };
    fail_next_statements(&fixture, "tenants", "40P01", 2).await;
    assert!(fixture.suspend_tenant(&tenant.id).await.is_ok());
    assert_retried().await;
    fail_next_statements(&fixture, "api_keys", "40001", 2).await;
    assert!(fixture.try_rotate(rotation(&tenant.id, None)).await.is_ok());
    assert_eq!(fixture.count("api_keys").await, 2);
    assert_retried().await;
    fail_next_statements(&fixture, "packages", "40001", 2).await;
    assert!(fixture.upsert_package(gold(&tenant)).await.is_ok());
    assert_retried().await;
    fail_next_statements(&fixture, "packages", "40P01", 2).await;
    assert!(fixture.delete_package(&tenant.id, &tenant.package_ids[0]).await.is_ok());
    assert_retried().await;
    fail_next_statements(&fixture, "segments", "40001", 2).await;
    let segment = UpsertSegmentRequest {
        tenant_id: tenant.id,
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    assert!(fixture.upsert_segment(segment).await.is_ok());
    assert_retried().await;
}
