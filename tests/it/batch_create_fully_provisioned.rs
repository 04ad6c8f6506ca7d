//! `BatchCreateFullyProvisioned`: many tenants in one call, each of them atomic on its own.

use std::collections::BTreeMap;

use prost::Message as _;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedError, BatchCreateFullyProvisionedRequest, CreateFullyProvisionedRequest,
    CreateFullyProvisionedResponse, Verdict, batch_create_fully_provisioned_result::Result as BatchResult,
};

use crate::support::{
    fixture::{Fixture, ONE_TENANT},
    requests::{named, request_id},
    responses::{reason, violations},
};

async fn batch_create(
    fixture: &Fixture,
    requests: Vec<CreateFullyProvisionedRequest>,
) -> Result<Vec<BatchResult>, Status> {
    let request = BatchCreateFullyProvisionedRequest { requests };
    let response = fixture.provisioning.clone().batch_create_fully_provisioned(request).await?.into_inner();
    Ok(response.results.into_iter().map(|result| result.result.unwrap()).collect())
}

fn created(result: &BatchResult) -> &CreateFullyProvisionedResponse {
    match result {
        BatchResult::Provisioned(created) => created,
        BatchResult::Error(error) => panic!("{error:?}"),
    }
}

fn error(result: &BatchResult) -> &BatchCreateFullyProvisionedError {
    match result {
        BatchResult::Provisioned(created) => panic!("{created:?}"),
        BatchResult::Error(error) => error,
    }
}

/// Code and reason of a failed item.
fn code_and_reason(result: &BatchResult) -> (&str, &str) {
    (error(result).code.as_str(), error(result).reason.as_str())
}

fn with_request_id(slug: &str, number: u32) -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest { request_id: Some(request_id(number)), ..named(slug) }
}

#[tokio::test]
async fn all_tenants_of_a_batch_are_created_in_order_each_with_a_valid_key() {
    let fixture = Fixture::start().await;
    let slugs: Vec<String> = (0..20).rev().map(|number| format!("tenant-{number}")).collect();
    let results = batch_create(&fixture, slugs.iter().map(|slug| named(slug)).collect()).await.unwrap();
    let mut secrets = std::collections::HashSet::new();
    for (result, slug) in results.iter().zip(&slugs) {
        let created = created(result);
        assert_eq!(
            (&created.tenant.as_ref().unwrap().slug, created.packages.len(), created.replayed),
            (slug, 3, false)
        );
        assert_eq!(fixture.verify(&created.secret_key).await.tenant_slug, *slug);
        secrets.insert(&created.secret_key);
    }
    assert_eq!(secrets.len(), 20);
    assert_eq!(fixture.row_counts().await, [20, 20, 60, 20]);
}

#[tokio::test]
async fn an_invalid_item_affects_no_other_and_has_the_error_of_a_single_call() {
    let fixture = Fixture::start().await;
    fixture.create(named("taken")).await.unwrap();
    let invalid = CreateFullyProvisionedRequest { commission_percent: Some(101.0), ..named("B") };
    let validating = CreateFullyProvisionedRequest { validate_only: true, ..named("only-asking") };
    let results =
        batch_create(&fixture, vec![named("first"), invalid, named("taken"), validating, named("last")]).await.unwrap();
    assert_eq!(created(&results[0]).tenant.as_ref().unwrap().slug, "first");
    assert_eq!(created(&results[4]).tenant.as_ref().unwrap().slug, "last");
    assert_eq!(code_and_reason(&results[1]), ("INVALID_ARGUMENT", "INVALID_REQUEST"));
    let field_violations: Vec<_> =
        error(&results[1]).field_violations.iter().map(|field| (&*field.field, &*field.reason)).collect();
    assert_eq!(field_violations, [("slug", "BAD_FORMAT"), ("commission_percent", "OUT_OF_RANGE")]);
    assert_eq!(code_and_reason(&results[2]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
    assert_eq!(code_and_reason(&results[3]), ("INVALID_ARGUMENT", "INVALID_REQUEST"));
    assert_eq!(error(&results[3]).field_violations[0].field, "validate_only");
    assert!(results[1..4].iter().all(|result| !error(result).message.is_empty()));
    assert_eq!(fixture.row_counts().await, [3, 3, 9, 3]);
}

#[tokio::test]
async fn the_first_of_two_items_with_the_same_slug_is_created() {
    let fixture = Fixture::start().await;
    let second = CreateFullyProvisionedRequest { name: "Second".to_owned(), ..named("bella") };
    let results = batch_create(&fixture, vec![named("bella"), second, named("bella"), named("omer")]).await.unwrap();
    assert_eq!(created(&results[0]).tenant.as_ref().unwrap().name, "Bella Weddings");
    assert_eq!(code_and_reason(&results[1]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
    assert_eq!(code_and_reason(&results[2]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
    assert_eq!(created(&results[3]).tenant.as_ref().unwrap().slug, "omer");
}

#[tokio::test]
async fn a_repeated_batch_returns_the_tenants_of_the_first() {
    let fixture = Fixture::start().await;
    let batch = |range: std::ops::Range<u32>| {
        range.map(|number| with_request_id(&format!("tenant-{number}"), number)).collect()
    };
    let first = batch_create(&fixture, batch(0..10)).await.unwrap();
    let repeated = batch_create(&fixture, batch(5..15)).await.unwrap();
    for (number, result) in repeated.iter().enumerate() {
        let result = created(result);
        assert_eq!(result.replayed, number < 5);
        if let Some(first) = first.get(number + 5) {
            assert_eq!(*result, CreateFullyProvisionedResponse { replayed: true, ..created(first).clone() });
        }
    }
    assert_eq!(fixture.count("tenants").await, 15);
}

#[tokio::test]
async fn a_request_id_is_shared_by_single_calls_and_batch_items() {
    let fixture = Fixture::start().await;
    let alone = fixture.create(with_request_id("alone", 1)).await.unwrap();
    let results =
        batch_create(&fixture, vec![with_request_id("alone", 1), with_request_id("batched", 2)]).await.unwrap();
    assert_eq!(*created(&results[0]), CreateFullyProvisionedResponse { replayed: true, ..alone });
    let repeated = fixture.create(with_request_id("batched", 2)).await.unwrap();
    assert_eq!(repeated, CreateFullyProvisionedResponse { replayed: true, ..created(&results[1]).clone() });
}

#[tokio::test]
async fn a_repeated_request_id_within_a_batch_replays_the_same_payload_and_rejects_another() {
    let fixture = Fixture::start().await;
    let results = batch_create(
        &fixture,
        vec![with_request_id("bella", 1), with_request_id("bella", 1), with_request_id("omer", 1)],
    )
    .await
    .unwrap();
    let first = created(&results[0]);
    assert_eq!(*created(&results[1]), CreateFullyProvisionedResponse { replayed: true, ..first.clone() });
    assert_eq!(code_and_reason(&results[2]), ("FAILED_PRECONDITION", "REQUEST_ID_REUSED"));
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn an_item_with_a_reused_request_id_leaves_its_slug_to_later_items() {
    let fixture = Fixture::start().await;
    fixture.create(with_request_id("bella", 1)).await.unwrap();
    let results = batch_create(&fixture, vec![with_request_id("omer", 1), with_request_id("omer", 2), named("omer")])
        .await
        .unwrap();
    assert_eq!(code_and_reason(&results[0]), ("FAILED_PRECONDITION", "REQUEST_ID_REUSED"));
    assert_eq!(created(&results[1]).tenant.as_ref().unwrap().slug, "omer");
    assert_eq!(code_and_reason(&results[2]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
}

#[tokio::test]
async fn an_item_that_waits_for_its_request_id_is_created_before_later_items_with_its_slug() {
    let fixture = Fixture::start().await;
    fixture.create(named("bella")).await.unwrap();
    let results = batch_create(&fixture, vec![with_request_id("bella", 1), with_request_id("omer", 1), named("omer")])
        .await
        .unwrap();
    assert_eq!(code_and_reason(&results[0]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
    assert_eq!(created(&results[1]).tenant.as_ref().unwrap().slug, "omer");
    assert_eq!(code_and_reason(&results[2]), ("ALREADY_EXISTS", "SLUG_TAKEN"));
}

#[tokio::test]
async fn overlapping_batches_in_any_order_create_each_tenant_once() {
    let fixture = Fixture::start().await;
    let mut calls = JoinSet::new();
    for round in 0..8_usize {
        let mut client = fixture.provisioning.clone();
        let mut requests: Vec<_> = (0..40).map(|number| with_request_id(&format!("tenant-{number}"), number)).collect();
        requests.rotate_left(round * 5);
        if round % 2 == 1 {
            requests.reverse();
        }
        calls.spawn(async move {
            let request = BatchCreateFullyProvisionedRequest { requests };
            client.batch_create_fully_provisioned(request).await.unwrap().into_inner().results
        });
    }
    let results = calls.join_all().await.into_iter().flatten().map(|result| result.result.unwrap());
    let mut secrets = std::collections::HashMap::new();
    let mut created_count = 0;
    for result in results {
        let created = created(&result);
        created_count += u32::from(!created.replayed);
        let slug = created.tenant.clone().unwrap().slug;
        let known = secrets.entry(slug).or_insert_with(|| created.secret_key.clone());
        assert_eq!(*known, created.secret_key);
    }
    assert_eq!((created_count, secrets.len()), (40, 40));
    assert_eq!(fixture.row_counts().await, [40, 40, 120, 40]);
    let secret = secrets.values().next().unwrap();
    assert_eq!(fixture.verify(secret).await.verdict(), Verdict::Valid);
}

#[tokio::test]
async fn a_batch_has_between_1_and_500_items() {
    let fixture = Fixture::start().await;
    let many = |count: u32| (0..count).map(|number| named(&format!("tenant-{number}"))).collect();
    assert_eq!(batch_create(&fixture, many(500)).await.unwrap().len(), 500);
    assert_eq!(fixture.row_counts().await, [500, 500, 1_500, 500]);
    for (count, why) in [(501, "TOO_LONG"), (0, "MISSING_FIELD")] {
        let error = batch_create(&fixture, many(count)).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert_eq!(violations(&error), [("requests".to_owned(), why.to_owned())]);
    }
}

#[tokio::test]
async fn a_batch_whose_replays_would_exceed_the_message_limit_is_refused_and_creates_nothing() {
    let fixture = Fixture::start().await;
    let requests: Vec<_> = (0..40).map(|number| with_request_id(&format!("tenant-{number}"), number)).collect();
    batch_create(&fixture, requests.clone()).await.unwrap();
    let large = "UPDATE tenants SET branding = jsonb_build_object('a', repeat('a', 65000))";
    fixture.database.execute(large).await;

    // Each replay counts, also those of one request id.
    for replays in [requests.clone(), vec![requests[0].clone(); 40]] {
        let batch = [vec![named("new")], replays].concat();
        let error = batch_create(&fixture, batch).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert_eq!(violations(&error), [("requests".to_owned(), "TOO_LONG".to_owned())]);
        assert_eq!(fixture.row_counts().await[0], 40);
    }
    let half = [vec![named("new")], requests[..20].to_vec()].concat();
    let results = batch_create(&fixture, half).await.unwrap();
    assert!(results[1..].iter().all(|result| created(result).replayed));
}

#[tokio::test]
async fn a_batch_whose_labels_would_exceed_the_message_limit_is_refused_and_creates_nothing() {
    let fixture = Fixture::start().await;
    let labels: BTreeMap<_, _> = (0..50).map(|number| (format!("label-{number}"), "𝄞".repeat(255))).collect();
    let labelled = |number: u32| CreateFullyProvisionedRequest {
        labels: labels.clone(),
        ..with_request_id(&format!("tenant-{number}"), number)
    };
    let error = batch_create(&fixture, (0..50).map(labelled).collect()).await.unwrap_err();
    assert_eq!(violations(&error), [("requests".to_owned(), "TOO_LONG".to_owned())]);
    assert_eq!(fixture.row_counts().await[0], 0);
    // A repeat counts once, as a replay.
    for replayed in [false, true] {
        let results = batch_create(&fixture, (0..30).map(labelled).collect()).await.unwrap();
        assert!(results.iter().all(|result| created(result).replayed == replayed));
    }
}

#[tokio::test]
async fn the_response_to_a_batch_of_500_tenants_with_the_longest_names_fits_half_of_the_message_limit() {
    let fixture = Fixture::start().await;
    let slug = |number: u32| format!("{}-{number:03}", "s".repeat(59));
    let item = |number| CreateFullyProvisionedRequest { name: "𝄞".repeat(200), ..named(&slug(number)) };
    let request = BatchCreateFullyProvisionedRequest { requests: (0..500).map(item).collect() };
    let response = fixture.provisioning.clone().batch_create_fully_provisioned(request).await.unwrap().into_inner();
    assert_eq!(fixture.row_counts().await[0], 500);
    assert!(response.encoded_len() < 2 * 1024 * 1024, "{} bytes", response.encoded_len());
}
