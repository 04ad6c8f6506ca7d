//! `RevokeApiKey`: at once, and for ever.

use time::Duration;
use tonic::{Code, Status};
use turnkey::grpc::pb::{ApiKey, DeleteTenantRequest, RevokeApiKeyRequest, Verdict};

use crate::fixture::{Fixture, reason, violations};

impl Fixture {
    pub async fn revoke(&self, tenant_id: &str, public_key: &str) -> Result<ApiKey, Status> {
        let request = RevokeApiKeyRequest { tenant_id: tenant_id.to_owned(), public_key: public_key.to_owned() };
        let answer = self.provisioning.clone().revoke_api_key(request).await?;
        Ok(answer.into_inner().api_key.unwrap())
    }
}

#[tokio::test]
async fn a_revoked_key_stops_at_once_and_saying_it_twice_changes_nothing() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let revoked = fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap();
    assert_eq!((revoked.public_key.as_str(), revoked.tenant_id.as_str()), (&*tenant.public_key, &*tenant.id));
    assert!(revoked.revoked_at.is_some());
    assert_eq!(fixture.verify(&tenant.secret_key).await.verdict(), Verdict::Revoked);
    fixture.advance_clock(Duration::hours(1));
    assert_eq!(fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap(), revoked);
}

#[tokio::test]
async fn a_rotation_after_the_last_key_was_revoked_lets_the_tenant_in_again() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap();
    let rotated = fixture.rotate(&tenant, None).await;
    assert_eq!(fixture.verify(&rotated.secret_key).await.verdict(), Verdict::Valid);
    assert!(fixture.keys(&tenant.id).await[1].expires_at.is_none(), "a revoked key has its end already");
}

#[tokio::test]
async fn a_deleted_tenants_key_can_be_revoked() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let request = DeleteTenantRequest { tenant_id: tenant.id.clone() };
    fixture.provisioning.clone().delete_tenant(request).await.unwrap();
    assert!(fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap().revoked_at.is_some());
}

#[tokio::test]
async fn another_tenants_key_reads_like_one_that_does_not_exist() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella-weddings").await, fixture.tenant("omers-cafe").await);
    let foreign = fixture.revoke(&tenant.id, &other.public_key).await.unwrap_err();
    let unknown = fixture.revoke(&tenant.id, "pk_live_omers_0000000000000000").await.unwrap_err();
    // The right key id under another name is no such key either.
    let key_id = tenant.public_key.rsplit('_').next().unwrap();
    let renamed = fixture.revoke(&tenant.id, &format!("pk_live_omers_{key_id}")).await.unwrap_err();
    for refused in [&foreign, &unknown, &renamed] {
        assert_eq!((refused.code(), reason(refused).as_str()), (Code::NotFound, "API_KEY_NOT_FOUND"));
        assert_eq!((refused.message(), refused.details()), (unknown.message(), unknown.details()));
    }
    assert_eq!(fixture.verify(&other.secret_key).await.verdict(), Verdict::Valid);

    let nobody = uuid::Uuid::new_v4().to_string();
    let refused = fixture.revoke(&nobody, &tenant.public_key).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
}

#[tokio::test]
async fn what_is_no_public_key_is_a_bad_field_and_is_not_repeated() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let refused = fixture.revoke("42", &tenant.secret_key).await.unwrap_err();
    let expected = [("tenant_id", "BAD_FORMAT"), ("public_key", "BAD_FORMAT")];
    assert_eq!(violations(&refused), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
    assert!(!format!("{refused:?}").contains(&tenant.secret_key));
    let refused = fixture.revoke(&tenant.id, "").await.unwrap_err();
    assert_eq!(violations(&refused), [("public_key".to_owned(), "MISSING_FIELD".to_owned())]);
}
