//! `ListApiKeys`: all of a tenant's, newest first, and never a secret.

use time::Duration;
use tonic::Code;
use turnkey::grpc::pb::{ApiKey, DeleteTenantRequest, ListApiKeysRequest};

use crate::{
    cluster::execute,
    fixture::{Fixture, reason},
};

impl Fixture {
    pub async fn keys(&self, tenant_id: &str) -> Vec<ApiKey> {
        let request = ListApiKeysRequest { tenant_id: tenant_id.to_owned() };
        self.provisioning.clone().list_api_keys(request).await.unwrap().into_inner().api_keys
    }
}

#[tokio::test]
async fn keys_come_newest_first_with_expired_and_revoked_ones_and_nobody_elses() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.tenant("omers-cafe").await;
    fixture.advance_clock(Duration::minutes(1));
    let second = fixture.rotate(&tenant, Some(Duration::ZERO)).await.api_key.unwrap();
    fixture.advance_clock(Duration::minutes(1));
    let third = fixture.rotate(&tenant, None).await.api_key.unwrap();
    fixture.revoke(&tenant.id, &second.public_key).await.unwrap();

    let keys = fixture.keys(&tenant.id).await;
    let names: Vec<&str> = keys.iter().map(|key| key.public_key.as_str()).collect();
    assert_eq!(names, [&third.public_key, &second.public_key, &tenant.public_key]);
    assert!(keys.iter().all(|key| key.tenant_id == tenant.id && key.created_at.is_some()));
    let states: Vec<_> = keys.iter().map(|key| (key.expires_at.is_some(), key.revoked_at.is_some())).collect();
    assert_eq!(states, [(false, false), (true, true), (true, false)]);
}

#[tokio::test]
async fn a_deleted_tenants_keys_are_listed_and_an_unknown_tenants_are_not_found() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let mut client = fixture.provisioning.clone();
    client.delete_tenant(DeleteTenantRequest { tenant_id: tenant.id.clone() }).await.unwrap();
    assert_eq!(fixture.keys(&tenant.id).await.len(), 1);
    let request = ListApiKeysRequest { tenant_id: uuid::Uuid::new_v4().to_string() };
    let refused = client.list_api_keys(request).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
}

#[tokio::test]
async fn a_damaged_tenant_without_a_key_has_an_empty_list() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let damage = "SET session_replication_role = replica; DELETE FROM api_keys";
    execute(&fixture.database.superuser, damage.to_owned()).await;
    assert_eq!(fixture.keys(&tenant.id).await, []);
}
