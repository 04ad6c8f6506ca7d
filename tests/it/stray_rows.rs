//! Rows whose tenant was lost, because a superuser deleted it with triggers disabled: they do not affect later calls.

use tokio::task::JoinSet;
use tonic::Code;
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, CreateFromSignupRequest, CreateFullyProvisionedRequest, ListApiKeysRequest,
    ListPackagesRequest, ListSegmentsRequest, RepairTenantRequest, RotateApiKeyRequest, UpsertPackageRequest, Verdict,
    batch_create_fully_provisioned_result::Result as BatchResult,
};

use crate::support::{
    citus::is_skipped_on_citus,
    fixture::{Fixture, NewTenant, ONE_TENANT},
    requests::{REQUEST_ID, bella_with_request_id, gold, named, rotation, signup_with_request_id},
    responses::reason,
};

impl Fixture {
    async fn delete_tenant_row(&self, slug: &str) {
        self.database.execute_without_triggers(&format!("DELETE FROM tenants WHERE slug = '{slug}'")).await;
    }

    /// Repairs the only tenant that has findings.
    async fn delete_stray_rows(&self) {
        let findings = self.check_integrity(None).await.unwrap();
        let tenant_id = findings[0].tenant_id.clone();
        assert!(findings.iter().all(|finding| finding.tenant_id == tenant_id));
        let request = RepairTenantRequest { tenant_id };
        self.provisioning.clone().repair_tenant(request).await.unwrap();
        assert_eq!(self.check_integrity(None).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_create_repeated_after_its_tenant_was_lost_creates_it_again() {
    let fixture = Fixture::start().await;
    let first = fixture.create(bella_with_request_id()).await.unwrap();
    fixture.delete_tenant_row("bella-weddings").await;
    let dry_run = CreateFullyProvisionedRequest { validate_only: true, ..bella_with_request_id() };
    assert!(!fixture.create(dry_run).await.unwrap().replayed);
    let second = fixture.create(bella_with_request_id()).await.unwrap();
    assert!(!second.replayed);
    assert_ne!(second.tenant.as_ref().unwrap().id, first.tenant.unwrap().id);
    assert_eq!(fixture.verify(&first.secret_key).await.verdict(), Verdict::Invalid);
    assert_eq!(fixture.verify(&second.secret_key).await.verdict(), Verdict::Valid);

    let third = fixture.create(bella_with_request_id()).await.unwrap();
    assert_eq!((third.replayed, &third.secret_key, &third.tenant), (true, &second.secret_key, &second.tenant));
    fixture.delete_stray_rows().await;
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn the_request_id_of_a_lost_tenant_is_free_for_another_request() {
    let fixture = Fixture::start().await;
    fixture.create(bella_with_request_id()).await.unwrap();
    fixture.delete_tenant_row("bella-weddings").await;
    let other = CreateFullyProvisionedRequest { request_id: Some(REQUEST_ID.to_owned()), ..named("other") };
    assert!(!fixture.create(other.clone()).await.unwrap().replayed);
    assert!(fixture.create(other).await.unwrap().replayed);
    let error = fixture.create(bella_with_request_id()).await.unwrap_err();
    assert_eq!(reason(&error), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn an_item_of_a_batch_repeated_after_its_tenant_was_lost_creates_it_again() {
    let fixture = Fixture::start().await;
    fixture.create(bella_with_request_id()).await.unwrap();
    fixture.delete_tenant_row("bella-weddings").await;
    let request = BatchCreateFullyProvisionedRequest { requests: vec![bella_with_request_id(), named("other")] };
    let response = fixture.provisioning.clone().batch_create_fully_provisioned(request).await.unwrap().into_inner();
    for result in response.results {
        assert!(matches!(result.result, Some(BatchResult::Provisioned(created)) if !created.replayed));
    }
}

#[tokio::test]
async fn a_signup_repeated_after_its_tenant_was_lost_creates_it_again_with_its_owner() {
    let fixture = Fixture::start().await;
    fixture.sign_up(signup_with_request_id()).await.unwrap();
    fixture.delete_tenant_row("bella").await;
    let second = fixture.sign_up(signup_with_request_id()).await.unwrap();
    let tenant = second.tenant.unwrap();
    assert_eq!((second.replayed, tenant.slug.as_str(), tenant.owner_email()), (false, "bella", "bella@example.com"));
    assert!(fixture.sign_up(signup_with_request_id()).await.unwrap().replayed);
    let same_address = CreateFromSignupRequest { request_id: None, ..signup_with_request_id() };
    assert_eq!(reason(&fixture.sign_up(same_address).await.unwrap_err()), "EMAIL_TAKEN");
    fixture.delete_stray_rows().await;
    assert_eq!((fixture.count("owners").await, fixture.row_counts().await), (1, ONE_TENANT));
}

/// A statement that waits for the record does not see the tenant that the first call has created.
#[tokio::test]
async fn of_fifty_concurrent_repeats_after_the_tenant_was_lost_one_creates_it_again() {
    let fixture = Fixture::start().await;
    fixture.create(bella_with_request_id()).await.unwrap();
    fixture.delete_tenant_row("bella-weddings").await;
    let mut calls = JoinSet::new();
    for number in 0..50 {
        let mut client = fixture.provisioning.clone();
        // Half of the calls differ, and would create a second tenant.
        let slug = if number % 2 == 0 { "bella-weddings" } else { "other" };
        let request = CreateFullyProvisionedRequest { slug: slug.to_owned(), ..bella_with_request_id() };
        calls.spawn(async move { client.create_fully_provisioned(request).await });
    }
    let (created, refused): (Vec<_>, Vec<_>) = calls.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((created.len(), refused.len()), (25, 25), "{refused:?}");
    assert!(refused.into_iter().all(|error| reason(&error.unwrap_err()) == "REQUEST_ID_REUSED"));
    let created: Vec<_> = created.into_iter().map(|response| response.unwrap().into_inner()).collect();
    assert_eq!(created.iter().filter(|response| !response.replayed).count(), 1);
    assert!(created.iter().all(|response| response.secret_key == created[0].secret_key));
    assert_eq!(fixture.count("tenants").await, 1);
}

#[tokio::test]
async fn a_rotation_of_a_lost_tenant_is_not_replayed_and_its_request_id_is_free() {
    let fixture = Fixture::start().await;
    let (gone, other) = (fixture.tenant("gone").await, fixture.tenant("other").await);
    let rotate = |tenant: &NewTenant| RotateApiKeyRequest {
        request_id: Some(REQUEST_ID.to_owned()),
        ..rotation(&tenant.id, None)
    };
    fixture.try_rotate(rotate(&gone)).await.unwrap();
    fixture.delete_tenant_row("gone").await;
    let error = fixture.try_rotate(rotate(&gone)).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    assert!(!fixture.try_rotate(rotate(&other)).await.unwrap().replayed);
    assert!(fixture.try_rotate(rotate(&other)).await.unwrap().replayed);
    fixture.delete_stray_rows().await;
}

#[tokio::test]
async fn a_replay_never_shows_the_key_of_another_tenant() {
    let fixture = Fixture::start().await;
    fixture.create(bella_with_request_id()).await.unwrap();
    fixture.tenant("other").await;
    let damage = "UPDATE idempotency_records
                     SET key_id = (SELECT key_id FROM api_keys JOIN tenants ON id = tenant_id WHERE slug = 'other')";
    fixture.database.execute_without_triggers(damage).await;
    let repeated = fixture.create(bella_with_request_id()).await.unwrap();
    assert!(repeated.replayed && repeated.secret_key.is_empty());
}

#[tokio::test]
async fn the_catalog_of_a_lost_tenant_is_not_found() {
    if is_skipped_on_citus("the worker has the tenant until its repair") {
        return;
    }
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("gone").await;
    fixture.delete_tenant_row("gone").await;
    let mut catalog = fixture.catalog.clone();
    let packages = ListPackagesRequest { tenant_id: tenant.id.clone(), ..ListPackagesRequest::default() };
    let segments = ListSegmentsRequest { tenant_id: tenant.id.clone(), ..ListSegmentsRequest::default() };
    let keys = ListApiKeysRequest { tenant_id: tenant.id.clone(), ..Default::default() };
    for error in [
        fixture.upsert_package(gold(&tenant)).await.map(drop),
        fixture.package(&tenant, &tenant.package_ids[0]).await.map(drop),
        fixture.delete_package(&tenant.id, &tenant.package_ids[0]).await,
        catalog.list_packages(packages).await.map(drop),
        catalog.list_segments(segments).await.map(drop),
        fixture.provisioning.clone().list_api_keys(keys).await.map(drop),
    ] {
        assert_eq!(reason(&error.unwrap_err()), "TENANT_NOT_FOUND");
    }
    assert_eq!(fixture.verify(&tenant.secret_key).await.verdict(), Verdict::Invalid);
}

#[tokio::test]
async fn packages_without_a_segment_can_be_listed_and_updated() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("damaged").await, fixture.tenant("other").await);
    let damage = format!(
        "DELETE FROM segments WHERE tenant_id = '{0}';
         UPDATE packages SET segment_id = '{1}' WHERE tenant_id = '{0}' AND slug = 'basic-package';
         DELETE FROM tenant_usage WHERE tenant_id = '{0}'",
        tenant.id, other.general_id
    );
    fixture.database.execute_without_triggers(&damage).await;
    let mut catalog = fixture.catalog.clone();
    let list = ListPackagesRequest { tenant_id: tenant.id.clone(), ..ListPackagesRequest::default() };
    assert_eq!(catalog.list_packages(list.clone()).await.unwrap().into_inner().packages.len(), 3);
    for id in &tenant.package_ids {
        let update = UpsertPackageRequest { package_id: Some(id.clone()), ..gold(&tenant) };
        assert_eq!(fixture.upsert_package(update).await.unwrap().package.unwrap().name, "Gold");
    }
    fixture.upsert_package(gold(&tenant)).await.unwrap();
    assert_eq!(catalog.list_packages(list).await.unwrap().into_inner().packages.len(), 4);
    fixture.delete_package(&tenant.id, &tenant.package_ids[0]).await.unwrap();
    assert_eq!(fixture.row_counts().await, [2, 2, 6, 2]);
}
