//! `SuspendTenant` and `ReactivateTenant`: idempotent changes of `is_active`.

use time::Duration;
use tonic::{Code, Status};
use turnkey::grpc::pb::{ListPackagesRequest, ReactivateTenantRequest, Tenant, get_tenant_request::Identifier};

use crate::support::{
    fixture::Fixture,
    responses::{reason, violations},
};

async fn reactivate(fixture: &Fixture, tenant_id: &str) -> Result<Tenant, Status> {
    let request = ReactivateTenantRequest { tenant_id: tenant_id.to_owned() };
    Ok(fixture.provisioning.clone().reactivate_tenant(request).await?.into_inner().tenant.unwrap())
}

#[tokio::test]
async fn suspending_and_reactivating_a_tenant_are_idempotent() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let before = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    assert_eq!(reactivate(&fixture, &id).await.unwrap(), before, "the tenant is already active");
    fixture.advance_clock(Duration::minutes(1));
    let suspended = fixture.suspend_tenant(&id).await.unwrap();
    assert_eq!(
        suspended,
        Tenant { is_active: false, updated_at: suspended.updated_at, etag: suspended.etag.clone(), ..before.clone() }
    );
    assert_ne!(suspended.updated_at, before.updated_at);
    fixture.advance_clock(Duration::minutes(1));
    assert_eq!(fixture.suspend_tenant(&id).await.unwrap(), suspended);
    assert!(reactivate(&fixture, &id).await.unwrap().is_active);
}

#[tokio::test]
async fn the_catalog_of_a_suspended_tenant_stays_available() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.tenant("bella-weddings").await.id;
    fixture.suspend_tenant(&tenant_id).await.unwrap();
    let request = ListPackagesRequest { tenant_id, ..ListPackagesRequest::default() };
    assert_eq!(fixture.catalog.clone().list_packages(request).await.unwrap().into_inner().packages.len(), 3);
}

#[tokio::test]
async fn a_deleted_or_unknown_tenant_cannot_be_suspended_or_reactivated() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    fixture.delete_tenant(&id).await.unwrap();
    for tenant_id in [&id, &uuid::Uuid::new_v4().to_string()] {
        for error in
            [fixture.suspend_tenant(tenant_id).await.unwrap_err(), reactivate(&fixture, tenant_id).await.unwrap_err()]
        {
            assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
        }
    }
    for error in [fixture.suspend_tenant("42").await.unwrap_err(), reactivate(&fixture, "42").await.unwrap_err()] {
        assert_eq!(violations(&error), [("tenant_id".to_owned(), "BAD_FORMAT".to_owned())]);
    }
}
