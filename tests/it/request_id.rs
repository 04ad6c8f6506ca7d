//! A call that is repeated with its request id is answered as it was the first time.

use secrecy::{ExposeSecret as _, SecretString};
use time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{
    CreateFromSignupRequest, CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, DeletePackageRequest,
    RotateApiKeyRequest, UpdateTenantRequest, Verdict,
};

use crate::{
    create_from_signup::signup,
    create_fully_provisioned::clear_generated_fields,
    fixture::{Fixture, ONE_TENANT, bella, named, reason},
    rotate_api_key::rotation,
};

const ID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

pub fn create() -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest { request_id: Some(ID.to_owned()), ..bella() }
}

pub fn sign_up() -> CreateFromSignupRequest {
    CreateFromSignupRequest { request_id: Some(ID.to_owned()), ..signup("Bella", "bella@example.com") }
}

fn rotate(tenant_id: &str) -> RotateApiKeyRequest {
    RotateApiKeyRequest { request_id: Some(ID.to_owned()), ..rotation(tenant_id, None) }
}

fn replayed(first: CreateFullyProvisionedResponse) -> CreateFullyProvisionedResponse {
    CreateFullyProvisionedResponse { replayed: true, ..first }
}

fn assert_reused(refused: &Status) {
    assert_eq!((refused.code(), reason(refused).as_str()), (Code::FailedPrecondition, "REQUEST_ID_REUSED"));
    let failure = refused.get_details_precondition_failure().unwrap();
    assert_eq!(failure.violations[0].r#type, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_repeated_creation_gets_the_same_tenant_the_same_key_and_the_same_secret() {
    let fixture = Fixture::start().await;
    let first = fixture.create(create()).await.unwrap();
    assert!(!first.replayed && !first.secret_key.is_empty());
    assert_eq!(fixture.create(create()).await.unwrap(), replayed(first.clone()));
    // The same id, typed otherwise.
    let shouted = CreateFullyProvisionedRequest { request_id: Some(ID.to_uppercase()), ..bella() };
    assert_eq!(fixture.create(shouted).await.unwrap(), replayed(first.clone()));
    assert_eq!(fixture.verify(&first.secret_key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_repeated_signup_gets_the_same_tenant_and_a_slug_that_was_made_is_not_made_again() {
    let fixture = Fixture::start().await;
    fixture.create(named("bella")).await.unwrap();
    let first = fixture.sign_up(sign_up()).await.unwrap();
    let again = fixture.sign_up(sign_up()).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!(
        (&again.tenant, &again.secret_key, &again.packages),
        (&first.tenant, &first.secret_key, &first.packages)
    );
    assert_eq!(fixture.count("tenants").await, 2);
}

#[tokio::test]
async fn a_repeated_signup_with_another_password_is_another_call() {
    let fixture = Fixture::start().await;
    fixture.sign_up(sign_up()).await.unwrap();
    let other = CreateFromSignupRequest { password: "another lamp and tulips".to_owned(), ..sign_up() };
    assert_reused(&fixture.sign_up(other).await.unwrap_err());
    let other = CreateFromSignupRequest { business_name: "Bella & Co".to_owned(), ..sign_up() };
    assert_reused(&fixture.sign_up(other).await.unwrap_err());
}

#[tokio::test]
async fn a_repeated_rotation_gets_the_same_key_and_rotates_nothing() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let first = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    fixture.advance_clock(Duration::hours(1));
    let again = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!((&again.api_key, &again.secret_key), (&first.api_key, &first.secret_key));
    assert_eq!(fixture.keys(&tenant.id).await.len(), 2);
    let other = RotateApiKeyRequest { request_id: Some(ID.to_owned()), ..rotation(&tenant.id, Some(Duration::ZERO)) };
    assert_reused(&fixture.try_rotate(other).await.unwrap_err());
    let another = fixture.tenant("omers-cafe").await;
    assert_reused(&fixture.try_rotate(rotate(&another.id)).await.unwrap_err());
    assert_eq!(fixture.keys(&another.id).await.len(), 1);
}

#[tokio::test]
async fn fifty_identical_creations_at_once_make_one_tenant_and_get_fifty_identical_answers() {
    let fixture = Fixture::start().await;
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let mut client = fixture.provisioning.clone();
        calls.spawn(async move { client.create_fully_provisioned(create()).await.unwrap().into_inner() });
    }
    let answers = calls.join_all().await;
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    let first = replayed(answers[0].clone());
    assert!(!first.secret_key.is_empty());
    assert!(answers.into_iter().all(|answer| replayed(answer) == first));
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn twenty_identical_rotations_and_signups_at_once_are_one_each() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("omers-cafe").await;
    let (mut rotations, mut signups) = (JoinSet::new(), JoinSet::new());
    for _ in 0..20 {
        let (mut client, request) = (fixture.provisioning.clone(), rotate(&tenant.id));
        rotations.spawn(async move { client.rotate_api_key(request).await.unwrap().into_inner() });
        let mut client = fixture.provisioning.clone();
        signups.spawn(async move { client.create_from_signup(sign_up()).await.unwrap().into_inner() });
    }
    let (rotations, signups) = (rotations.join_all().await, signups.join_all().await);
    let one = &rotations[0];
    assert!(rotations.iter().all(|other| (&other.api_key, &other.secret_key) == (&one.api_key, &one.secret_key)));
    assert_eq!(rotations.iter().filter(|answer| !answer.replayed).count(), 1);
    let one = &signups[0];
    assert!(signups.iter().all(|other| (&other.tenant, &other.secret_key) == (&one.tenant, &one.secret_key)));
    assert_eq!(signups.iter().filter(|answer| !answer.replayed).count(), 1);
    assert_eq!(fixture.row_counts().await, [2, 2, 6, 3]);
}

#[tokio::test]
async fn the_same_id_with_another_payload_is_refused_and_makes_nothing() {
    let fixture = Fixture::start().await;
    fixture.create(create()).await.unwrap();
    for other in [
        CreateFullyProvisionedRequest { name: "Bella".to_owned(), ..create() },
        CreateFullyProvisionedRequest { commission_percent: Some(9.0), ..create() },
        CreateFullyProvisionedRequest { slug: "bella-two".to_owned(), ..create() },
    ] {
        assert_reused(&fixture.create(other).await.unwrap_err());
    }
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
    let said_otherwise = CreateFullyProvisionedRequest {
        name: " Bella Weddings ".to_owned(),
        commission_percent: Some(10.0),
        ..create()
    };
    assert!(fixture.create(said_otherwise).await.unwrap().replayed, "it comes to the same");
}

#[tokio::test]
async fn an_id_counts_for_one_rpc_only() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.create(create()).await.unwrap().tenant.unwrap().id;
    assert!(!fixture.sign_up(sign_up()).await.unwrap().replayed);
    assert!(!fixture.try_rotate(rotate(&tenant_id)).await.unwrap().replayed);
    assert_eq!(fixture.count("idempotency_records").await, 3);
}

#[tokio::test]
async fn a_call_that_fails_does_not_use_its_id_up() {
    let fixture = Fixture::start().await;
    fixture.create(bella()).await.unwrap();
    assert_eq!(reason(&fixture.create(create()).await.unwrap_err()), "SLUG_TAKEN");
    let bad = CreateFullyProvisionedRequest { name: String::new(), ..create() };
    assert_eq!(reason(&fixture.create(bad).await.unwrap_err()), "INVALID_REQUEST");
    let only = CreateFullyProvisionedRequest { validate_only: true, slug: "bella-two".to_owned(), ..create() };
    assert!(!fixture.create(only).await.unwrap().replayed);
    let other = CreateFullyProvisionedRequest { slug: "bella-two".to_owned(), ..create() };
    assert!(!fixture.create(other).await.unwrap().replayed);
    let nobody = uuid::Uuid::new_v4().to_string();
    assert_eq!(reason(&fixture.try_rotate(rotate(&nobody)).await.unwrap_err()), "TENANT_NOT_FOUND");
    assert_eq!(fixture.count("idempotency_records").await, 1);
}

#[tokio::test]
async fn validate_only_tells_what_the_request_id_would_come_to() {
    let fixture = Fixture::start().await;
    let first = fixture.create(create()).await.unwrap();
    let dry = CreateFullyProvisionedRequest { validate_only: true, ..create() };
    assert_eq!(fixture.create(dry.clone()).await.unwrap(), replayed(clear_generated_fields(first)));
    let reused = CreateFullyProvisionedRequest { slug: "bella-two".to_owned(), ..dry };
    assert_eq!(reason(&fixture.create(reused).await.unwrap_err()), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_repeated_rotation_is_answered_though_its_tenant_was_deleted_since() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let first = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    fixture.delete_tenant(&tenant.id).await.unwrap();
    let again = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    assert!(again.replayed);
    assert_eq!((again.api_key, again.secret_key), (first.api_key, first.secret_key));
}

#[tokio::test]
async fn a_repeat_shows_what_the_first_made_as_it_is_now() {
    let fixture = Fixture::start().await;
    let first = fixture.create(create()).await.unwrap();
    let tenant_id = first.tenant.as_ref().unwrap().id.clone();
    let renamed = UpdateTenantRequest {
        tenant_id: tenant_id.clone(),
        name: Some("Bella & Co".to_owned()),
        ..UpdateTenantRequest::default()
    };
    let renamed = fixture.provisioning.clone().update_tenant(renamed).await.unwrap().into_inner().tenant.unwrap();
    let gone = DeletePackageRequest { tenant_id: tenant_id.clone(), package_id: first.packages[1].id.clone() };
    fixture.catalog.clone().delete_package(gone).await.unwrap();
    let again = fixture.create(create()).await.unwrap();
    assert_eq!(again.tenant.unwrap(), renamed);
    assert_eq!(again.packages, [first.packages[0].clone(), first.packages[2].clone()]);
    assert_eq!((again.segment, again.secret_key), (first.segment, first.secret_key));
    let deleted = fixture.delete_tenant(&tenant_id).await.unwrap();
    assert_eq!(fixture.create(create()).await.unwrap().tenant.unwrap(), deleted);
}

#[tokio::test]
async fn after_24_hours_the_secret_is_gone_and_after_30_days_the_claim() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("omers-cafe").await;
    let first = fixture.create(create()).await.unwrap();
    let rotated = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    fixture.advance_clock(Duration::hours(24) - Duration::minutes(1));
    assert_eq!(fixture.create(create()).await.unwrap().secret_key, first.secret_key);
    assert_eq!(fixture.try_rotate(rotate(&tenant.id)).await.unwrap().secret_key, rotated.secret_key);
    fixture.advance_clock(Duration::minutes(1));
    let late = fixture.create(create()).await.unwrap();
    assert_eq!(late, CreateFullyProvisionedResponse { secret_key: String::new(), ..replayed(first) });
    let late = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    assert_eq!((late.replayed, late.secret_key.as_str(), &late.api_key), (true, "", &rotated.api_key));

    fixture.advance_clock(Duration::days(29));
    assert_eq!(reason(&fixture.create(create()).await.unwrap_err()), "SLUG_TAKEN", "it is a new call");
    let anew = fixture.try_rotate(rotate(&tenant.id)).await.unwrap();
    assert!(!anew.replayed && anew.api_key != rotated.api_key);
    let other = CreateFullyProvisionedRequest { slug: "bella-two".to_owned(), ..create() };
    assert!(!fixture.create(other.clone()).await.unwrap().replayed, "an id of long ago can be used again");
    assert!(fixture.create(other).await.unwrap().replayed);
}

#[tokio::test]
async fn once_its_key_was_rotated_or_revoked_a_repeat_has_no_secret() {
    let fixture = Fixture::start().await;
    let first = fixture.create(create()).await.unwrap();
    let tenant_id = first.tenant.as_ref().unwrap().id.clone();
    let rotated = fixture.try_rotate(rotate(&tenant_id)).await.unwrap();
    let again = fixture.create(create()).await.unwrap();
    assert_eq!((again.replayed, again.secret_key.as_str()), (true, ""));
    let public_key = rotated.api_key.unwrap().public_key;
    fixture.revoke(&tenant_id, &public_key).await.unwrap();
    let again = fixture.try_rotate(rotate(&tenant_id)).await.unwrap();
    assert_eq!((again.replayed, again.secret_key.as_str()), (true, ""));
    assert!(again.api_key.unwrap().revoked_at.is_some());
}

/// What a thief finds: hashes of the id and of the secret, and a salt that is worth nothing without the id.
#[tokio::test]
async fn the_table_holds_a_hash_of_the_id_and_not_the_id() {
    let fixture = Fixture::start().await;
    let first = fixture.create(create()).await.unwrap();
    let row: String = sqlx::query_scalar("SELECT idempotency_records::text FROM idempotency_records")
        .fetch_one(&fixture.superuser_pool().await)
        .await
        .unwrap();
    let secret = SecretString::from(first.secret_key);
    for absent in [ID, &ID.replace('-', ""), secret.expose_secret()] {
        assert!(!row.contains(absent), "{row}");
    }
}
