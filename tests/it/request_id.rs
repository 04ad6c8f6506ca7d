//! Idempotency: a call that is repeated with the same request id gets the response of the first call.

use secrecy::{ExposeSecret as _, SecretString};
use time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{
    CreateFromSignupRequest, CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, RotateApiKeyRequest,
    Segment, UpdateTenantRequest, Verdict,
};

use crate::support::{
    fixture::{Fixture, ONE_TENANT},
    requests::{REQUEST_ID, bella, bella_with_request_id, named, rotation, signup_with_request_id},
    responses::{clear_generated_fields, reason},
};

fn rotate(tenant_id: &str) -> RotateApiKeyRequest {
    RotateApiKeyRequest { request_id: Some(REQUEST_ID.to_owned()), ..rotation(tenant_id, None) }
}

fn replayed(first: CreateFullyProvisionedResponse) -> CreateFullyProvisionedResponse {
    CreateFullyProvisionedResponse { replayed: true, ..first }
}

fn assert_reused(error: &Status) {
    assert_eq!((error.code(), reason(error).as_str()), (Code::FailedPrecondition, "REQUEST_ID_REUSED"));
    let failure = error.get_details_precondition_failure().unwrap();
    assert_eq!(failure.violations[0].r#type, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_repeated_create_returns_the_same_tenant_key_and_secret() {
    let fixture = Fixture::start().await;
    let first = fixture.create(bella_with_request_id()).await.unwrap();
    assert!(!first.replayed && !first.secret_key.is_empty());
    assert_eq!(fixture.create(bella_with_request_id()).await.unwrap(), replayed(first.clone()));
    // The same id in upper case.
    let uppercase = CreateFullyProvisionedRequest { request_id: Some(REQUEST_ID.to_uppercase()), ..bella() };
    assert_eq!(fixture.create(uppercase).await.unwrap(), replayed(first.clone()));
    assert_eq!(fixture.verify(&first.secret_key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_repeated_signup_returns_the_same_tenant_and_derives_no_second_slug() {
    let fixture = Fixture::start().await;
    fixture.create(named("bella")).await.unwrap();
    let first = fixture.sign_up(signup_with_request_id()).await.unwrap();
    let repeated = fixture.sign_up(signup_with_request_id()).await.unwrap();
    assert!(!first.replayed && repeated.replayed);
    assert_eq!(
        (&repeated.tenant, &repeated.secret_key, &repeated.packages),
        (&first.tenant, &first.secret_key, &first.packages)
    );
    let equivalent = CreateFromSignupRequest { email: " BELLA@Example.com".to_owned(), ..signup_with_request_id() };
    assert!(fixture.sign_up(equivalent).await.unwrap().replayed, "it is the same address");
    assert_eq!(fixture.count("tenants").await, 2);
}

#[tokio::test]
async fn a_repeated_signup_with_another_password_or_name_is_rejected() {
    let fixture = Fixture::start().await;
    fixture.sign_up(signup_with_request_id()).await.unwrap();
    let other = CreateFromSignupRequest { password: "another lamp and tulips".to_owned(), ..signup_with_request_id() };
    assert_reused(&fixture.sign_up(other).await.unwrap_err());
    let other = CreateFromSignupRequest { business_name: "Bella & Co".to_owned(), ..signup_with_request_id() };
    assert_reused(&fixture.sign_up(other).await.unwrap_err());
}

#[tokio::test]
async fn a_repeated_rotation_returns_the_same_key_and_rotates_nothing() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let first = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    fixture.advance_clock(Duration::hours(1));
    let repeated = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    assert!(!first.replayed && repeated.replayed);
    assert_eq!((&repeated.api_key, &repeated.secret_key), (&first.api_key, &first.secret_key));
    assert_eq!(fixture.keys(&tenant.id).await.len(), 2);
    let other =
        RotateApiKeyRequest { request_id: Some(REQUEST_ID.to_owned()), ..rotation(&tenant.id, Some(Duration::ZERO)) };
    assert_reused(&fixture.try_rotate(other).await.unwrap_err());
    let another = fixture.tenant("omers-cafe").await;
    assert_reused(&fixture.try_rotate(rotate(&another.id)).await.unwrap_err());
    assert_eq!(fixture.keys(&another.id).await.len(), 1);
}

#[tokio::test]
async fn fifty_concurrent_identical_creates_create_one_tenant_and_get_the_same_response() {
    let fixture = Fixture::start().await;
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let mut client = fixture.provisioning.clone();
        calls
            .spawn(async move { client.create_fully_provisioned(bella_with_request_id()).await.unwrap().into_inner() });
    }
    let responses = calls.join_all().await;
    assert_eq!(responses.iter().filter(|response| !response.replayed).count(), 1);
    let first = replayed(responses[0].clone());
    assert!(!first.secret_key.is_empty());
    assert!(responses.into_iter().all(|response| replayed(response) == first));
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn twenty_concurrent_identical_rotations_and_signups_take_effect_once() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("omers-cafe").await;
    let (mut rotations, mut signups) = (JoinSet::new(), JoinSet::new());
    for _ in 0..20 {
        let (mut client, request) = (fixture.provisioning.clone(), rotate(&tenant.id));
        rotations.spawn(async move { client.rotate_api_key(request).await.unwrap().into_inner() });
        let mut client = fixture.provisioning.clone();
        signups.spawn(async move { client.create_from_signup(signup_with_request_id()).await.unwrap().into_inner() });
    }
    let (rotations, signups) = (rotations.join_all().await, signups.join_all().await);
    let one = &rotations[0];
    assert!(rotations.iter().all(|other| (&other.api_key, &other.secret_key) == (&one.api_key, &one.secret_key)));
    assert_eq!(rotations.iter().filter(|response| !response.replayed).count(), 1);
    let one = &signups[0];
    assert!(signups.iter().all(|other| (&other.tenant, &other.secret_key) == (&one.tenant, &one.secret_key)));
    assert_eq!(signups.iter().filter(|response| !response.replayed).count(), 1);
    assert_eq!(fixture.row_counts().await, [2, 2, 6, 3]);
}

#[tokio::test]
async fn the_same_request_id_with_another_payload_is_rejected_and_creates_nothing() {
    let fixture = Fixture::start().await;
    fixture.create(bella_with_request_id()).await.unwrap();
    for other in [
        CreateFullyProvisionedRequest { name: "Bella".to_owned(), ..bella_with_request_id() },
        CreateFullyProvisionedRequest { commission_percent: Some(9.0), ..bella_with_request_id() },
        CreateFullyProvisionedRequest { slug: "bella-two".to_owned(), ..bella_with_request_id() },
    ] {
        assert_reused(&fixture.create(other).await.unwrap_err());
    }
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
    let equivalent = CreateFullyProvisionedRequest {
        name: " Bella Weddings ".to_owned(),
        commission_percent: Some(10.0),
        ..bella_with_request_id()
    };
    assert!(fixture.create(equivalent).await.unwrap().replayed, "the parsed values are equal");
}

#[tokio::test]
async fn a_request_id_is_scoped_to_one_rpc() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.create(bella_with_request_id()).await.unwrap().tenant.unwrap().id;
    assert!(!fixture.sign_up(signup_with_request_id()).await.unwrap().replayed);
    assert!(!fixture.try_rotate(rotate(&tenant_id)).await.unwrap().replayed);
    assert_eq!(fixture.count("idempotency_records").await, 3);
}

#[tokio::test]
async fn a_failed_call_does_not_use_up_its_request_id() {
    let fixture = Fixture::start().await;
    fixture.create(bella()).await.unwrap();
    assert_eq!(reason(&fixture.create(bella_with_request_id()).await.unwrap_err()), "SLUG_TAKEN");
    let invalid = CreateFullyProvisionedRequest { name: String::new(), ..bella_with_request_id() };
    assert_eq!(reason(&fixture.create(invalid).await.unwrap_err()), "INVALID_REQUEST");
    let dry_run =
        CreateFullyProvisionedRequest { validate_only: true, slug: "bella-two".to_owned(), ..bella_with_request_id() };
    assert!(!fixture.create(dry_run).await.unwrap().replayed);
    let other = CreateFullyProvisionedRequest { slug: "bella-two".to_owned(), ..bella_with_request_id() };
    assert!(!fixture.create(other).await.unwrap().replayed);
    let unknown = uuid::Uuid::new_v4().to_string();
    assert_eq!(reason(&fixture.try_rotate(rotate(&unknown)).await.unwrap_err()), "TENANT_NOT_FOUND");
    assert_eq!(fixture.count("idempotency_records").await, 1);
}

#[tokio::test]
async fn validate_only_reports_a_replay_and_a_reused_request_id() {
    let fixture = Fixture::start().await;
    let first = fixture.create(bella_with_request_id()).await.unwrap();
    let dry_run = CreateFullyProvisionedRequest { validate_only: true, ..bella_with_request_id() };
    assert_eq!(fixture.create(dry_run.clone()).await.unwrap(), replayed(clear_generated_fields(first)));
    let reused = CreateFullyProvisionedRequest { slug: "bella-two".to_owned(), ..dry_run };
    assert_eq!(reason(&fixture.create(reused).await.unwrap_err()), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_repeated_rotation_is_replayed_after_its_tenant_was_deleted() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let first = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    fixture.delete_tenant(&tenant.id).await.unwrap();
    let repeated = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    assert!(repeated.replayed);
    assert_eq!((repeated.api_key, repeated.secret_key), (first.api_key, first.secret_key));
}

#[tokio::test]
async fn a_replay_shows_the_current_state_of_what_the_first_call_created() {
    let fixture = Fixture::start().await;
    let first = fixture.create(bella_with_request_id()).await.unwrap();
    let tenant_id = first.tenant.as_ref().unwrap().id.clone();
    let renamed = UpdateTenantRequest {
        tenant_id: tenant_id.clone(),
        name: Some("Bella & Co".to_owned()),
        ..UpdateTenantRequest::default()
    };
    let renamed = fixture.provisioning.clone().update_tenant(renamed).await.unwrap().into_inner().tenant.unwrap();
    fixture.delete_package(&tenant_id, &first.packages[1].id).await.unwrap();
    let repeated = fixture.create(bella_with_request_id()).await.unwrap();
    assert_eq!(repeated.tenant.unwrap(), renamed);
    assert_eq!(repeated.packages, [first.packages[0].clone(), first.packages[2].clone()]);
    let segment = Segment { package_count: 2, ..first.segment.unwrap() };
    assert_eq!((repeated.segment, repeated.secret_key), (Some(segment), first.secret_key));
    let deleted = fixture.delete_tenant(&tenant_id).await.unwrap();
    assert_eq!(fixture.create(bella_with_request_id()).await.unwrap().tenant.unwrap(), deleted);
}

#[tokio::test]
async fn a_replay_has_no_secret_after_24_hours_and_the_request_id_is_free_after_30_days() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("omers-cafe").await;
    let first = fixture.create(bella_with_request_id()).await.unwrap();
    let rotated = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    fixture.advance_clock(Duration::hours(24) - Duration::minutes(1));
    assert_eq!(fixture.create(bella_with_request_id()).await.unwrap().secret_key, first.secret_key);
    assert_eq!(fixture.try_rotate(rotate(&tenant.id)).await.unwrap().secret_key, rotated.secret_key);
    fixture.advance_clock(Duration::minutes(1));
    let late = fixture.create(bella_with_request_id()).await.unwrap();
    assert_eq!(late, CreateFullyProvisionedResponse { secret_key: String::new(), ..replayed(first) });
    let late = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    assert_eq!((late.replayed, late.secret_key.as_str(), &late.api_key), (true, "", &rotated.api_key));

    fixture.advance_clock(Duration::days(29));
    assert_eq!(
        reason(&fixture.create(bella_with_request_id()).await.unwrap_err()),
        "SLUG_TAKEN",
        "the call is no replay"
    );
    let new_rotation = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    assert!(!new_rotation.replayed && new_rotation.api_key != rotated.api_key);
    let other = CreateFullyProvisionedRequest { slug: "bella-two".to_owned(), ..bella_with_request_id() };
    assert!(!fixture.create(other.clone()).await.unwrap().replayed, "the request id can be used again");
    assert!(fixture.create(other).await.unwrap().replayed);
}

#[tokio::test]
async fn a_replay_has_no_secret_once_its_key_was_rotated_or_revoked() {
    let fixture = Fixture::start().await;
    let first = fixture.create(bella_with_request_id()).await.unwrap();
    let tenant_id = first.tenant.as_ref().unwrap().id.clone();
    let rotated = fixture.try_rotate(rotate(&tenant_id)).await.unwrap();
    let repeated = fixture.create(bella_with_request_id()).await.unwrap();
    assert_eq!((repeated.replayed, repeated.secret_key.as_str()), (true, ""));
    let public_key = rotated.api_key.unwrap().public_key;
    fixture.revoke(&tenant_id, &public_key).await.unwrap();
    let repeated = fixture.try_rotate(rotate(&tenant_id)).await.unwrap();
    assert_eq!((repeated.replayed, repeated.secret_key.as_str()), (true, ""));
    assert!(repeated.api_key.unwrap().revoked_at.is_some());
}

/// A copy of the database contains hashes of the id and of the secret, and a salt that is useless without the id.
#[tokio::test]
async fn the_database_contains_a_hash_of_the_request_id_and_not_the_id() {
    let fixture = Fixture::start().await;
    let first = fixture.create(bella_with_request_id()).await.unwrap();
    let row: String = sqlx::query_scalar("SELECT idempotency_records::text FROM idempotency_records")
        .fetch_one(&fixture.superuser_pool().await)
        .await
        .unwrap();
    let secret = SecretString::from(first.secret_key);
    for absent in [REQUEST_ID, &REQUEST_ID.replace('-', ""), secret.expose_secret()] {
        assert!(!row.contains(absent), "{row}");
    }
}
