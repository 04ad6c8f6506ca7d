//! `Segment.package_count`: a stored counter that is right after every change, and changes nothing else of the segment.

use tokio::task::JoinSet;
use turnkey::grpc::pb::{
    BatchUpsertPackagesRequest, CreateFullyProvisionedRequest, DeletePackageRequest, FindingKind, GetSegmentRequest,
    ListSegmentsRequest, PackageUpsert, RepairTenantRequest, RepairTenantResponse, Segment, UpsertPackageRequest,
    UpsertSegmentRequest,
};

use crate::support::{
    citus::fewer_on_citus,
    damage::summarize,
    events::types,
    fixture::{Fixture, NewTenant},
    requests::{bella, bella_with_request_id, gold, signup},
};

async fn segment(fixture: &Fixture, tenant: &NewTenant, segment_id: &str) -> Segment {
    let request = GetSegmentRequest {
        tenant_id: tenant.id.clone(),
        segment_id: segment_id.to_owned(),
        ..GetSegmentRequest::default()
    };
    fixture.catalog.clone().get_segment(request).await.unwrap().into_inner().segment.unwrap()
}

async fn create_segment(fixture: &Fixture, tenant: &NewTenant, name: &str) -> Segment {
    let (tenant_id, name) = (tenant.id.clone(), Some(name.to_owned()));
    let request = UpsertSegmentRequest { tenant_id, name, ..UpsertSegmentRequest::default() };
    fixture.upsert_segment(request).await.unwrap().segment.unwrap()
}

/// The slug and the count of each segment.
async fn counts(fixture: &Fixture, tenant: &NewTenant) -> Vec<(String, i32)> {
    let request = ListSegmentsRequest { tenant_id: tenant.id.clone(), ..ListSegmentsRequest::default() };
    let segments = fixture.catalog.clone().list_segments(request).await.unwrap().into_inner().segments;
    segments.into_iter().map(|segment| (segment.slug, segment.package_count)).collect()
}

fn expected(general: i32, other: i32) -> Vec<(String, i32)> {
    vec![("general".to_owned(), general), ("other".to_owned(), other)]
}

/// A new package in this segment.
fn in_segment(tenant: &NewTenant, segment_id: &str) -> UpsertPackageRequest {
    UpsertPackageRequest { segment_id: Some(segment_id.to_owned()), ..gold(tenant) }
}

fn moved(package_id: &str, segment_id: &str) -> PackageUpsert {
    PackageUpsert {
        package_id: Some(package_id.to_owned()),
        segment_id: Some(segment_id.to_owned()),
        ..PackageUpsert::default()
    }
}

async fn batch(fixture: &Fixture, tenant: &NewTenant, packages: Vec<PackageUpsert>) {
    let request = BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages };
    fixture.catalog.clone().batch_upsert_packages(request).await.unwrap();
}

async fn repair(fixture: &Fixture, tenant: &NewTenant) -> RepairTenantResponse {
    let request = RepairTenantRequest { tenant_id: tenant.id.clone() };
    fixture.provisioning.clone().repair_tenant(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn the_general_segment_of_a_new_tenant_has_three_packages_in_every_response() {
    let fixture = Fixture::start().await;
    let validated = CreateFullyProvisionedRequest { validate_only: true, ..bella() };
    assert_eq!(fixture.create(validated).await.unwrap().segment.unwrap().package_count, 3);
    for _ in ["created", "replayed"] {
        let segment = fixture.create(bella_with_request_id()).await.unwrap().segment.unwrap();
        assert_eq!(segment.package_count, 3);
    }
    assert_eq!(fixture.sign_up(signup("Omer", "omer@example.com")).await.unwrap().segment.unwrap().package_count, 3);
    assert_eq!(fixture.count("segments WHERE package_count = 3").await, 2);
}

#[tokio::test]
async fn creating_moving_and_deleting_packages_changes_the_counts_and_nothing_else_of_a_segment() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let other = create_segment(&fixture, &tenant, "Other").await;
    assert_eq!(other.package_count, 0);
    let general = segment(&fixture, &tenant, &tenant.general_id).await;

    let first = fixture.upsert_package(gold(&tenant)).await.unwrap().package.unwrap();
    fixture.upsert_package(in_segment(&tenant, &other.id)).await.unwrap();
    let dry_run = UpsertPackageRequest { validate_only: Some(true), ..in_segment(&tenant, &other.id) };
    fixture.upsert_package(dry_run).await.unwrap();
    assert_eq!(counts(&fixture, &tenant).await, expected(4, 1));
    // To the other segment, within a segment, and there and back.
    let ids = &tenant.package_ids;
    let items = vec![
        moved(&ids[0], &other.id),
        moved(&ids[1], &tenant.general_id),
        moved(&first.id, &other.id),
        PackageUpsert { name: Some("New".to_owned()), base_price: Some(1), ..PackageUpsert::default() },
    ];
    batch(&fixture, &tenant, items).await;
    assert_eq!(counts(&fixture, &tenant).await, expected(3, 3));
    batch(&fixture, &tenant, vec![moved(&ids[0], &tenant.general_id), moved(&ids[1], &other.id)]).await;
    assert_eq!(counts(&fixture, &tenant).await, expected(3, 3));
    fixture.delete_package(&tenant.id, &first.id).await.unwrap();
    assert_eq!(counts(&fixture, &tenant).await, expected(3, 2));

    for before in [general, other] {
        let now = segment(&fixture, &tenant, &before.id).await;
        assert_eq!(Segment { package_count: before.package_count, ..now }, before);
    }
    let events = fixture.events().await;
    assert_eq!(types(&events).iter().filter(|kind| kind.starts_with("segment.")).count(), 1, "the creation");
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn the_counts_are_exact_after_concurrent_changes_on_two_replicas() {
    let fixture = Fixture::start().await;
    let replica = Fixture::start_on(fixture.database.clone()).await;
    let tenant = fixture.tenant("bella").await;
    let other = create_segment(&fixture, &tenant, "Other").await;
    let (mut changes, count) = (JoinSet::new(), fewer_on_citus(40));
    for number in 0..count {
        let mut catalog = if number % 2 == 0 { fixture.catalog.clone() } else { replica.catalog.clone() };
        let segments = [tenant.general_id.clone(), other.id.clone()];
        let (tenant, target) = (tenant.clone(), segments[number / 2 % 2].clone());
        changes.spawn(async move {
            let created = catalog.upsert_package(in_segment(&tenant, &target)).await.unwrap().into_inner();
            let id = created.package.unwrap().id;
            let back = segments.iter().find(|segment| **segment != target).unwrap();
            let moves = vec![moved(&id, back), moved(&tenant.package_ids[number % 3], &target)];
            let request = BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages: moves };
            catalog.batch_upsert_packages(request).await.unwrap();
            if number % 4 == 0 {
                let tenant_id = tenant.id.clone();
                let request = DeletePackageRequest { tenant_id, package_id: id, ..DeletePackageRequest::default() };
                catalog.delete_package(request).await.unwrap();
            }
        });
    }
    changes.join_all().await;
    let counts = counts(&fixture, &tenant).await;
    let (packages, created) = (counts.iter().map(|(_, count)| count).sum::<i32>(), i32::try_from(count).unwrap());
    assert_eq!(packages, 3 + created - created / 4);
    // Compares the count of each segment with its packages.
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn a_general_segment_that_is_created_again_has_the_packages_that_were_added_to_it() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    fixture.database.execute_without_triggers("UPDATE segments SET slug = 'other', sort_order = 1").await;
    let new = PackageUpsert { name: Some("New".to_owned()), base_price: Some(1), ..PackageUpsert::default() };
    batch(&fixture, &tenant, vec![new.clone(), new, moved(&tenant.package_ids[0], &tenant.general_id)]).await;
    assert_eq!(counts(&fixture, &tenant).await, expected(2, 3));
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn a_repair_creates_general_with_the_count_of_the_packages_that_it_creates_or_moves() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    fixture.database.execute_without_triggers("DELETE FROM segments").await;
    assert_eq!(repair(&fixture, &tenant).await.created_segment.unwrap().package_count, 3);
    assert_eq!(counts(&fixture, &tenant).await, [("general".to_owned(), 3)]);
    fixture.database.execute_without_triggers("DELETE FROM segments; DELETE FROM packages").await;
    assert_eq!(repair(&fixture, &tenant).await.created_segment.unwrap().package_count, 3);
    assert_eq!(counts(&fixture, &tenant).await, [("general".to_owned(), 3)]);
    let moved = "UPDATE packages SET segment_id = '99999999-9999-7999-8999-999999999999' WHERE slug = 'basic-package'";
    fixture.database.execute_without_triggers(moved).await;
    assert_eq!(repair(&fixture, &tenant).await.created_segment, None);
    assert_eq!(counts(&fixture, &tenant).await, [("general".to_owned(), 3)]);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn a_wrong_count_is_found_and_repaired() {
    let fixture = Fixture::start().await;
    let (tenant, _sound) = (fixture.tenant("bella").await, fixture.tenant("sound").await);
    let other = create_segment(&fixture, &tenant, "Other").await;
    // The number of the tenant's packages stays right.
    let change = format!("UPDATE packages SET segment_id = '{}' WHERE id = '{}'", other.id, tenant.package_ids[0]);
    fixture.database.execute(change).await;
    assert_eq!(counts(&fixture, &tenant).await, expected(3, 0));
    let findings = fixture.check_integrity(None).await.unwrap();
    assert_eq!(summarize(&findings), [("bella".to_owned(), FindingKind::WrongUsageCount)]);
    assert!(findings[0].detail.contains("packages in a segment"), "{findings:?}");
    repair(&fixture, &tenant).await;
    assert_eq!(counts(&fixture, &tenant).await, expected(2, 1));
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn the_packages_of_a_segment_that_was_inserted_in_psql_are_counted_when_it_is_read() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let insert = format!(
        "INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active, created_at, updated_at)
         VALUES ('{id}', gen_random_uuid(), 'other', 'Other', 'Other', '', 1, true, now(), now());
         INSERT INTO packages
         SELECT tenant_id, gen_random_uuid(), id, 'from-psql', 'P', '', 0, 'DATE', 1, true, now(), now()
           FROM segments WHERE slug = 'other';
         UPDATE tenant_usage SET package_count = 4, segment_count = 2",
        id = tenant.id
    );
    fixture.database.execute(insert).await;
    assert_eq!(counts(&fixture, &tenant).await, expected(3, 1));
    let slug = Some("other".to_owned());
    let rename = UpsertSegmentRequest { tenant_id: tenant.id.clone(), slug, sort_order: Some(9), ..Default::default() };
    let other = fixture.upsert_segment(rename).await.unwrap().segment.unwrap();
    assert_eq!(other.package_count, 1);
    fixture.upsert_package(in_segment(&tenant, &other.id)).await.unwrap();
    batch(&fixture, &tenant, vec![moved(&tenant.package_ids[0], &other.id)]).await;
    assert_eq!(counts(&fixture, &tenant).await, expected(2, 3));
    assert_eq!(segment(&fixture, &tenant, &other.id).await.package_count, 3);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}
