//! `DeleteTenant` and `UndeleteTenant`: a deletion that can be reverted.

use time::Duration;
use tonic::Code;
use turnkey::grpc::pb::{ListPackagesRequest, Tenant, UpsertPackageRequest, Verdict, get_tenant_request::Identifier};

use crate::support::{
    fixture::Fixture,
    requests::{named, signup},
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
