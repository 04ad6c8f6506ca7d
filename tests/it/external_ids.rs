//! External ids: the ids of other systems, by which upserts find packages and segments. They are set once.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, BatchUpsertPackagesRequest, CreateFullyProvisionedRequest, PackageUpsert,
    Tenant, UpdateTenantRequest, UpsertAction, UpsertPackageRequest, UpsertSegmentRequest,
    batch_create_fully_provisioned_result::Result as BatchResult, get_tenant_request::Identifier,
};
use uuid::Uuid;

use crate::support::{
    damage::UNKNOWN_TENANT,
    fixture::{Fixture, NewTenant},
    requests::{gold, named},
    responses::{reason, violations},
};

fn known_as(slug: &str, external_id: &str) -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest { external_id: Some(external_id.to_owned()), ..named(slug) }
}

fn package(tenant: &NewTenant, external_id: &str) -> UpsertPackageRequest {
    UpsertPackageRequest { external_id: Some(external_id.to_owned()), ..gold(tenant) }
}

fn segment(tenant: &NewTenant, external_id: &str) -> UpsertSegmentRequest {
    UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Weddings".to_owned()),
        external_id: Some(external_id.to_owned()),
        ..UpsertSegmentRequest::default()
    }
}

async fn set(fixture: &Fixture, tenant_id: &str, external_id: &str) -> Result<Tenant, Status> {
    let request = UpdateTenantRequest {
        tenant_id: tenant_id.to_owned(),
        external_id: Some(external_id.to_owned()),
        ..UpdateTenantRequest::default()
    };
    Ok(fixture.provisioning.clone().update_tenant(request).await?.into_inner().tenant.unwrap())
}

fn assert_taken(error: &Status, resource_type: &str, external_id: &str) {
    assert_eq!((error.code(), reason(error).as_str()), (Code::AlreadyExists, "EXTERNAL_ID_TAKEN"), "{error}");
    let resource = error.get_details_resource_info().unwrap();
    assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), (resource_type, external_id));
}

fn assert_set(error: &Status) {
    assert_eq!((error.code(), reason(error).as_str()), (Code::FailedPrecondition, "EXTERNAL_ID_SET"), "{error}");
    assert_eq!(error.get_details_precondition_failure().unwrap().violations[0].subject, "external_id");
}

#[tokio::test]
async fn a_tenant_is_created_with_an_external_id_which_no_other_tenant_can_have() {
    let fixture = Fixture::start().await;
    let validate = CreateFullyProvisionedRequest { validate_only: true, ..known_as("bella", "crm 7/ü") };
    assert_eq!(fixture.create(validate).await.unwrap().tenant.unwrap().external_id.as_deref(), Some("crm 7/ü"));
    let created = fixture.create(known_as("bella", "crm 7/ü")).await.unwrap().tenant.unwrap();
    assert_eq!(created.external_id.as_deref(), Some("crm 7/ü"));
    assert_eq!(fixture.get(Identifier::TenantId(created.id.clone())).await.unwrap(), created);

    fixture.delete_tenant(&created.id).await.unwrap();
    for validate_only in [true, false] {
        let request = CreateFullyProvisionedRequest { validate_only, ..known_as("omer", "crm 7/ü") };
        assert_taken(&fixture.create(request).await.unwrap_err(), "turnkey.v1.Tenant", "crm 7/ü");
    }
    let both = fixture.create(known_as("bella", "crm 7/ü")).await.unwrap_err();
    assert_eq!(reason(&both), "SLUG_TAKEN");
    fixture.create(known_as("omer", "crm 7/u")).await.unwrap();
    fixture.create(named("without")).await.unwrap();
}

#[tokio::test]
async fn an_external_id_is_part_of_the_request_that_a_request_id_repeats() {
    let fixture = Fixture::start().await;
    let request =
        CreateFullyProvisionedRequest { request_id: Some(Uuid::new_v4().to_string()), ..known_as("bella", "1") };
    let created = fixture.create(request.clone()).await.unwrap();
    let replay = fixture.create(request.clone()).await.unwrap();
    assert_eq!((replay.replayed, replay.tenant, replay.secret_key), (true, created.tenant, created.secret_key));
    for external_id in [None, Some("2".to_owned())] {
        for validate_only in [true, false] {
            let other =
                CreateFullyProvisionedRequest { external_id: external_id.clone(), validate_only, ..request.clone() };
            assert_eq!(reason(&fixture.create(other).await.unwrap_err()), "REQUEST_ID_REUSED");
        }
    }
}

#[tokio::test]
async fn of_concurrent_creates_with_one_external_id_one_succeeds_and_the_others_are_already_exists() {
    let fixture = Arc::new(Fixture::start().await);
    let other_replica = Arc::new(Fixture::start_on(fixture.database.clone()).await);
    let mut calls = JoinSet::new();
    for number in 0..20 {
        let replica = Arc::clone(if number % 2 == 0 { &fixture } else { &other_replica });
        let external_id = if number < 16 { "same" } else { "other" };
        calls.spawn(async move { replica.create(known_as(&format!("tenant-{number}"), external_id)).await });
        let replica = Arc::clone(&fixture);
        calls.spawn(async move { replica.create(named(&format!("unrelated-{number}"))).await });
    }
    let results = calls.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 22);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "EXTERNAL_ID_TAKEN"));
    }

    let items = (0..4).map(|number| known_as(&format!("item-{number}"), ["same", "new"][number % 2]));
    let batch = BatchCreateFullyProvisionedRequest { requests: items.collect() };
    let results =
        fixture.provisioning.clone().batch_create_fully_provisioned(batch).await.unwrap().into_inner().results;
    let reasons = results.into_iter().map(|item| match item.result.unwrap() {
        BatchResult::Provisioned(_) => "created".to_owned(),
        BatchResult::Error(error) => error.reason,
    });
    let taken = "EXTERNAL_ID_TAKEN";
    assert_eq!(reasons.collect::<Vec<_>>(), [taken, "created", taken, taken]);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn the_external_id_of_a_tenant_can_be_set_once() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("omer").await);
    let before = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap();
    assert_eq!(before.external_id, None);
    let updated = set(&fixture, &tenant.id, "7").await.unwrap();
    assert_eq!(updated.external_id.as_deref(), Some("7"));
    assert!(updated.etag != before.etag && updated.updated_at != before.updated_at);
    assert_eq!(set(&fixture, &tenant.id, "7").await.unwrap(), updated, "the same value is no change");
    assert_set(&set(&fixture, &tenant.id, "8").await.unwrap_err());
    assert_taken(&set(&fixture, &other.id, "7").await.unwrap_err(), "turnkey.v1.Tenant", "7");
    assert_eq!(fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap(), updated);

    let outdated = UpdateTenantRequest {
        tenant_id: tenant.id.clone(),
        external_id: Some("8".to_owned()),
        etag: Some(before.etag),
        ..UpdateTenantRequest::default()
    };
    let error = fixture.provisioning.clone().update_tenant(outdated).await.unwrap_err();
    assert_eq!(reason(&error), "ETAG_MISMATCH");
    assert_eq!(set(&fixture, UNKNOWN_TENANT, "9").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_upsert_with_an_external_id_that_exists_updates_its_package_and_otherwise_creates_one() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let created = fixture.upsert_package(package(&tenant, "7")).await.unwrap();
    let (action, created) = (created.action(), created.package.unwrap());
    assert_eq!(
        (action, created.slug.as_str(), created.external_id.as_deref()),
        (UpsertAction::Created, "gold", Some("7"))
    );
    let repeated = fixture.upsert_package(package(&tenant, "7")).await.unwrap();
    assert_eq!((repeated.action(), repeated.package.as_ref()), (UpsertAction::Updated, Some(&created)));
    // Neither a name nor a price is needed, and a slug renames it.
    let update = UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        slug: Some("silver".to_owned()),
        external_id: Some("7".to_owned()),
        ..UpsertPackageRequest::default()
    };
    let renamed = fixture.upsert_package(update.clone()).await.unwrap().package.unwrap();
    assert_eq!((&renamed.id, renamed.slug.as_str()), (&created.id, "silver"));
    assert_eq!(fixture.package(&tenant, &created.id).await.unwrap(), renamed);

    let incomplete = UpsertPackageRequest { external_id: Some("8".to_owned()), slug: None, ..update };
    let error = fixture.upsert_package(incomplete.clone()).await.unwrap_err();
    let missing = |field: &str| (field.to_owned(), "MISSING_FIELD".to_owned());
    assert_eq!(violations(&error), [missing("name"), missing("base_price")]);
    let nameless = UpsertPackageRequest { name: Some("🎉".to_owned()), base_price: Some(1), ..incomplete };
    let error = fixture.upsert_package(nameless.clone()).await.unwrap_err();
    assert_eq!(violations(&error), [("name".to_owned(), "BAD_FORMAT".to_owned())], "no slug can be derived");
    let with_slug = UpsertPackageRequest { slug: Some("party".to_owned()), base_price: None, ..nameless };
    let error = fixture.upsert_package(with_slug.clone()).await.unwrap_err();
    assert_eq!(violations(&error), [missing("base_price")], "none need be derived");
    let complete = UpsertPackageRequest { base_price: Some(1), ..with_slug };
    assert_eq!(fixture.upsert_package(complete).await.unwrap().action(), UpsertAction::Created);
}

#[tokio::test]
async fn the_external_id_of_a_package_or_segment_is_unique_in_its_tenant_and_set_once() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("omer").await);
    fixture.upsert_package(package(&other, "7")).await.unwrap();
    fixture.upsert_segment(segment(&other, "7")).await.unwrap();

    let by_slug = |external_id: &str, slug: &str| UpsertPackageRequest {
        slug: Some(slug.to_owned()),
        ..package(&tenant, external_id)
    };
    let first = fixture.upsert_package(by_slug("7", "basic-package")).await.unwrap();
    assert_eq!(first.action(), UpsertAction::Updated);
    assert_eq!(first.package.unwrap().external_id.as_deref(), Some("7"));
    assert_set(&fixture.upsert_package(by_slug("8", "basic-package")).await.unwrap_err());
    let both = fixture.upsert_package(by_slug("7", "standard-package")).await.unwrap_err();
    assert_taken(&both, "turnkey.v1.Package", "7");
    let by_id = |id: &str| UpsertPackageRequest { package_id: Some(id.to_owned()), ..package(&tenant, "7") };
    fixture.upsert_package(by_id(&tenant.package_ids[0])).await.unwrap();
    let taken = fixture.upsert_package(by_id(&tenant.package_ids[1])).await.unwrap_err();
    assert_taken(&taken, "turnkey.v1.Package", "7");
    let renamed = UpsertPackageRequest { slug: Some("basic-package".to_owned()), ..by_id(&tenant.package_ids[1]) };
    let renamed = UpsertPackageRequest { external_id: None, ..renamed };
    assert_eq!(reason(&fixture.upsert_package(renamed).await.unwrap_err()), "PACKAGE_SLUG_TAKEN");

    let created = fixture.upsert_segment(segment(&tenant, "7")).await.unwrap();
    let created = created.segment.unwrap();
    assert_eq!((created.slug.as_str(), created.external_id.as_deref()), ("weddings", Some("7")));
    let repeated = fixture.upsert_segment(segment(&tenant, "7")).await.unwrap();
    assert_eq!((repeated.action(), repeated.segment.as_ref()), (UpsertAction::Updated, Some(&created)));
    let by_slug = |external_id: &str, slug: &str| UpsertSegmentRequest {
        slug: Some(slug.to_owned()),
        ..segment(&tenant, external_id)
    };
    assert_set(&fixture.upsert_segment(by_slug("8", "weddings")).await.unwrap_err());
    assert_taken(&fixture.upsert_segment(by_slug("7", "general")).await.unwrap_err(), "turnkey.v1.Segment", "7");
    let general = UpsertSegmentRequest { segment_id: Some(tenant.general_id.clone()), ..segment(&tenant, "7") };
    assert_taken(&fixture.upsert_segment(general.clone()).await.unwrap_err(), "turnkey.v1.Segment", "7");
    let general = UpsertSegmentRequest { external_id: Some("0".to_owned()), ..general };
    assert_eq!(fixture.upsert_segment(general).await.unwrap().segment.unwrap().external_id.as_deref(), Some("0"));
    let nameless = UpsertSegmentRequest { name: None, ..segment(&tenant, "9") };
    let error = fixture.upsert_segment(nameless).await.unwrap_err();
    assert_eq!(violations(&error), [("name".to_owned(), "MISSING_FIELD".to_owned())]);
}

#[tokio::test]
async fn concurrent_upserts_with_one_external_id_create_one_package() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let results = join_all((0..10).map(|_| fixture.upsert_package(package(&tenant, "7")))).await;
    let created = results.iter().filter(|result| result.as_ref().unwrap().action() == UpsertAction::Created);
    assert_eq!(created.count(), 1);
    assert_eq!(fixture.count("packages").await, 7 - 3);
}

#[tokio::test]
async fn the_items_of_a_batch_name_each_package_once() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let item = |external_id: &str| PackageUpsert {
        name: Some("Gold".to_owned()),
        base_price: Some(1),
        external_id: Some(external_id.to_owned()),
        ..PackageUpsert::default()
    };
    let batch = |packages: Vec<PackageUpsert>| {
        let request = BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages };
        let mut catalog = fixture.catalog.clone();
        async move { catalog.batch_upsert_packages(request).await }
    };
    let error = batch(vec![item("1"), item("1")]).await.unwrap_err();
    assert_eq!(violations(&error), [("packages[1].external_id".to_owned(), "BAD_FORMAT".to_owned())]);
    let results = batch(vec![item("1"), item("2")]).await.unwrap().into_inner().results;
    let slugs: Vec<_> = results.into_iter().map(|result| result.package.unwrap().slug).collect();
    assert_eq!(slugs, ["gold", "gold-2"]);
    let by_slug = PackageUpsert { external_id: None, slug: Some("gold".to_owned()), ..item("") };
    let error = batch(vec![by_slug, item("1")]).await.unwrap_err();
    assert_eq!(violations(&error), [("packages[1].external_id".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test]
async fn an_empty_external_id_is_absent_in_the_catalog_and_an_invalid_one_is_a_violation() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    assert_eq!(fixture.upsert_package(package(&tenant, "")).await.unwrap().package.unwrap().external_id, None);
    assert_eq!(fixture.upsert_segment(segment(&tenant, "")).await.unwrap().segment.unwrap().external_id, None);
    for (external_id, expected) in [("a\0b", "BAD_FORMAT"), (&*"x".repeat(256), "TOO_LONG")] {
        let expected = [("external_id".to_owned(), expected.to_owned())];
        assert_eq!(violations(&fixture.create(known_as("omer", external_id)).await.unwrap_err()), expected);
        assert_eq!(violations(&set(&fixture, &tenant.id, external_id).await.unwrap_err()), expected);
        assert_eq!(violations(&fixture.upsert_package(package(&tenant, external_id)).await.unwrap_err()), expected);
        assert_eq!(violations(&fixture.upsert_segment(segment(&tenant, external_id)).await.unwrap_err()), expected);
    }
}
