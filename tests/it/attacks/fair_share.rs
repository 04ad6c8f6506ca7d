//! One tenant, or a caller without a tenant, that makes more calls than its share.

use h2::client::Builder;
use tonic::Code;

use super::{
    attackers::{concurrent_batches, invented_keys, packages_without_end},
    call::{Call, CallEnd},
    observation::assert_withstands,
    rpcs::{self, BATCH_UPSERT_PACKAGES},
    target::{Protocol, Target},
};

/// Database connections of one tenant.
const MAX_CONNECTIONS: i64 = 2;
/// Packages of one tenant, contract 4.
const MAX_PACKAGES: i64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_concurrent_batches_of_one_tenant_leave_connections_for_other_callers() {
    let target = Target::start(Protocol::Plaintext).await;
    let ends = assert_withstands(&target, concurrent_batches).await;
    assert!(ends.contains_key("Ok"), "{ends:?}");
    target.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batches_of_one_tenant_wait_in_the_server_and_not_in_the_database() {
    let target = Target::start(Protocol::Plaintext).await;
    let mut attack = concurrent_batches(&target);
    attack.wait_until_in_position().await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'";
    while attack.ended(&CallEnd::Status(Code::Ok)) < 10 {
        // Both, for the moment in which a call has released the lock and the waiting one does not have it yet.
        assert!(target.count(waiting).await <= MAX_CONNECTIONS);
    }
    attack.stop().await;
    target.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_keys_crowd_out_no_known_caller() {
    let target = Target::start(Protocol::Plaintext).await;
    let ends = assert_withstands(&target, invented_keys).await;
    assert!(!ends.contains_key("Ok"), "{ends:?}");
    target.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_creates_packages_without_end_reaches_its_quota() {
    let target = Target::start(Protocol::Plaintext).await;
    let ends = assert_withstands(&target, packages_without_end).await;
    assert!(ends.contains_key("Ok"), "{ends:?}");
    // The attack may have ended before the quota was reached.
    let message = rpcs::batch_of_new_packages(&target.attacker.id, 200);
    let batch = Call::complete(BATCH_UPSERT_PACKAGES, Some(&target.attacker.secret_key), &message);
    let connection = target.service.http2(&Builder::new()).await.unwrap();
    for _ in 0..=MAX_PACKAGES / 200 {
        batch.make(connection.requests.clone(), ()).await;
    }
    assert_eq!(batch.make(connection.requests.clone(), ()).await, CallEnd::Status(Code::ResourceExhausted));
    let count = "SELECT count(*) FROM packages JOIN tenants ON tenants.id = tenant_id WHERE tenants.slug = 'attacker'";
    assert!(target.count(count).await <= MAX_PACKAGES);
    target.stop();
}
