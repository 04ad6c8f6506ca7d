//! The line to Postgres is cut right before a statement, or right before its answer: a repeat with the request id makes
//! good for both.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, CreateFromSignupRequest, CreateFullyProvisionedRequest, RotateApiKeyRequest,
    Verdict, batch_create_fully_provisioned_result::Result as BatchResult,
};

use crate::{
    cluster::{Cluster, TestDatabase},
    create_from_signup::signup,
    fixture::{Fixture, ONE_TENANT, named, reason},
    health,
    load::{Load, Outcome},
    proxy::{Cut, Proxy},
    rotate_api_key::rotation,
};

const PROVISIONING: &str = "new_tenant AS";

/// A server that reaches its database by a line that can be cut.
async fn fixture() -> (Fixture, Proxy) {
    let database = Cluster::get().migrated().await;
    let proxy = Proxy::start(&database.server).await;
    let server = proxy.options(&database.server);
    let fixture = Fixture::start_on(TestDatabase { server, ..database }).await;
    // Or the probe's first look, which has a transaction too, could go into a trap.
    health::until_it_is(&fixture, ServingStatus::Serving).await;
    (fixture, proxy)
}

fn id(number: u32) -> String {
    format!("a0eebc99-9c0b-4ef8-bb6d-6bb9{number:08x}")
}

fn create() -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest { request_id: Some(id(1)), ..named("bella") }
}

fn assert_cut<T: std::fmt::Debug>(answer: Result<T, Status>, proxy: &Proxy) {
    assert!(proxy.was_triggered());
    let failed = answer.unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_answered_when_it_is_repeated() {
    let (fixture, proxy) = fixture().await;
    proxy.inject(PROVISIONING, Cut::BeforeAnswer);
    assert_cut(fixture.create(create()).await, &proxy);
    assert_eq!(fixture.row_counts().await, ONE_TENANT, "it was done");

    let again = fixture.create(create()).await.unwrap();
    assert!(again.replayed);
    assert_eq!(fixture.verify(&again.secret_key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.create(create()).await.unwrap(), again);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_creation_that_did_not_arrive_is_made_when_it_is_repeated() {
    let (fixture, proxy) = fixture().await;
    proxy.inject(PROVISIONING, Cut::BeforeStatement);
    assert_cut(fixture.create(create()).await, &proxy);
    assert_eq!(fixture.row_counts().await, [0; 4], "nothing was done");

    let again = fixture.create(create()).await.unwrap();
    assert!(!again.replayed);
    assert_eq!(fixture.verify(&again.secret_key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_lost_signup_response_is_replayed() {
    let (fixture, proxy) = fixture().await;
    let request = || CreateFromSignupRequest { request_id: Some(id(2)), ..signup("Omer", "omer@example.com") };
    for (cut, is_done) in [(Cut::BeforeStatement, 0), (Cut::BeforeAnswer, 1)] {
        proxy.inject(PROVISIONING, cut);
        assert_cut(fixture.sign_up(request()).await, &proxy);
        assert_eq!(fixture.count("owners").await, is_done);
    }
    let again = fixture.sign_up(request()).await.unwrap();
    assert!(again.replayed);
    assert_eq!(fixture.verify(&again.secret_key).await.tenant_slug, "omer");
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_lost_rotation_response_is_replayed() {
    let (fixture, proxy) = fixture().await;
    let tenant = fixture.tenant("bella").await;
    let request = || RotateApiKeyRequest { request_id: Some(id(3)), ..rotation(&tenant.id, None) };
    for (text, cut, keys) in [
        ("BEGIN", Cut::BeforeAnswer, 1),
        ("rotated_tenant AS", Cut::BeforeAnswer, 1),
        ("COMMIT", Cut::BeforeStatement, 1),
        ("COMMIT", Cut::BeforeAnswer, 2),
    ] {
        proxy.inject(text, cut);
        assert_cut(fixture.try_rotate(request()).await, &proxy);
        assert_eq!(fixture.count("api_keys").await, keys, "{text} {cut:?}");
    }
    let again = fixture.try_rotate(request()).await.unwrap();
    assert!(again.replayed);
    assert_eq!(fixture.verify(&again.secret_key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.count("api_keys").await, 2);
}

#[tokio::test]
async fn a_lost_batch_response_is_replayed() {
    let (fixture, proxy) = fixture().await;
    let requests = (0..20).map(|number| CreateFullyProvisionedRequest {
        request_id: Some(id(number)),
        ..named(&format!("tenant-{number}"))
    });
    let request = BatchCreateFullyProvisionedRequest { requests: requests.collect() };
    let mut client = fixture.provisioning.clone();
    proxy.inject(PROVISIONING, Cut::BeforeAnswer);
    assert_cut(client.batch_create_fully_provisioned(request.clone()).await, &proxy);
    let again = client.batch_create_fully_provisioned(request).await.unwrap().into_inner();
    for result in again.results {
        let Some(BatchResult::Provisioned(made)) = result.result else { panic!("{result:?}") };
        assert!(made.replayed);
        assert_eq!(fixture.verify(&made.secret_key).await.verdict(), Verdict::Valid);
    }
    assert_eq!(fixture.row_counts().await, [20, 20, 60, 20]);
}

/// Whatever else the caller does, the connection that was cut is not lent again.
#[tokio::test]
async fn the_service_heals_by_itself_after_a_cut() {
    let (fixture, proxy) = fixture().await;
    for number in 0..10 {
        proxy.inject(PROVISIONING, Cut::BeforeAnswer);
        assert_cut(fixture.create(named(&format!("tenant-{number}"))).await, &proxy);
        assert!(fixture.create(named(&format!("other-{number}"))).await.is_ok());
    }
    assert_eq!(fixture.row_counts().await, [20, 20, 60, 20]);
}

/// Lines are cut before a statement or before its answer, as it comes up.
pub async fn cut_lines_under_load(cuts: u32, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let (fixture, proxy) = fixture().await;
    let client = fixture.provisioning.clone();
    let mut load = Load::start(8, move || client.clone());
    for _ in 0..cuts {
        proxy.inject(PROVISIONING, if random.random() { Cut::BeforeAnswer } else { Cut::BeforeStatement });
        while !proxy.was_triggered() {
            load.more(1).await;
        }
        load.more(random.random_range(1..16)).await;
    }
    load.stop(&fixture.database.superuser).await
}

#[tokio::test]
async fn callers_that_repeat_get_through_whatever_is_cut_and_get_one_tenant_each() {
    let seed = rand::random();
    let outcome = cut_lines_under_load(20, seed).await;
    assert!(outcome.is_sound() && outcome.failed_tries > 0, "{outcome:?} by seed {seed}");
}
