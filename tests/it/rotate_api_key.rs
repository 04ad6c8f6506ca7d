//! `RotateApiKey`: a new key now, and an end for the old ones.

use time::{Duration, OffsetDateTime};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    ApiKey, DeleteTenantRequest, RotateApiKeyRequest, RotateApiKeyResponse, SuspendTenantRequest, Verdict,
    get_tenant_request::Identifier,
};

use crate::fixture::{Fixture, NewTenant, reason, violations};

impl Fixture {
    pub async fn try_rotate(&self, request: RotateApiKeyRequest) -> Result<RotateApiKeyResponse, Status> {
        self.provisioning.clone().rotate_api_key(request).await.map(tonic::Response::into_inner)
    }

    pub async fn rotate(&self, tenant: &NewTenant, overlap: Option<Duration>) -> RotateApiKeyResponse {
        self.try_rotate(rotation(&tenant.id, overlap)).await.unwrap()
    }

    async fn verdict(&self, secret_key: &str) -> Verdict {
        self.verify(secret_key).await.verdict()
    }
}

pub fn rotation(tenant_id: &str, overlap: Option<Duration>) -> RotateApiKeyRequest {
    let overlap = overlap
        .map(|overlap| prost_types::Duration { seconds: overlap.whole_seconds(), nanos: overlap.subsec_nanoseconds() });
    RotateApiKeyRequest { tenant_id: tenant_id.to_owned(), overlap, ..RotateApiKeyRequest::default() }
}

/// How long after its creation a key ends.
fn lifetime(key: &ApiKey, since: &ApiKey) -> Option<Duration> {
    let moment = |at: prost_types::Timestamp| {
        OffsetDateTime::from_unix_timestamp(at.seconds).unwrap() + Duration::nanoseconds(at.nanos.into())
    };
    key.expires_at.map(|end| moment(end) - moment(since.created_at.unwrap()))
}

#[tokio::test]
async fn the_new_key_is_good_at_once_and_the_old_one_for_24_hours_more() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let rotated = fixture.rotate(&tenant, None).await;
    let key = rotated.api_key.unwrap();
    assert!(rotated.secret_key.starts_with("sk_live_bella_") && !rotated.replayed);
    assert_eq!(rotated.secret_key[..key.public_key.len()].replacen("sk_", "pk_", 1), key.public_key);
    assert_eq!((key.tenant_id.as_str(), key.expires_at, key.revoked_at), (tenant.id.as_str(), None, None));

    assert_eq!(fixture.verdict(&rotated.secret_key).await, Verdict::Valid);
    assert_eq!(fixture.verdict(&tenant.secret_key).await, Verdict::Valid);
    fixture.advance_clock(Duration::hours(24));
    assert_eq!(fixture.verdict(&tenant.secret_key).await, Verdict::Expired);
    assert_eq!(fixture.verdict(&rotated.secret_key).await, Verdict::Valid);
}

#[tokio::test]
async fn without_an_overlap_the_old_key_ends_at_once() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.rotate(&tenant, Some(Duration::ZERO)).await;
    assert_eq!(fixture.verdict(&tenant.secret_key).await, Verdict::Expired);
}

#[tokio::test]
async fn an_overlap_is_between_nothing_and_30_days() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.rotate(&tenant, Some(Duration::days(30))).await;
    fixture.advance_clock(Duration::days(30) - Duration::minutes(1));
    assert_eq!(fixture.verdict(&tenant.secret_key).await, Verdict::Valid);
    for bad in [Duration::days(30) + Duration::nanoseconds(1), Duration::seconds(-1), Duration::nanoseconds(-1)] {
        let refused = fixture.try_rotate(rotation(&tenant.id, Some(bad))).await.unwrap_err();
        assert_eq!(violations(&refused), [("overlap".to_owned(), "OUT_OF_RANGE".to_owned())], "{bad}");
    }
}

#[tokio::test]
async fn an_earlier_end_stays_earlier_and_a_later_one_comes_sooner() {
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
    assert_eq!(fixture.verdict(&tenant.secret_key).await, Verdict::Expired, "a shorter overlap ends them all");
}

#[tokio::test]
async fn a_tenant_shows_its_newest_usable_key() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let rotated = fixture.rotate(&tenant, None).await.api_key.unwrap();
    let shown = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap().api_key_public;
    assert_eq!(shown, rotated.public_key);
    fixture.revoke(&tenant.id, &rotated.public_key).await.unwrap();
    let shown = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap().api_key_public;
    assert_eq!(shown, tenant.public_key, "the old one is usable yet");
    fixture.advance_clock(Duration::hours(24));
    let shown = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap().api_key_public;
    assert_eq!(shown, rotated.public_key, "none is usable, so the newest");
}

#[tokio::test]
async fn ten_rotations_at_once_leave_one_key_without_an_end_and_it_is_the_newest() {
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
    for answer in rotated {
        assert_eq!(fixture.verdict(&answer.secret_key).await, Verdict::Valid);
    }
}

#[tokio::test]
async fn a_new_key_is_the_newest_even_where_another_replicas_clock_is_ahead() {
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
async fn a_suspended_tenant_can_be_given_a_key_and_a_deleted_or_unknown_one_cannot() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let mut client = fixture.provisioning.clone();
    client.suspend_tenant(SuspendTenantRequest { tenant_id: tenant.id.clone() }).await.unwrap();
    let rotated = fixture.rotate(&tenant, None).await;
    assert_eq!(fixture.verdict(&rotated.secret_key).await, Verdict::TenantSuspended);
    client.delete_tenant(DeleteTenantRequest { tenant_id: tenant.id.clone() }).await.unwrap();
    for gone in [tenant.id.clone(), uuid::Uuid::new_v4().to_string()] {
        let refused = fixture.try_rotate(rotation(&gone, None)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    assert_eq!(fixture.count("api_keys").await, 2);
}
