//! Calls that are dropped or that reach their deadline: they leave no transaction and no lock open in the database.
//!
//! The pool has a single connection, so that the next call gets what a dropped call has left on it.

use std::{future::pending, time::Duration};

use futures_util::{StreamExt as _, stream};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::{select, task::yield_now};
use tonic::{Code, Request, Status};
use turnkey::grpc::pb::{DeletePackageRequest, ListPackagesRequest};
use uuid::Uuid;

use crate::support::{
    faults::disconnect_under_load,
    fixture::{Fixture, NewTenant, one_connection},
    requests::{gold, named},
    responses::reason,
};

/// Of nine calls, eight are abandoned and one is awaited.
const CALLS: usize = 1125;
const CONCURRENCY: usize = 8;

async fn start() -> Fixture {
    Fixture::with_settings(one_connection()).await
}

fn with_deadline<Message>(deadline: Option<Duration>, message: Message) -> Request<Message> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    request
}

/// One of four kinds of calls.
async fn call(fixture: &Fixture, tenant: &NewTenant, number: usize, deadline: Option<Duration>) -> Result<(), Status> {
    let (mut catalog, mut provisioning) = (fixture.catalog.clone(), fixture.provisioning.clone());
    let tenant_id = tenant.id.clone();
    match number % 4 {
        0 => catalog.upsert_package(with_deadline(deadline, gold(tenant))).await.map(drop),
        1 => {
            let list = ListPackagesRequest { tenant_id, ..ListPackagesRequest::default() };
            catalog.list_packages(with_deadline(deadline, list)).await.map(drop)
        }
        2 => {
            let package_id = tenant.package_ids[number / 4 % tenant.package_ids.len()].clone();
            catalog
                .delete_package(with_deadline(
                    deadline,
                    DeletePackageRequest { tenant_id, package_id, ..Default::default() },
                ))
                .await
                .map(drop)
        }
        _ => {
            let create = named(&format!("tenant-{number}"));
            provisioning.create_fully_provisioned(with_deadline(deadline, create)).await.map(drop)
        }
    }
}

/// Makes all calls, a few at a time.
async fn run_concurrently<Call: Future>(call: impl Fn(usize) -> Call) -> Vec<Call::Output> {
    stream::iter(0..CALLS).map(call).buffer_unordered(CONCURRENCY).collect().await
}

/// Work continues after its caller has disconnected and waits up to a second for the connection. So the first call may
/// find the pool exhausted. By then all earlier work has finished, and the second call must succeed.
async fn assert_it_recovers(fixture: &Fixture, tenant: &NewTenant) {
    if let Err(error) = fixture.upsert_package(gold(tenant)).await {
        assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    }
    fixture.upsert_package(gold(tenant)).await.unwrap();
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

/// Whether the caller waits for the response.
const fn is_awaited(number: usize) -> bool {
    number % 9 == 8
}

fn assert_no_internal_error(responses: &[Result<(), Status>]) {
    let internal =
        responses.iter().find(|response| response.as_ref().is_err_and(|error| error.code() == Code::Internal));
    assert!(internal.is_none(), "{internal:?}");
}

#[tokio::test]
async fn a_thousand_calls_that_reach_their_deadline_leave_no_transaction_open() {
    let fixture = start().await;
    let tenant = fixture.tenant("bella").await;
    let responses = run_concurrently(|number| {
        let deadline = (!is_awaited(number)).then_some(Duration::from_millis(1));
        call(&fixture, &tenant, number, deadline)
    });
    let responses = responses.await;
    assert_no_internal_error(&responses);
    let is_late = |error: &Status| matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled);
    assert!(responses.iter().any(|response| response.as_ref().is_err_and(is_late)), "no call reached its deadline");
    assert_it_recovers(&fixture, &tenant).await;
}

#[tokio::test]
async fn a_thousand_dropped_calls_leave_no_transaction_open() {
    let fixture = start().await;
    let tenant = fixture.tenant("bella").await;
    let responses = run_concurrently(async |number| {
        // Each call is dropped a little later than the one before: at once, while it runs, or after its end.
        let wait = async {
            for _ in 0..number {
                yield_now().await;
            }
            if is_awaited(number) {
                pending::<()>().await;
            }
        };
        select! {
            biased;
            response = call(&fixture, &tenant, number, None) => Some(response),
            () = wait => None,
        }
    });
    let completed: Vec<_> = responses.await.into_iter().flatten().collect();
    assert!(completed.len() < CALLS, "no call was dropped");
    assert_no_internal_error(&completed);
    assert_it_recovers(&fixture, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_disconnect_and_retry_get_one_tenant_each() {
    let seed = rand::random();
    let outcome = disconnect_under_load(200, seed).await;
    assert!(outcome.is_sound() && outcome.failed_attempts > 0, "{outcome:?} with seed {seed}");
}

/// Waits until a call is blocked by the lock of a tenant.
async fn wait_for_blocked_call(superuser: &PgPool) {
    let sql = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                               WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted)";
    while !sqlx::query_scalar::<_, bool>(sql).fetch_one(superuser).await.unwrap() {}
}

/// Takes the advisory lock that serializes changes of one tenant's catalog.
async fn hold_tenant_lock(superuser: &PgPool, tenant: &NewTenant) -> PgConnection {
    let key = Uuid::parse_str(&tenant.id).unwrap().as_u64_pair().1.cast_signed();
    let mut holder = superuser.acquire().await.unwrap().detach();
    sqlx::query("SELECT pg_advisory_lock($1)").bind(key).execute(&mut holder).await.unwrap();
    holder
}

#[tokio::test]
async fn a_call_dropped_while_it_waits_for_the_tenant_lock_still_completes() {
    let fixture = start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let superuser = fixture.superuser_pool().await;
    let holder = hold_tenant_lock(&superuser, &tenant).await;
    select! {
        response = fixture.upsert_package(gold(&tenant)) => panic!("{response:?} although the lock is held"),
        () = wait_for_blocked_call(&superuser) => {}
    }
    holder.close().await.unwrap();
    // It uses the same connection, so it runs after the dropped call.
    fixture.upsert_package(gold(&other)).await.unwrap();
    assert_eq!(fixture.count("packages").await, 8);
    assert_eq!(open_transactions_and_locks(&superuser).await, (0, 0));
}

#[tokio::test]
async fn a_call_that_times_out_at_the_tenant_lock_leaves_no_failed_transaction() {
    let fixture = start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let superuser = fixture.superuser_pool().await;
    let holder = hold_tenant_lock(&superuser, &tenant).await;
    let error = fixture.upsert_package(gold(&tenant)).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    fixture.upsert_package(gold(&other)).await.unwrap();
    assert!(fixture.package(&tenant, &tenant.package_ids[0]).await.is_ok(), "reads do not take the lock");
    holder.close().await.unwrap();
    assert_it_recovers(&fixture, &tenant).await;
}
