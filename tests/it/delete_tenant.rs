//! `DeleteTenant` and `UndeleteTenant`: gone, and back with everything.

use time::Duration;
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    DeleteTenantRequest, ListPackagesRequest, Tenant, UndeleteTenantRequest, UpsertPackageRequest, Verdict,
    get_tenant_request::Identifier,
};

use crate::{
    create_from_signup::signup,
    fixture::{Fixture, named, reason, violations},
};

impl Fixture {
    pub async fn delete_tenant(&self, tenant_id: &str) -> Result<Tenant, Status> {
        let request = DeleteTenantRequest { tenant_id: tenant_id.to_owned() };
        Ok(self.provisioning.clone().delete_tenant(request).await?.into_inner().tenant.unwrap())
    }

    async fn undelete_tenant(&self, tenant_id: &str) -> Result<Tenant, Status> {
        let request = UndeleteTenantRequest { tenant_id: tenant_id.to_owned() };
        Ok(self.provisioning.clone().undelete_tenant(request).await?.into_inner().tenant.unwrap())
    }
}

#[tokio::test]
async fn a_deleted_tenant_says_since_when_and_saying_it_twice_changes_nothing() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella-weddings").await.id;
    let before = fixture.get(Identifier::TenantId(id.clone())).await.unwrap();
    fixture.advance_clock(Duration::minutes(1));
    let deleted = fixture.delete_tenant(&id).await.unwrap();
    assert_eq!(deleted, Tenant { deleted_at: deleted.updated_at, updated_at: deleted.updated_at, ..before });
    assert!(deleted.deleted_at.is_some());
    fixture.advance_clock(Duration::minutes(1));
    assert_eq!(fixture.delete_tenant(&id).await.unwrap(), deleted);
    assert_eq!(fixture.get(Identifier::TenantId(id)).await.unwrap(), deleted, "it can still be read");
}

#[tokio::test]
async fn its_catalog_is_not_found_and_its_slug_and_address_stay_taken() {
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
    for refused in [catalog.list_packages(list).await.unwrap_err(), catalog.upsert_package(upsert).await.unwrap_err()] {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    assert_eq!(reason(&fixture.create(named("bella")).await.unwrap_err()), "SLUG_TAKEN");
    let again = fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap_err();
    assert_eq!(reason(&again), "EMAIL_TAKEN");
}

#[tokio::test]
async fn undeleting_brings_back_all() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let before = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap();
    assert_eq!(fixture.undelete_tenant(&tenant.id).await.unwrap(), before, "harmless on one that lives");
    fixture.delete_tenant(&tenant.id).await.unwrap();
    let back = fixture.undelete_tenant(&tenant.id).await.unwrap();
    assert_eq!(back, Tenant { updated_at: back.updated_at, ..before });
    assert_eq!(fixture.verify(&tenant.secret_key).await.verdict(), Verdict::Valid);
    let list = ListPackagesRequest { tenant_id: tenant.id, ..ListPackagesRequest::default() };
    assert_eq!(fixture.catalog.clone().list_packages(list).await.unwrap().into_inner().packages.len(), 3);
}

#[tokio::test]
async fn an_unknown_tenant_is_not_found_and_a_malformed_id_is_invalid() {
    let fixture = Fixture::start().await;
    let nobody = uuid::Uuid::new_v4().to_string();
    for refused in
        [fixture.delete_tenant(&nobody).await.unwrap_err(), fixture.undelete_tenant(&nobody).await.unwrap_err()]
    {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    for refused in [fixture.delete_tenant("42").await.unwrap_err(), fixture.undelete_tenant("42").await.unwrap_err()] {
        assert_eq!(violations(&refused), [("tenant_id".to_owned(), "BAD_FORMAT".to_owned())]);
    }
}
