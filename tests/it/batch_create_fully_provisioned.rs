//! `BatchCreateFullyProvisioned`: each tenant for itself, all in one call.

use tokio::task::JoinSet;
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedError, BatchCreateFullyProvisionedRequest, CreateFullyProvisionedRequest,
    CreateFullyProvisionedResponse, Verdict, batch_create_fully_provisioned_result::Result as BatchResult,
};

use crate::fixture::{Fixture, ONE_TENANT, named, reason, violations};

impl Fixture {
    async fn batch_create(&self, requests: Vec<CreateFullyProvisionedRequest>) -> Result<Vec<BatchResult>, Status> {
        let request = BatchCreateFullyProvisionedRequest { requests };
        let answer = self.provisioning.clone().batch_create_fully_provisioned(request).await?.into_inner();
        Ok(answer.results.into_iter().map(|result| result.result.unwrap()).collect())
    }
}

fn made(result: &BatchResult) -> &CreateFullyProvisionedResponse {
    match result {
        BatchResult::Provisioned(made) => made,
        BatchResult::Error(error) => panic!("{error:?}"),
    }
}

fn error(result: &BatchResult) -> &BatchCreateFullyProvisionedError {
    match result {
        BatchResult::Provisioned(made) => panic!("{made:?}"),
        BatchResult::Error(error) => error,
    }
}

/// The code and the reason of an item that failed.
fn why(result: &BatchResult) -> (&str, &str) {
    (error(result).code.as_str(), error(result).reason.as_str())
}

fn claimed(slug: &str, number: u32) -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest { request_id: Some(id(number)), ..named(slug) }
}

fn id(number: u32) -> String {
    format!("a0eebc99-9c0b-4ef8-bb6d-6bb9{number:08x}")
}

#[tokio::test]
async fn all_are_made_in_order_each_with_a_key_that_works() {
    let fixture = Fixture::start().await;
    let slugs: Vec<String> = (0..20).rev().map(|number| format!("tenant-{number}")).collect();
    let results = fixture.batch_create(slugs.iter().map(|slug| named(slug)).collect()).await.unwrap();
    let mut secrets = std::collections::HashSet::new();
    for (result, slug) in results.iter().zip(&slugs) {
        let made = made(result);
        assert_eq!((&made.tenant.as_ref().unwrap().slug, made.packages.len(), made.replayed), (slug, 3, false));
        assert_eq!(fixture.verify(&made.secret_key).await.tenant_slug, *slug);
        secrets.insert(&made.secret_key);
    }
    assert_eq!(secrets.len(), 20);
    assert_eq!(fixture.row_counts().await, [20, 20, 60, 20]);
}

#[tokio::test]
async fn one_bad_item_spoils_no_other_and_says_what_it_would_have_said_alone() {
    let fixture = Fixture::start().await;
    fixture.create(named("taken")).await.unwrap();
    let bad = CreateFullyProvisionedRequest { commission_percent: Some(101.0), ..named("B") };
    let validating = CreateFullyProvisionedRequest { validate_only: true, ..named("only-asking") };
    let results =
        fixture.batch_create(vec![named("first"), bad, named("taken"), validating, named("last")]).await.unwrap();
    assert_eq!(made(&results[0]).tenant.as_ref().unwrap().slug, "first");
    assert_eq!(made(&results[4]).tenant.as_ref().unwrap().slug, "last");
    assert_eq!(why(&results[1]), ("INVALID_ARGUMENT", "INVALID_REQUEST"));
    let said: Vec<_> =
        error(&results[1]).field_violations.iter().map(|field| (&*field.field, &*field.reason)).collect();
    assert_eq!(said, [("slug", "BAD_FORMAT"), ("commission_percent", "OUT_OF_RANGE")]);
    assert_eq!(why(&results[2]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
    assert_eq!(why(&results[3]), ("INVALID_ARGUMENT", "INVALID_REQUEST"));
    assert_eq!(error(&results[3]).field_violations[0].field, "validate_only");
    assert!(results[1..4].iter().all(|result| !error(result).message.is_empty()));
    assert_eq!(fixture.row_counts().await, [3, 3, 9, 3]);
}

#[tokio::test]
async fn of_two_items_with_one_slug_the_first_wins() {
    let fixture = Fixture::start().await;
    let second = CreateFullyProvisionedRequest { name: "Second".to_owned(), ..named("bella") };
    let results = fixture.batch_create(vec![named("bella"), second, named("bella"), named("omer")]).await.unwrap();
    assert_eq!(made(&results[0]).tenant.as_ref().unwrap().name, "Bella Weddings");
    assert_eq!(why(&results[1]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
    assert_eq!(why(&results[2]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
    assert_eq!(made(&results[3]).tenant.as_ref().unwrap().slug, "omer");
}

#[tokio::test]
async fn a_repeated_batch_is_answered_with_what_the_first_made() {
    let fixture = Fixture::start().await;
    let batch =
        |range: std::ops::Range<u32>| range.map(|number| claimed(&format!("tenant-{number}"), number)).collect();
    let first = fixture.batch_create(batch(0..10)).await.unwrap();
    let again = fixture.batch_create(batch(5..15)).await.unwrap();
    for (number, result) in again.iter().enumerate() {
        let result = made(result);
        assert_eq!(result.replayed, number < 5);
        if let Some(first) = first.get(number + 5) {
            assert_eq!(*result, CreateFullyProvisionedResponse { replayed: true, ..made(first).clone() });
        }
    }
    assert_eq!(fixture.count("tenants").await, 15);
}

#[tokio::test]
async fn an_item_can_be_repeated_alone_and_a_single_call_in_a_batch() {
    let fixture = Fixture::start().await;
    let alone = fixture.create(claimed("alone", 1)).await.unwrap();
    let results = fixture.batch_create(vec![claimed("alone", 1), claimed("batched", 2)]).await.unwrap();
    assert_eq!(*made(&results[0]), CreateFullyProvisionedResponse { replayed: true, ..alone });
    let again = fixture.create(claimed("batched", 2)).await.unwrap();
    assert_eq!(again, CreateFullyProvisionedResponse { replayed: true, ..made(&results[1]).clone() });
}

#[tokio::test]
async fn two_items_with_one_request_id_are_one_where_they_say_the_same_and_a_misuse_where_not() {
    let fixture = Fixture::start().await;
    let results =
        fixture.batch_create(vec![claimed("bella", 1), claimed("bella", 1), claimed("omer", 1)]).await.unwrap();
    let first = made(&results[0]);
    assert_eq!(*made(&results[1]), CreateFullyProvisionedResponse { replayed: true, ..first.clone() });
    assert_eq!(why(&results[2]), ("FAILED_PRECONDITION", "REQUEST_ID_REUSED"));
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn an_item_whose_id_was_misused_leaves_its_slug_to_the_next() {
    let fixture = Fixture::start().await;
    fixture.create(claimed("bella", 1)).await.unwrap();
    let results = fixture.batch_create(vec![claimed("omer", 1), claimed("omer", 2), named("omer")]).await.unwrap();
    assert_eq!(why(&results[0]), ("FAILED_PRECONDITION", "REQUEST_ID_REUSED"));
    assert_eq!(made(&results[1]).tenant.as_ref().unwrap().slug, "omer");
    assert_eq!(why(&results[2]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
}

#[tokio::test]
async fn batches_that_overlap_in_any_order_make_each_tenant_once() {
    let fixture = Fixture::start().await;
    let mut calls = JoinSet::new();
    for turn in 0..8_usize {
        let mut client = fixture.provisioning.clone();
        let mut requests: Vec<_> = (0..40).map(|number| claimed(&format!("tenant-{number}"), number)).collect();
        requests.rotate_left(turn * 5);
        if turn % 2 == 1 {
            requests.reverse();
        }
        calls.spawn(async move {
            let request = BatchCreateFullyProvisionedRequest { requests };
            client.batch_create_fully_provisioned(request).await.unwrap().into_inner().results
        });
    }
    let results = calls.join_all().await.into_iter().flatten().map(|result| result.result.unwrap());
    let mut secrets = std::collections::HashMap::new();
    let mut fresh = 0;
    for result in results {
        let made = made(&result);
        fresh += u32::from(!made.replayed);
        let slug = made.tenant.clone().unwrap().slug;
        let known = secrets.entry(slug).or_insert_with(|| made.secret_key.clone());
        assert_eq!(*known, made.secret_key);
    }
    assert_eq!((fresh, secrets.len()), (40, 40));
    assert_eq!(fixture.row_counts().await, [40, 40, 120, 40]);
    let secret = secrets.values().next().unwrap();
    assert_eq!(fixture.verify(secret).await.verdict(), Verdict::Valid);
}

#[tokio::test]
async fn five_hundred_are_taken_and_one_more_or_none_are_not() {
    let fixture = Fixture::start().await;
    let many = |count: u32| (0..count).map(|number| named(&format!("tenant-{number}"))).collect();
    assert_eq!(fixture.batch_create(many(500)).await.unwrap().len(), 500);
    assert_eq!(fixture.row_counts().await, [500, 500, 1_500, 500]);
    for (count, why) in [(501, "TOO_LONG"), (0, "MISSING_FIELD")] {
        let refused = fixture.batch_create(many(count)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert_eq!(violations(&refused), [("requests".to_owned(), why.to_owned())]);
    }
}
