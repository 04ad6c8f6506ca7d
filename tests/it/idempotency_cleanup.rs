//! Claims on request ids have an end: first of the salt that leads back to the secret, then of the claim.

use sqlx::PgPool;
use time::Duration;
use turnkey::{
    domain::{Argon2Params, KeyMode},
    secrets::{Hasher, HashingSettings},
    service::{Clock, TenantService},
    store::Store,
};

use crate::{
    fixture::Fixture,
    request_id::{create, sign_up},
};

impl Fixture {
    /// What a server does every minute, so much later.
    async fn delete_expired_idempotency_records(&self, after: Duration) {
        let hashing =
            HashingSettings { key: Argon2Params::KEY, password: Argon2Params::KEY, workers: 1, queue_length: 1 };
        let clock = Clock::new(move || Clock::system().now() + after);
        let store = Store::new(self.database.server.clone(), 1);
        let provisioning = TenantService::new(store, Hasher::new(hashing).unwrap(), KeyMode::Live, clock);
        provisioning.delete_expired_idempotency_records().await.unwrap();
    }
}

/// How many claims there are, and how many of them have a salt.
async fn left(superuser: &PgPool) -> (i64, i64) {
    sqlx::query_as("SELECT count(*), count(salt) FROM idempotency_records").fetch_one(superuser).await.unwrap()
}

#[tokio::test]
async fn salts_are_forgotten_after_24_hours_and_claims_after_30_days() {
    let fixture = Fixture::start().await;
    fixture.create(create()).await.unwrap();
    fixture.sign_up(sign_up()).await.unwrap();
    let superuser = fixture.superuser_pool().await;
    let after = async |age| {
        fixture.delete_expired_idempotency_records(age).await;
        left(&superuser).await
    };
    assert_eq!(after(Duration::hours(23)).await, (2, 2));
    assert_eq!(after(Duration::hours(25)).await, (2, 0));
    assert_eq!(after(Duration::days(29)).await, (2, 0));
    assert_eq!(after(Duration::days(31)).await, (0, 0));
}

#[tokio::test]
async fn all_are_forgotten_however_many_came_due_at_once() {
    let fixture = Fixture::start().await;
    fixture.create(create()).await.unwrap();
    let superuser = fixture.superuser_pool().await;
    let copies =
        "INSERT INTO idempotency_records (caller, rpc, request_hash, fingerprint, salt, tenant_id, key_id, created_at)
                  SELECT caller, rpc, sha256(number::text::bytea), fingerprint, salt, tenant_id, key_id, created_at
                    FROM idempotency_records CROSS JOIN generate_series(1, 2999) AS number";
    sqlx::query(copies).execute(&superuser).await.unwrap();
    assert_eq!(left(&superuser).await, (3_000, 3_000));
    fixture.delete_expired_idempotency_records(Duration::hours(25)).await;
    assert_eq!(left(&superuser).await, (3_000, 0));
    fixture.delete_expired_idempotency_records(Duration::days(31)).await;
    assert_eq!(left(&superuser).await, (0, 0));
}

#[tokio::test]
async fn one_replica_at_a_time_forgets() {
    let fixture = Fixture::start().await;
    fixture.create(create()).await.unwrap();
    let superuser = fixture.superuser_pool().await;
    let mut other = superuser.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(x'636c61696d73'::bigint)").execute(&mut *other).await.unwrap();
    fixture.delete_expired_idempotency_records(Duration::days(2)).await;
    assert_eq!(left(&superuser).await, (1, 1));
    other.rollback().await.unwrap();
    fixture.delete_expired_idempotency_records(Duration::days(2)).await;
    assert_eq!(left(&superuser).await, (1, 0));
}

#[tokio::test]
async fn a_purged_tenant_leaves_none() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.create(create()).await.unwrap().tenant.unwrap().id;
    fixture.delete_tenant(&tenant_id).await.unwrap();
    let store = Store::new(fixture.database.server.clone(), 1);
    assert_eq!(store.purge_tenants(Clock::system().now() + Duration::hours(1), 10).await.unwrap(), 1);
    assert_eq!(left(&fixture.superuser_pool().await).await, (0, 0));
    assert!(!fixture.create(create()).await.unwrap().replayed);
}
