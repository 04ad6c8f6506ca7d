//! `CreateApiKey`: one more key, with a name, a scope and an expiry.

use prost_types::Timestamp;
use time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use turnkey::grpc::pb::{ApiKeyScope, CreateApiKeyRequest, CreateApiKeyResponse, Verdict};

use crate::support::{
    fixture::Fixture,
    requests::{REQUEST_ID, another_key, rotation, rotation_of, storefront_key, time_after},
    responses::{reason, violations},
};

fn named(tenant_id: &str) -> CreateApiKeyRequest {
    CreateApiKeyRequest { request_id: Some(REQUEST_ID.to_owned()), ..storefront_key(tenant_id) }
}

fn assert_replayed(replay: &CreateApiKeyResponse, first: &CreateApiKeyResponse, secret_key: &str) {
    assert!(replay.replayed && !first.replayed);
    let public_key = |response: &CreateApiKeyResponse| response.api_key.as_ref().unwrap().public_key.clone();
    assert_eq!((public_key(replay), replay.secret_key.as_str()), (public_key(first), secret_key));
}

fn code_and_reason(error: &Status) -> (Code, String) {
    (error.code(), reason(error))
}

#[tokio::test]
async fn a_created_key_has_the_requested_properties_and_changes_no_other_key() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let before = fixture.keys(&tenant.id).await;
    let request = CreateApiKeyRequest { name: Some(" Storefront ".to_owned()), ..storefront_key(&tenant.id) };
    let created = fixture.create_key(request.clone()).await.unwrap();
    let key = created.api_key.clone().unwrap();
    assert_eq!((key.name.as_deref(), key.scope()), (Some("Storefront"), ApiKeyScope::CatalogRead));
    assert_eq!((key.tenant_id.as_str(), key.expires_at), (tenant.id.as_str(), request.expires_at));
    assert_eq!((key.revoked_at, key.last_used_at), (None, None));
    assert_eq!(created.secret_key[..key.public_key.len()].replacen("sk_", "pk_", 1), key.public_key);
    assert_eq!(fixture.keys(&tenant.id).await, [std::slice::from_ref(&key), &before].concat());

    let verified = fixture.verify(&created.secret_key).await;
    assert_eq!((verified.verdict(), verified.scope()), (Verdict::Valid, ApiKeyScope::CatalogRead));
    assert_eq!((verified.tenant_id, verified.public_key), (tenant.id, key.public_key));
    assert_eq!(fixture.verify(&tenant.secret_key).await.scope(), ApiKeyScope::Catalog);
    fixture.advance_clock(Duration::days(7));
    assert_eq!(fixture.verify(&created.secret_key).await.verdict(), Verdict::Expired);
}

#[tokio::test]
async fn without_optional_fields_a_key_has_the_scope_catalog_and_no_name_and_no_expiry() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let key = fixture.create_key(another_key(&tenant.id)).await.unwrap().api_key.unwrap();
    assert_eq!((key.name, key.expires_at), (None, None));
    assert_eq!(key.scope, i32::from(ApiKeyScope::Catalog));
}

#[tokio::test]
async fn all_invalid_fields_are_reported_together() {
    let fixture = Fixture::start().await;
    let invalid = CreateApiKeyRequest {
        tenant_id: "bella".to_owned(),
        name: Some("\u{200b}".to_owned()),
        scope: 3,
        expires_at: Some(Timestamp { seconds: 0, nanos: -1 }),
        request_id: Some("1".to_owned()),
    };
    let error = fixture.create_key(invalid).await.unwrap_err();
    let expected = ["tenant_id", "name", "scope", "expires_at", "request_id"];
    assert_eq!(violations(&error), expected.map(|field| (field.to_owned(), "BAD_FORMAT".to_owned())));
}

#[tokio::test]
async fn an_expiry_must_be_in_the_future() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let year_10000 = Timestamp { seconds: 253_402_300_800, nanos: 0 };
    for time in [time_after(Duration::ZERO), time_after(-Duration::days(1)), Timestamp::default(), year_10000] {
        let request = CreateApiKeyRequest { expires_at: Some(time), ..another_key(&tenant.id) };
        let error = fixture.create_key(request).await.unwrap_err();
        assert_eq!(violations(&error), [("expires_at".to_owned(), "OUT_OF_RANGE".to_owned())], "{time}");
    }
    assert_eq!(fixture.count("api_keys").await, 1);
}

#[tokio::test]
async fn a_repeated_creation_returns_the_same_key_and_creates_nothing() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let request = named(&tenant.id);
    let first = fixture.create_key(request.clone()).await.unwrap();
    assert_replayed(&fixture.create_key(request.clone()).await.unwrap(), &first, &first.secret_key);
    for other in [
        CreateApiKeyRequest { name: None, ..request.clone() },
        CreateApiKeyRequest { scope: ApiKeyScope::Catalog.into(), ..request.clone() },
        CreateApiKeyRequest { expires_at: None, ..request.clone() },
    ] {
        let error = fixture.create_key(other).await.unwrap_err();
        assert_eq!(code_and_reason(&error), (Code::FailedPrecondition, "REQUEST_ID_REUSED".to_owned()));
    }
    assert_eq!(fixture.count("api_keys").await, 2);

    fixture.delete_tenant(&tenant.id).await.unwrap();
    assert_replayed(&fixture.create_key(request.clone()).await.unwrap(), &first, &first.secret_key);
    fixture.undelete_tenant(&tenant.id).await.unwrap();
    fixture.revoke(&tenant.id, &first.api_key.as_ref().unwrap().public_key).await.unwrap();
    assert_replayed(&fixture.create_key(request).await.unwrap(), &first, "");
}

#[tokio::test]
async fn a_creation_is_replayed_after_the_expiry_of_its_key() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let request = CreateApiKeyRequest { expires_at: Some(time_after(Duration::minutes(5))), ..named(&tenant.id) };
    let first = fixture.create_key(request.clone()).await.unwrap();
    fixture.advance_clock(Duration::minutes(10));
    assert_replayed(&fixture.create_key(request.clone()).await.unwrap(), &first, &first.secret_key);
    fixture.advance_clock(Duration::hours(24));
    assert_replayed(&fixture.create_key(request).await.unwrap(), &first, "");
}

#[tokio::test]
async fn the_secret_of_a_created_key_is_not_replayed_after_a_rotation() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let request = named(&tenant.id);
    let first = fixture.create_key(request.clone()).await.unwrap();
    fixture.try_rotate(rotation_of(&tenant.id, &tenant.public_key)).await.unwrap();
    assert_replayed(&fixture.create_key(request.clone()).await.unwrap(), &first, &first.secret_key);
    // The overlap is longer than the key's own lifetime, which stays.
    fixture.try_rotate(rotation(&tenant.id, Some(Duration::days(30)))).await.unwrap();
    let replay = fixture.create_key(request).await.unwrap();
    assert_replayed(&replay, &first, "");
    assert_eq!(replay.api_key, first.api_key);
}

#[tokio::test]
async fn twenty_concurrent_identical_creations_create_one_key() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let (mut calls, request) = (JoinSet::new(), named(&tenant.id));
    for _ in 0..20 {
        let (mut client, request) = (fixture.provisioning.clone(), request.clone());
        calls.spawn(async move { client.create_api_key(request).await.unwrap().into_inner() });
    }
    let responses = calls.join_all().await;
    assert_eq!(responses.iter().filter(|response| !response.replayed).count(), 1);
    let one = &responses[0];
    assert!(responses.iter().all(|other| (&other.api_key, &other.secret_key) == (&one.api_key, &one.secret_key)));
    assert_eq!(fixture.count("api_keys").await, 2);
}

#[tokio::test]
async fn a_suspended_tenant_can_get_another_key_and_a_deleted_or_unknown_one_cannot() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.suspend_tenant(&tenant.id).await.unwrap();
    let created = fixture.create_key(another_key(&tenant.id)).await.unwrap();
    assert_eq!(fixture.verify(&created.secret_key).await.verdict(), Verdict::TenantSuspended);
    fixture.delete_tenant(&tenant.id).await.unwrap();
    for tenant_id in [tenant.id.clone(), uuid::Uuid::new_v4().to_string()] {
        let error = fixture.create_key(another_key(&tenant_id)).await.unwrap_err();
        assert_eq!(code_and_reason(&error), (Code::NotFound, "TENANT_NOT_FOUND".to_owned()));
    }
    assert_eq!(fixture.count("api_keys").await, 2);
}
