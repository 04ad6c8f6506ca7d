//! CallerBehavior that hang up or run out of time in the middle: nothing of theirs stays open in the database.
//!
//! The server has one connection, so that whatever one call leaves on it the next one meets.

use std::{future::pending, time::Duration};

use futures_util::{StreamExt as _, stream};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::{select, task::yield_now};
use tonic::{Code, Request, Status};
use turnkey::{
    config::ServerSettings,
    grpc::pb::{DeletePackageRequest, ListPackagesRequest},
};
use uuid::Uuid;

use crate::{
    cluster::Cluster,
    fixture::{Fixture, NewTenant, named, reason, settings},
    load::{CallerBehavior, Load, Outcome},
    upsert_package::gold,
};

/// A thousand that give up, and to every eight of them one that does not.
const CALLS: usize = 1125;
const AT_ONCE: usize = 8;

async fn start() -> Fixture {
    let settings = ServerSettings { database_max_connections: 1, ..settings() };
    Fixture::start_with(Cluster::get().migrated().await, settings).await
}

fn within<Message>(deadline: Option<Duration>, message: Message) -> Request<Message> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    request
}

/// Four kinds of calls, in turn.
async fn call(fixture: &Fixture, tenant: &NewTenant, number: usize, deadline: Option<Duration>) -> Result<(), Status> {
    let (mut catalog, mut provisioning) = (fixture.catalog.clone(), fixture.provisioning.clone());
    let tenant_id = tenant.id.clone();
    match number % 4 {
        0 => catalog.upsert_package(within(deadline, gold(tenant))).await.map(drop),
        1 => {
            let list = ListPackagesRequest { tenant_id, ..ListPackagesRequest::default() };
            catalog.list_packages(within(deadline, list)).await.map(drop)
        }
        2 => {
            let package_id = tenant.package_ids[number / 4 % tenant.package_ids.len()].clone();
            catalog.delete_package(within(deadline, DeletePackageRequest { tenant_id, package_id })).await.map(drop)
        }
        _ => {
            let create = named(&format!("tenant-{number}"));
            provisioning.create_fully_provisioned(within(deadline, create)).await.map(drop)
        }
    }
}

/// All calls of a run_concurrently through `one`, some at a time.
async fn run_concurrently<One: Future>(one: impl Fn(usize) -> One) -> Vec<One::Output> {
    stream::iter(0..CALLS).map(one).buffer_unordered(AT_ONCE).collect().await
}

/// Work goes on when its caller is gone, and waits in line for the one connection, at most a second. So a first call may
/// hear that the pool is full, but then whatever stood before it has gone, and a second call must succeed.
async fn assert_it_recovers(fixture: &Fixture, tenant: &NewTenant) {
    if let Err(failed) = fixture.upsert(gold(tenant)).await {
        assert_eq!(failed.code(), Code::ResourceExhausted, "{failed:?}");
    }
    fixture.upsert(gold(tenant)).await.unwrap();
    assert_eq!(open_transactions_and_locks(&fixture.superuser_pool().await).await, (0, 0));
}

/// The server's sessions inside a transaction, and its advisory locks.
async fn open_transactions_and_locks(superuser: &PgPool) -> (i64, i64) {
    let sql = "SELECT (SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND state LIKE 'idle in transaction%'),
                      (SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                        WHERE datname = current_database() AND locktype = 'advisory')";
    sqlx::query_as(sql).fetch_one(superuser).await.unwrap()
}

/// These hear what the others leave behind.
const fn is_patient(number: usize) -> bool {
    number % 9 == 8
}

fn assert_no_bug_was_heard(answers: &[Result<(), Status>]) {
    let bug = answers.iter().find(|answer| answer.as_ref().is_err_and(|failed| failed.code() == Code::Internal));
    assert!(bug.is_none(), "{bug:?}");
}

#[tokio::test]
async fn a_thousand_calls_that_run_out_of_time_leave_no_transaction_open() {
    let fixture = start().await;
    let tenant = fixture.tenant("bella").await;
    let answers = run_concurrently(|number| {
        let deadline = (!is_patient(number)).then_some(Duration::from_millis(1));
        call(&fixture, &tenant, number, deadline)
    });
    let answers = answers.await;
    assert_no_bug_was_heard(&answers);
    let is_late = |failed: &Status| matches!(failed.code(), Code::DeadlineExceeded | Code::Cancelled);
    assert!(answers.iter().any(|answer| answer.as_ref().is_err_and(is_late)), "nobody ran out of time");
    assert_it_recovers(&fixture, &tenant).await;
}

#[tokio::test]
async fn a_thousand_calls_that_are_dropped_leave_no_transaction_open() {
    let fixture = start().await;
    let tenant = fixture.tenant("bella").await;
    let answers = run_concurrently(async |number| {
        // Each drops its call a little later than the one before: at once, while it runs, or too late.
        let patience = async {
            for _ in 0..number {
                yield_now().await;
            }
            if is_patient(number) {
                pending::<()>().await;
            }
        };
        select! {
            biased;
            answer = call(&fixture, &tenant, number, None) => Some(answer),
            () = patience => None,
        }
    });
    let heard: Vec<_> = answers.await.into_iter().flatten().collect();
    assert!(heard.len() < CALLS, "some were dropped");
    assert_no_bug_was_heard(&heard);
    assert_it_recovers(&fixture, &tenant).await;
}

/// So many tenants, by callers that hang up or run out of time after some milliseconds and ask again. The pool has one
/// connection.
pub async fn hang_up_under_load(tenants: u64, seed: u64) -> Outcome {
    let fixture = start().await;
    let client = fixture.provisioning.clone();
    let mut load = Load::start_with(AT_ONCE, CallerBehavior::HangsUp { seed }, move || client.clone());
    load.more(tenants).await;
    load.stop(&fixture.database.superuser).await
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_hang_up_and_ask_again_get_one_tenant_each() {
    let seed = rand::random();
    let outcome = hang_up_under_load(200, seed).await;
    assert!(outcome.is_sound() && outcome.failed_tries > 0, "{outcome:?} by seed {seed}");
}

/// Until a call waits for its turn at a tenant's lock.
async fn some_call_waits(superuser: &PgPool) {
    let sql = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                               WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted)";
    while !sqlx::query_scalar::<_, bool>(sql).fetch_one(superuser).await.unwrap() {}
}

/// By hand, the lock at which changes of one tenant's catalog take turns.
async fn hold_tenant_lock(superuser: &PgPool, tenant: &NewTenant) -> PgConnection {
    let key = Uuid::parse_str(&tenant.id).unwrap().as_u64_pair().1.cast_signed();
    let mut holder = superuser.acquire().await.unwrap().detach();
    sqlx::query("SELECT pg_advisory_lock($1)").bind(key).execute(&mut holder).await.unwrap();
    holder
}

#[tokio::test]
async fn a_call_that_is_dropped_at_the_tenants_lock_still_does_its_work() {
    let fixture = start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let superuser = fixture.superuser_pool().await;
    let holder = hold_tenant_lock(&superuser, &tenant).await;
    select! {
        answer = fixture.upsert(gold(&tenant)) => panic!("{answer:?} while another has its turn"),
        () = some_call_waits(&superuser) => {}
    }
    holder.close().await.unwrap();
    // On the one connection, so after it.
    fixture.upsert(gold(&other)).await.unwrap();
    assert_eq!(fixture.count("packages").await, 8);
    assert_eq!(open_transactions_and_locks(&superuser).await, (0, 0));
}

#[tokio::test]
async fn a_call_that_waits_too_long_for_its_turn_leaves_no_failed_transaction() {
    let fixture = start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let superuser = fixture.superuser_pool().await;
    let holder = hold_tenant_lock(&superuser, &tenant).await;
    let failed = fixture.upsert(gold(&tenant)).await.unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    fixture.upsert(gold(&other)).await.unwrap();
    assert!(fixture.package(&tenant, &tenant.package_ids[0]).await.is_ok(), "reading needs no turn");
    holder.close().await.unwrap();
    assert_it_recovers(&fixture, &tenant).await;
}
