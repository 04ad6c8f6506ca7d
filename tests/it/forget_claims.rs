//! Claims on request ids have an end: first of the salt that leads back to the secret, then of the claim.

use sqlx::PgPool;
use time::Duration;
use turnkey::{
    domain::{Argon2Setting, KeyMode},
    secrets::{Hasher, HashingSettings},
    service::{Clock, Provisioning},
    store::Store,
};

use crate::{
    fixture::Fixture,
    request_id::{create, sign_up},
};

impl Fixture {
    /// What a server does every minute, so much later.
    async fn forget_claims(&self, after: Duration) {
        let hashing =
            HashingSettings { key: Argon2Setting::KEY, password: Argon2Setting::KEY, workers: 1, queue_length: 1 };
        let provisioning = Provisioning {
            store: Store::new(self.database.server.clone(), 1),
            hasher: Hasher::new(hashing).unwrap(),
            key_mode: KeyMode::Live,
            clock: Clock::new(move || Clock::system().now() + after),
        };
        provisioning.forget_claims().await.unwrap();
    }
}

/// How many claims there are, and how many of them have a salt.
async fn left(hands: &PgPool) -> (i64, i64) {
    sqlx::query_as("SELECT count(*), count(salt) FROM request_claims").fetch_one(hands).await.unwrap()
}

#[tokio::test]
async fn salts_are_forgotten_after_24_hours_and_claims_after_30_days() {
    let fixture = Fixture::start().await;
    fixture.create(create()).await.unwrap();
    fixture.sign_up(sign_up()).await.unwrap();
    let hands = fixture.by_hand().await;
    let after = async |age| {
        fixture.forget_claims(age).await;
        left(&hands).await
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
    let hands = fixture.by_hand().await;
    let copies =
        "INSERT INTO request_claims (caller, rpc, request_hash, fingerprint, salt, tenant_id, key_id, created_at)
                  SELECT caller, rpc, sha256(number::text::bytea), fingerprint, salt, tenant_id, key_id, created_at
                    FROM request_claims CROSS JOIN generate_series(1, 2999) AS number";
    sqlx::query(copies).execute(&hands).await.unwrap();
    assert_eq!(left(&hands).await, (3_000, 3_000));
    fixture.forget_claims(Duration::hours(25)).await;
    assert_eq!(left(&hands).await, (3_000, 0));
    fixture.forget_claims(Duration::days(31)).await;
    assert_eq!(left(&hands).await, (0, 0));
}

#[tokio::test]
async fn one_replica_at_a_time_forgets() {
    let fixture = Fixture::start().await;
    fixture.create(create()).await.unwrap();
    let hands = fixture.by_hand().await;
    let mut other = hands.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(x'636c61696d73'::bigint)").execute(&mut *other).await.unwrap();
    fixture.forget_claims(Duration::days(2)).await;
    assert_eq!(left(&hands).await, (1, 1));
    other.rollback().await.unwrap();
    fixture.forget_claims(Duration::days(2)).await;
    assert_eq!(left(&hands).await, (1, 0));
}

#[tokio::test]
async fn a_purged_tenant_leaves_none() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.create(create()).await.unwrap().tenant.unwrap().id;
    fixture.delete_tenant(&tenant_id).await.unwrap();
    let store = Store::new(fixture.database.server.clone(), 1);
    assert_eq!(store.purge_tenants(Clock::system().now() + Duration::hours(1), 10).await.unwrap(), 1);
    assert_eq!(left(&fixture.by_hand().await).await, (0, 0));
    assert!(!fixture.create(create()).await.unwrap().replayed);
}
