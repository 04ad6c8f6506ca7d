//! Expiry of idempotency records: first the salt from which the secret is derived is deleted, later the record.

use sqlx::PgPool;
use time::Duration;
use turnkey::{
    domain::{Actor, Argon2Params, Caller, KeyMode, Quotas},
    secrets::{Hasher, HashingSettings},
    service::{Clock, TenantService},
    store::Store,
};

use crate::support::{
    fixture::Fixture,
    requests::{bella_with_request_id, signup_with_request_id},
};

/// Runs the server's periodic maintenance as if this much time had passed.
async fn delete_expired_records(fixture: &Fixture, after: Duration) {
    let hashing = HashingSettings { key: Argon2Params::KEY, password: Argon2Params::KEY, workers: 1, queue_length: 1 };
    let clock = Clock::new(move || Clock::system().now() + after);
    let store = Store::new(fixture.database.server.clone().into(), 1);
    let service = TenantService::new(store, Hasher::new(hashing).unwrap(), KeyMode::Live, clock, Quotas::DEFAULT);
    service.delete_expired_idempotency_records().await.unwrap();
}

/// Returns the number of records, and of those with a salt.
async fn records_and_salts(superuser: &PgPool) -> (i64, i64) {
    sqlx::query_as("SELECT count(*), count(salt) FROM idempotency_records").fetch_one(superuser).await.unwrap()
}

#[tokio::test]
async fn salts_are_deleted_after_24_hours_and_idempotency_records_after_30_days() {
    let fixture = Fixture::start().await;
    fixture.create(bella_with_request_id()).await.unwrap();
    fixture.sign_up(signup_with_request_id()).await.unwrap();
    let superuser = fixture.superuser_pool().await;
    let after = async |age| {
        delete_expired_records(&fixture, age).await;
        records_and_salts(&superuser).await
    };
    assert_eq!(after(Duration::hours(23)).await, (2, 2));
    assert_eq!(after(Duration::hours(25)).await, (2, 0));
    assert_eq!(after(Duration::days(29)).await, (2, 0));
    assert_eq!(after(Duration::days(31)).await, (0, 0));
}

#[tokio::test]
async fn any_number_of_expired_records_is_deleted_in_one_run() {
    let fixture = Fixture::start().await;
    fixture.create(bella_with_request_id()).await.unwrap();
    let superuser = fixture.superuser_pool().await;
    let copies =
        "INSERT INTO idempotency_records (caller, rpc, request_hash, fingerprint, salt, tenant_id, key_id, created_at)
                  SELECT caller, rpc, sha256(number::text::bytea), fingerprint, salt, tenant_id, key_id, created_at
                    FROM idempotency_records CROSS JOIN generate_series(1, 2999) AS number";
    sqlx::query(copies).execute(&superuser).await.unwrap();
    assert_eq!(records_and_salts(&superuser).await, (3_000, 3_000));
    delete_expired_records(&fixture, Duration::hours(25)).await;
    assert_eq!(records_and_salts(&superuser).await, (3_000, 0));
    delete_expired_records(&fixture, Duration::days(31)).await;
    assert_eq!(records_and_salts(&superuser).await, (0, 0));
}

#[tokio::test]
async fn one_replica_at_a_time_deletes_expired_records() {
    let fixture = Fixture::start().await;
    fixture.create(bella_with_request_id()).await.unwrap();
    let superuser = fixture.superuser_pool().await;
    let mut other = superuser.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(x'636c61696d73'::bigint)").execute(&mut *other).await.unwrap();
    delete_expired_records(&fixture, Duration::days(2)).await;
    assert_eq!(records_and_salts(&superuser).await, (1, 1));
    other.rollback().await.unwrap();
    delete_expired_records(&fixture, Duration::days(2)).await;
    assert_eq!(records_and_salts(&superuser).await, (1, 0));
}

#[tokio::test]
async fn purging_a_tenant_deletes_its_idempotency_records() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.create(bella_with_request_id()).await.unwrap().tenant.unwrap().id;
    fixture.delete_tenant(&tenant_id).await.unwrap();
    let store = Store::new(fixture.database.server.clone().into(), 1);
    assert_eq!(
        store
            .purge_tenants(
                Clock::system().now() + Duration::hours(1),
                10,
                &Actor::command(Caller::cli()),
                Clock::system().now()
            )
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(records_and_salts(&fixture.superuser_pool().await).await, (0, 0));
    assert!(!fixture.create(bella_with_request_id()).await.unwrap().replayed);
}
