//! `SuspendTenant` and `ReactivateTenant`.

use time::Duration;
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    DeleteTenantRequest, ListPackagesRequest, ReactivateTenantRequest, SuspendTenantRequest, Tenant,
    get_tenant_request::Identifier,
};

use crate::fixture::{Fixture, reason, violations};

impl Fixture {
    async fn suspend(&self, tenant_id: &str) -> Result<Tenant, Status> {
        let request = SuspendTenantRequest { tenant_id: tenant_id.to_owned() };
        Ok(self.provisioning.clone().suspend_tenant(request).await?.into_inner().tenant.unwrap())
    }

    async fn reactivate(&self, tenant_id: &str) -> Result<Tenant, Status> {
        let request = ReactivateTenantRequest { tenant_id: tenant_id.to_owned() };
        Ok(self.provisioning.clone().reactivate_tenant(request).await?.into_inner().tenant.unwrap())
    }
}

#[tokio::test]
async fn saying_it_twice_is_fine_and_changes_nothing_more() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let before = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    assert_eq!(fixture.reactivate(&id).await.unwrap(), before, "it was active");
    fixture.advance_clock(Duration::minutes(1));
    let suspended = fixture.suspend(&id).await.unwrap();
    assert_eq!(suspended, Tenant { is_active: false, updated_at: suspended.updated_at, ..before.clone() });
    assert_ne!(suspended.updated_at, before.updated_at);
    fixture.advance_clock(Duration::minutes(1));
    assert_eq!(fixture.suspend(&id).await.unwrap(), suspended);
    assert!(fixture.reactivate(&id).await.unwrap().is_active);
}

#[tokio::test]
async fn a_suspended_tenants_catalog_stays_open_to_the_platform() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.tenant("bella-weddings").await.id;
    fixture.suspend(&tenant_id).await.unwrap();
    let request = ListPackagesRequest { tenant_id, ..ListPackagesRequest::default() };
    assert_eq!(fixture.catalog.clone().list_packages(request).await.unwrap().into_inner().packages.len(), 3);
}

#[tokio::test]
async fn a_deleted_an_unknown_and_a_malformed_tenant_are_refused() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let request = DeleteTenantRequest { tenant_id: id.clone() };
    fixture.provisioning.clone().delete_tenant(request).await.unwrap();
    for gone in [&id, &uuid::Uuid::new_v4().to_string()] {
        for refused in [fixture.suspend(gone).await.unwrap_err(), fixture.reactivate(gone).await.unwrap_err()] {
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
        }
    }
    for refused in [fixture.suspend("42").await.unwrap_err(), fixture.reactivate("42").await.unwrap_err()] {
        assert_eq!(violations(&refused), [("tenant_id".to_owned(), "BAD_FORMAT".to_owned())]);
    }
}
