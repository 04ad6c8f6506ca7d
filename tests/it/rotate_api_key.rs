//! `RotateApiKey`: a new key, and an expiry for the old ones.

use time::{Duration, OffsetDateTime};
use tokio::task::JoinSet;
use tonic::Code;
use turnkey::grpc::pb::{ApiKey, ApiKeyScope, RotateApiKeyRequest, Verdict, get_tenant_request::Identifier};

use crate::support::{
    fixture::Fixture,
    requests::{REQUEST_ID, another_key, rotation, rotation_of, storefront_key},
    responses::{reason, violations},
};

async fn verdict(fixture: &Fixture, secret_key: &str) -> Verdict {
    fixture.verify(secret_key).await.verdict()
}

/// The time from the creation of `since` to the expiry of `key`.
fn lifetime(key: &ApiKey, since: &ApiKey) -> Option<Duration> {
    let time = |timestamp: prost_types::Timestamp| {
        OffsetDateTime::from_unix_timestamp(timestamp.seconds).unwrap() + Duration::nanoseconds(timestamp.nanos.into())
    };
    key.expires_at.map(|expiry| time(expiry) - time(since.created_at.unwrap()))
}

#[tokio::test]
async fn after_a_rotation_the_new_key_is_valid_at_once_and_the_old_one_for_24_hours() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let rotated = fixture.rotate(&tenant, None).await;
    let key = rotated.api_key.unwrap();
    assert!(rotated.secret_key.starts_with("sk_live_bella_") && !rotated.replayed);
    assert_eq!(rotated.secret_key[..key.public_key.len()].replacen("sk_", "pk_", 1), key.public_key);
    assert_eq!((key.tenant_id.as_str(), key.expires_at, key.revoked_at), (tenant.id.as_str(), None, None));

    assert_eq!(verdict(&fixture, &rotated.secret_key).await, Verdict::Valid);
    assert_eq!(verdict(&fixture, &tenant.secret_key).await, Verdict::Valid);
    fixture.advance_clock(Duration::hours(24));
    assert_eq!(verdict(&fixture, &tenant.secret_key).await, Verdict::Expired);
    assert_eq!(verdict(&fixture, &rotated.secret_key).await, Verdict::Valid);
}

#[tokio::test]
async fn a_rotation_with_an_overlap_of_zero_expires_the_old_key_at_once() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.rotate(&tenant, Some(Duration::ZERO)).await;
    assert_eq!(verdict(&fixture, &tenant.secret_key).await, Verdict::Expired);
}

#[tokio::test]
async fn the_overlap_of_a_rotation_is_between_0_and_30_days() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.rotate(&tenant, Some(Duration::days(30))).await;
    fixture.advance_clock(Duration::days(30) - Duration::minutes(1));
    assert_eq!(verdict(&fixture, &tenant.secret_key).await, Verdict::Valid);
    for invalid in [Duration::days(30) + Duration::nanoseconds(1), Duration::seconds(-1), Duration::nanoseconds(-1)] {
        let error = fixture.try_rotate(rotation(&tenant.id, Some(invalid))).await.unwrap_err();
        assert_eq!(violations(&error), [("overlap".to_owned(), "OUT_OF_RANGE".to_owned())], "{invalid}");
    }
}

#[tokio::test]
async fn a_second_rotation_shortens_the_expiry_of_old_keys_and_never_extends_it() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.rotate(&tenant, Some(Duration::hours(1))).await;
    let last = fixture.rotate(&tenant, Some(Duration::hours(2))).await.api_key.unwrap();
    let keys = fixture.keys(&tenant.id).await;
    assert_eq!(keys[0], last);
    assert_eq!(lifetime(&keys[1], &last), Some(Duration::hours(2)), "from the second rotation");
    assert!(lifetime(&keys[2], &last).unwrap() < Duration::hours(1), "still from the first");

    fixture.rotate(&tenant, Some(Duration::ZERO)).await;
    fixture.advance_clock(Duration::seconds(1));
    assert_eq!(verdict(&fixture, &tenant.secret_key).await, Verdict::Expired, "a shorter overlap applies to all keys");
}

#[tokio::test]
async fn after_a_rotation_the_tenant_shows_its_newest_usable_key() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let rotated = fixture.rotate(&tenant, None).await.api_key.unwrap();
    let shown = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap().api_key_public;
    assert_eq!(shown, rotated.public_key);
    fixture.revoke(&tenant.id, &rotated.public_key).await.unwrap();
    let shown = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap().api_key_public;
    assert_eq!(shown, tenant.public_key, "the old key is still usable");
    fixture.advance_clock(Duration::hours(24));
    let shown = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap().api_key_public;
    assert_eq!(shown, rotated.public_key, "no key is usable, so the newest is shown");
}

#[tokio::test]
async fn ten_concurrent_rotations_leave_only_the_newest_key_without_an_expiry() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let mut client = fixture.provisioning.clone();
        let request = rotation(&tenant.id, None);
        calls.spawn(async move { client.rotate_api_key(request).await.unwrap().into_inner() });
    }
    let rotated = calls.join_all().await;
    let keys = fixture.keys(&tenant.id).await;
    assert_eq!(keys.len(), 11);
    assert!(keys[0].expires_at.is_none());
    assert!(keys[1..].iter().all(|key| key.expires_at.is_some()), "{keys:?}");
    for response in rotated {
        assert_eq!(verdict(&fixture, &response.secret_key).await, Verdict::Valid);
    }
}

#[tokio::test]
async fn a_new_key_is_the_newest_even_if_the_clock_of_another_replica_is_ahead() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    sqlx::query("UPDATE api_keys SET created_at = created_at + interval '1 hour'")
        .execute(&fixture.superuser_pool().await)
        .await
        .unwrap();
    let rotated = fixture.rotate(&tenant, None).await.api_key.unwrap();
    assert_eq!(fixture.keys(&tenant.id).await[0], rotated);
}

#[tokio::test]
async fn a_suspended_tenant_can_rotate_its_key_and_a_deleted_or_unknown_one_cannot() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.suspend_tenant(&tenant.id).await.unwrap();
    let rotated = fixture.rotate(&tenant, None).await;
    assert_eq!(verdict(&fixture, &rotated.secret_key).await, Verdict::TenantSuspended);
    fixture.delete_tenant(&tenant.id).await.unwrap();
    for tenant_id in [tenant.id.clone(), uuid::Uuid::new_v4().to_string()] {
        let error = fixture.try_rotate(rotation(&tenant_id, None)).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    assert_eq!(fixture.count("api_keys").await, 2);
}

#[tokio::test]
async fn the_rotation_of_one_key_keeps_its_properties_and_changes_no_other_key() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let other = fixture.create_key(another_key(&tenant.id)).await.unwrap().api_key.unwrap();
    let first = fixture.keys(&tenant.id).await.pop().unwrap();
    let created = fixture.create_key(storefront_key(&tenant.id)).await.unwrap();
    let old = created.api_key.unwrap();
    let rotated = fixture.try_rotate(rotation_of(&tenant.id, &old.public_key)).await.unwrap();
    let new = rotated.api_key.unwrap();
    assert_eq!((&new.name, new.scope, new.expires_at), (&old.name, old.scope, old.expires_at));
    let replaced = ApiKey { expires_at: fixture.keys(&tenant.id).await[1].expires_at, ..old };
    assert_eq!(lifetime(&replaced, &new), Some(Duration::hours(24)));
    assert_eq!(fixture.keys(&tenant.id).await, [new, replaced, other, first]);
    assert_eq!(verdict(&fixture, &rotated.secret_key).await, Verdict::Valid);
    fixture.advance_clock(Duration::hours(24));
    assert_eq!(verdict(&fixture, &created.secret_key).await, Verdict::Expired);
}

#[tokio::test]
async fn a_rotation_of_all_keys_creates_a_key_like_the_first_one_of_a_tenant() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.create_key(storefront_key(&tenant.id)).await.unwrap();
    let new = fixture.rotate(&tenant, Some(Duration::ZERO)).await.api_key.unwrap();
    assert_eq!((new.name, new.scope, new.expires_at), (None, ApiKeyScope::Catalog.into(), None));
    assert!(fixture.keys(&tenant.id).await[1..].iter().all(|key| key.expires_at == new.created_at));
}

#[tokio::test]
async fn a_key_that_would_expire_before_the_end_of_the_overlap_keeps_its_expiry() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let old = fixture.create_key(storefront_key(&tenant.id)).await.unwrap().api_key.unwrap();
    let overlap = rotation(&tenant.id, Some(Duration::days(30))).overlap;
    let request = RotateApiKeyRequest { overlap, ..rotation_of(&tenant.id, &old.public_key) };
    fixture.try_rotate(request).await.unwrap();
    assert_eq!(fixture.keys(&tenant.id).await[1], old);
}

#[tokio::test]
async fn the_key_to_rotate_must_be_a_public_key_of_the_tenant() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella-weddings").await, fixture.tenant("omers-cafe").await);
    let mistyped = tenant.public_key.replacen("bella", "belle", 1);
    for unknown in [other.public_key.as_str(), "pk_live_bella_0123456789abcdef", &mistyped] {
        let error = fixture.try_rotate(rotation_of(&tenant.id, unknown)).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "API_KEY_NOT_FOUND"), "{unknown}");
    }
    for (malformed, expected) in [("", "MISSING_FIELD"), (tenant.secret_key.as_str(), "BAD_FORMAT")] {
        let error = fixture.try_rotate(rotation_of(&tenant.id, malformed)).await.unwrap_err();
        assert_eq!(violations(&error), [("public_key".to_owned(), expected.to_owned())]);
    }
    assert_eq!(fixture.count("api_keys").await, 2);
}

#[tokio::test]
async fn a_key_that_is_expired_revoked_or_replaced_cannot_be_rotated_again() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let expired = fixture.create_key(storefront_key(&tenant.id)).await.unwrap().api_key.unwrap().public_key;
    fixture.advance_clock(Duration::days(7));
    let revoked = fixture.create_key(another_key(&tenant.id)).await.unwrap().api_key.unwrap().public_key;
    fixture.revoke(&tenant.id, &revoked).await.unwrap();
    let request =
        RotateApiKeyRequest { request_id: Some(REQUEST_ID.to_owned()), ..rotation_of(&tenant.id, &tenant.public_key) };
    let rotated = fixture.try_rotate(request.clone()).await.unwrap();
    let before = fixture.keys(&tenant.id).await;
    for ended in [&expired, &revoked, &tenant.public_key] {
        let error = fixture.try_rotate(rotation_of(&tenant.id, ended)).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "API_KEY_ENDED"), "{ended}");
    }
    assert_eq!(verdict(&fixture, &tenant.secret_key).await, Verdict::Valid, "within the overlap");
    let repeated = fixture.try_rotate(request).await.unwrap();
    assert!(repeated.replayed);
    assert_eq!((repeated.api_key, repeated.secret_key), (rotated.api_key, rotated.secret_key));
    assert_eq!(fixture.keys(&tenant.id).await, before);
}

#[tokio::test]
async fn of_ten_concurrent_rotations_of_one_key_one_succeeds() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let (mut client, request) = (fixture.provisioning.clone(), rotation_of(&tenant.id, &tenant.public_key));
        calls.spawn(async move { client.rotate_api_key(request).await.map(drop) });
    }
    let errors: Vec<_> = calls.join_all().await.into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 9);
    assert!(errors.iter().all(|error| reason(error) == "API_KEY_ENDED"), "{errors:?}");
    assert_eq!(fixture.keys(&tenant.id).await.len(), 2);
}
