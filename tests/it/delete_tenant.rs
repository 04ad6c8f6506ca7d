//! `DeleteTenant` and `UndeleteTenant`: a deletion that can be reverted.

use time::Duration;
use tonic::Code;
use turnkey::grpc::pb::{ListPackagesRequest, Tenant, UpsertPackageRequest, Verdict, get_tenant_request::Identifier};

use crate::support::{
    fixture::Fixture,
    owners::{BELLA, NEW_PASSWORD, invalid},
    requests::{PASSWORD, named, signup},
    responses::{reason, violations},
};

#[tokio::test]
async fn deleting_a_tenant_sets_deleted_at_once_and_is_idempotent() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let before = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    fixture.advance_clock(Duration::minutes(1));
    let deleted = fixture.delete_tenant(&id).await.unwrap();
    assert_eq!(
        deleted,
        Tenant { deleted_at: deleted.updated_at, updated_at: deleted.updated_at, etag: deleted.etag.clone(), ..before }
    );
    assert!(deleted.deleted_at.is_some());
    fixture.advance_clock(Duration::minutes(1));
    assert_eq!(fixture.delete_tenant(&id).await.unwrap(), deleted);
    assert_eq!(fixture.get(Identifier::TenantId(id)).await.unwrap(), deleted, "a deleted tenant can be read");
}

#[tokio::test]
async fn the_catalog_of_a_deleted_tenant_is_not_found_and_its_slug_and_address_stay_reserved() {
    let fixture = Fixture::start().await;
    let id = fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap().tenant.unwrap().id;
    fixture.delete_tenant(&id).await.unwrap();
    let mut catalog = fixture.catalog.clone();
    let list = ListPackagesRequest { tenant_id: id.clone(), ..ListPackagesRequest::default() };
    let upsert = UpsertPackageRequest {
        tenant_id: id,
        name: Some("Gold".to_owned()),
        base_price: Some(1),
        ..UpsertPackageRequest::default()
    };
    for error in [catalog.list_packages(list).await.unwrap_err(), catalog.upsert_package(upsert).await.unwrap_err()] {
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    assert_eq!(reason(&fixture.create(named("bella")).await.unwrap_err()), "SLUG_TAKEN");
    let repeated = fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap_err();
    assert_eq!(reason(&repeated), "EMAIL_TAKEN");
}

#[tokio::test]
async fn undeleting_a_tenant_restores_its_keys_and_catalog() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let before = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap();
    assert_eq!(
        fixture.undelete_tenant(&tenant.id).await.unwrap(),
        before,
        "a tenant that is not deleted does not change"
    );
    fixture.delete_tenant(&tenant.id).await.unwrap();
    let restored = fixture.undelete_tenant(&tenant.id).await.unwrap();
    assert_eq!(restored, Tenant { updated_at: restored.updated_at, etag: restored.etag.clone(), ..before });
    assert_eq!(fixture.verify(&tenant.secret_key).await.verdict(), Verdict::Valid);
    let list = ListPackagesRequest { tenant_id: tenant.id, ..ListPackagesRequest::default() };
    assert_eq!(fixture.catalog.clone().list_packages(list).await.unwrap().into_inner().packages.len(), 3);
}

#[tokio::test]
async fn deleting_an_unknown_tenant_is_not_found_and_a_malformed_id_is_invalid() {
    let fixture = Fixture::start().await;
    let unknown = uuid::Uuid::new_v4().to_string();
    for error in
        [fixture.delete_tenant(&unknown).await.unwrap_err(), fixture.undelete_tenant(&unknown).await.unwrap_err()]
    {
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    for error in [fixture.delete_tenant("42").await.unwrap_err(), fixture.undelete_tenant("42").await.unwrap_err()] {
        assert_eq!(violations(&error), [("tenant_id".to_owned(), "BAD_FORMAT".to_owned())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_changes_while_the_tenant_is_deleted_is_not_changed() {
    let fixture = Fixture::start().await;
    let (id, _secret_key) = fixture.sign_bella_up().await;
    let token = fixture.verification_token(BELLA).await;
    let pool = fixture.superuser_pool().await;
    let mut deletion = pool.begin().await.unwrap();
    for sql in
        ["SELECT pg_advisory_xact_lock(tenant_lock_key(id)) FROM tenants", "UPDATE tenants SET deleted_at = now()"]
    {
        sqlx::query(sql).execute(&mut *deletion).await.unwrap();
    }
    let commit = async {
        let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
        while fixture.count(waiting).await < 2 {}
        deletion.commit().await.unwrap();
    };
    let change = fixture.change_password(BELLA, PASSWORD, NEW_PASSWORD);
    let (changed, verified, ()) = tokio::join!(change, fixture.verify_email(&token), commit);
    assert_eq!((changed.unwrap(), verified), (invalid(), invalid()));
    fixture.undelete_tenant(&id).await.unwrap();
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap().0, Verdict::Valid);
    assert_eq!(fixture.get(Identifier::TenantId(id)).await.unwrap().owner_email_verified_at, None);
}
