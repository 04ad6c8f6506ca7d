//! `last_used_at`: when a key was last used, stored at most once an hour and never by the call that uses it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use time::Duration;
use turnkey::{
    domain::{Argon2Params, KeyMode, KeyVerdict, Quotas},
    grpc::pb::ListPackagesRequest,
    secrets::{Hasher, HashingSettings},
    service::{Clock, TenantService},
    store::Store,
};

use crate::support::{
    fixture::{Fixture, NewTenant},
    requests::{unknown_secret_key, with_bearer},
    tokens::Tokens,
};

/// A replica without a server. It stores the uses of keys only when the test calls it.
struct Replica {
    service: TenantService,
    clock_offset_s: Arc<AtomicI64>,
}

impl Replica {
    fn start(fixture: &Fixture) -> Self {
        let clock_offset_s = Arc::new(AtomicI64::new(0));
        let offset = Arc::clone(&clock_offset_s);
        let clock = Clock::new(move || Clock::system().now() + Duration::seconds(offset.load(Ordering::Relaxed)));
        let hashing =
            HashingSettings { key: Argon2Params::KEY, password: Argon2Params::KEY, workers: 1, queue_length: 1 };
        let (store, hasher) = (Store::new(fixture.database.server.clone().into(), 1), Hasher::new(hashing).unwrap());
        let service = TenantService::new(store, hasher, KeyMode::Live, clock, Quotas::DEFAULT);
        Self { service, clock_offset_s }
    }

    async fn verify(&self, secret_key: &str) -> KeyVerdict {
        self.service.verify_api_key(secret_key.to_owned().into()).await.unwrap()
    }

    fn advance_clock(&self, time: Duration) {
        self.clock_offset_s.fetch_add(time.whole_seconds(), Ordering::Relaxed);
    }
}

/// How often the rows of keys have been updated.
async fn updates(fixture: &Fixture) -> i64 {
    // The number of the transaction that wrote the row changes with every update.
    let sql = "SELECT sum(xmin::text::bigint)::bigint FROM api_keys";
    sqlx::query_scalar(sql).fetch_one(&fixture.superuser_pool().await).await.unwrap()
}

async fn last_used_at(fixture: &Fixture, tenant: &NewTenant) -> Option<prost_types::Timestamp> {
    fixture.keys(&tenant.id).await[0].last_used_at
}

#[tokio::test]
async fn a_use_is_stored_after_the_call_and_then_at_most_once_an_hour() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let (replica, other) = (Replica::start(&fixture), Replica::start(&fixture));
    let before = updates(&fixture).await;
    for replica in [&replica, &other] {
        replica.verify(&tenant.secret_key).await;
        replica.verify(&tenant.secret_key).await;
    }
    assert_eq!(updates(&fixture).await, before, "a verification writes nothing");
    replica.service.store_key_uses().await.unwrap();
    let stored = updates(&fixture).await;
    assert_ne!(stored, before);
    let first = last_used_at(&fixture, &tenant).await.unwrap();

    // The other replica has noted the same use, and both see more uses within the hour.
    for replica in [&replica, &other] {
        replica.service.store_key_uses().await.unwrap();
        replica.verify(&tenant.secret_key).await;
        replica.advance_clock(Duration::minutes(59));
        replica.verify(&tenant.secret_key).await;
        replica.service.store_key_uses().await.unwrap();
    }
    assert_eq!(updates(&fixture).await, stored);

    replica.advance_clock(Duration::minutes(2));
    replica.verify(&tenant.secret_key).await;
    replica.service.store_key_uses().await.unwrap();
    let second = last_used_at(&fixture, &tenant).await.unwrap();
    assert!((3_600..3_800).contains(&(second.seconds - first.seconds)), "{first} {second}");
}

#[tokio::test]
async fn only_a_valid_key_counts_as_used() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let replica = Replica::start(&fixture);
    replica.verify(&unknown_secret_key(&tenant.public_key)).await;
    fixture.suspend_tenant(&tenant.id).await.unwrap();
    replica.verify(&tenant.secret_key).await;
    replica.service.store_key_uses().await.unwrap();
    assert_eq!(last_used_at(&fixture, &tenant).await, None);
}

#[tokio::test]
async fn the_use_of_an_old_key_is_stored() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant_with_legacy_key("bella-weddings").await;
    let replica = Replica::start(&fixture);
    replica.verify(&tenant.secret_key).await;
    replica.service.store_key_uses().await.unwrap();
    assert!(last_used_at(&fixture, &tenant).await.is_some());
}

#[tokio::test]
async fn a_key_that_another_transaction_changes_is_skipped_without_waiting() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella-weddings").await, fixture.tenant("omers-cafe").await);
    let replica = Replica::start(&fixture);
    replica.verify(&tenant.secret_key).await;
    replica.verify(&other.secret_key).await;
    let superuser = fixture.superuser_pool().await;
    let mut holder = superuser.begin().await.unwrap();
    let lock = "SELECT FROM api_keys WHERE tenant_id = $1::uuid FOR UPDATE";
    sqlx::query(lock).bind(&tenant.id).execute(&mut *holder).await.unwrap();
    replica.service.store_key_uses().await.unwrap();
    holder.rollback().await.unwrap();
    assert_eq!(last_used_at(&fixture, &tenant).await, None);
    assert!(last_used_at(&fixture, &other).await.is_some());
    replica.verify(&tenant.secret_key).await;
    replica.service.store_key_uses().await.unwrap();
    assert!(last_used_at(&fixture, &tenant).await.is_some(), "its next use");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_stores_the_use_of_a_key_as_a_credential() {
    let open = Fixture::start().await;
    let tenant = open.tenant("bella-weddings").await;
    let closed = Fixture::start_with(open.database.clone(), Tokens::new().settings()).await;
    let request = ListPackagesRequest { tenant_id: tenant.id.clone(), ..ListPackagesRequest::default() };
    closed.catalog.clone().list_packages(with_bearer(request, Some(&tenant.secret_key))).await.unwrap();
    while last_used_at(&open, &tenant).await.is_none() {
        tokio::task::yield_now().await;
    }
}
