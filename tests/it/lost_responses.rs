//! The connection to Postgres is cut immediately before a statement or before its response. In both cases, a retry with
//! the same request id succeeds.

use tonic::{Code, Status};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, CreateFromSignupRequest, CreateFullyProvisionedRequest, RotateApiKeyRequest,
    Verdict, batch_create_fully_provisioned_result::Result as BatchResult,
};

use crate::support::{
    faults::{PROVISIONING_SQL, cut_connections_under_load, start_ready_behind_proxy},
    fixture::ONE_TENANT,
    proxy::{Cut, Proxy},
    requests::{named, request_id, rotation, signup},
    responses::reason,
};

fn create() -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest { request_id: Some(request_id(1)), ..named("bella") }
}

fn assert_cut<T: std::fmt::Debug>(response: Result<T, Status>, proxy: &Proxy) {
    assert!(proxy.was_triggered());
    let error = response.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}

#[tokio::test]
async fn a_lost_create_response_is_replayed() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    proxy.inject(PROVISIONING_SQL, Cut::BeforeResponse);
    assert_cut(fixture.create(create()).await, &proxy);
    assert_eq!(fixture.row_counts().await, ONE_TENANT, "the tenant was created");

    let repeated = fixture.create(create()).await.unwrap();
    assert!(repeated.replayed);
    assert_eq!(fixture.verify(&repeated.secret_key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.create(create()).await.unwrap(), repeated);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_create_statement_that_was_lost_is_executed_by_the_retry() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    proxy.inject(PROVISIONING_SQL, Cut::BeforeStatement);
    assert_cut(fixture.create(create()).await, &proxy);
    assert_eq!(fixture.row_counts().await, [0; 4], "nothing was created");

    let repeated = fixture.create(create()).await.unwrap();
    assert!(!repeated.replayed);
    assert_eq!(fixture.verify(&repeated.secret_key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_lost_signup_response_is_replayed() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    let request = || CreateFromSignupRequest { request_id: Some(request_id(2)), ..signup("Omer", "omer@example.com") };
    for (cut, owners) in [(Cut::BeforeStatement, 0), (Cut::BeforeResponse, 1)] {
        proxy.inject(PROVISIONING_SQL, cut);
        assert_cut(fixture.sign_up(request()).await, &proxy);
        assert_eq!(fixture.count("owners").await, owners);
    }
    let repeated = fixture.sign_up(request()).await.unwrap();
    assert!(repeated.replayed);
    assert_eq!(fixture.verify(&repeated.secret_key).await.tenant_slug, "omer");
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_lost_rotation_response_is_replayed() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    let tenant = fixture.tenant("bella").await;
    let request = || RotateApiKeyRequest { request_id: Some(request_id(3)), ..rotation(&tenant.id, None) };
    for (text, cut, keys) in [
        ("BEGIN", Cut::BeforeResponse, 1),
        ("target_tenant AS", Cut::BeforeResponse, 1),
        ("COMMIT", Cut::BeforeStatement, 1),
        ("COMMIT", Cut::BeforeResponse, 2),
    ] {
        proxy.inject(text, cut);
        assert_cut(fixture.try_rotate(request()).await, &proxy);
        assert_eq!(fixture.count("api_keys").await, keys, "{text} {cut:?}");
    }
    let repeated = fixture.try_rotate(request()).await.unwrap();
    assert!(repeated.replayed);
    assert_eq!(fixture.verify(&repeated.secret_key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.count("api_keys").await, 2);
}

#[tokio::test]
async fn a_lost_batch_response_is_replayed() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    let requests = (0..20).map(|number| CreateFullyProvisionedRequest {
        request_id: Some(request_id(number)),
        ..named(&format!("tenant-{number}"))
    });
    let request = BatchCreateFullyProvisionedRequest { requests: requests.collect() };
    let mut client = fixture.provisioning.clone();
    proxy.inject(PROVISIONING_SQL, Cut::BeforeResponse);
    assert_cut(client.batch_create_fully_provisioned(request.clone()).await, &proxy);
    let repeated = client.batch_create_fully_provisioned(request).await.unwrap().into_inner();
    for result in repeated.results {
        let Some(BatchResult::Provisioned(created)) = result.result else { panic!("{result:?}") };
        assert!(created.replayed);
        assert_eq!(fixture.verify(&created.secret_key).await.verdict(), Verdict::Valid);
    }
    assert_eq!(fixture.row_counts().await, [20, 20, 60, 20]);
}

#[tokio::test]
async fn a_cut_connection_is_never_used_again() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    for number in 0..10 {
        proxy.inject(PROVISIONING_SQL, Cut::BeforeResponse);
        assert_cut(fixture.create(named(&format!("tenant-{number}"))).await, &proxy);
        assert!(fixture.create(named(&format!("other-{number}"))).await.is_ok());
    }
    assert_eq!(fixture.row_counts().await, [20, 20, 60, 20]);
}

#[tokio::test]
async fn callers_that_retry_get_one_tenant_each_when_connections_are_cut_under_load() {
    let seed = rand::random();
    let outcome = cut_connections_under_load(20, seed).await;
    assert!(outcome.is_sound() && outcome.failed_attempts > 0, "{outcome:?} with seed {seed}");
}
