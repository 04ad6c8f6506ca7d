//! Quotas: how many packages, segments and usable keys a tenant can have, and the counters that the first two are
//! compared with.

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::{
    config::ServerSettings,
    domain::Quotas,
    grpc::pb::{
        BatchCreateFullyProvisionedRequest, BatchUpsertPackagesRequest, CreateApiKeyRequest, DeleteSegmentRequest,
        FindingKind, PackageUpsert, RepairTenantRequest, RotateApiKeyRequest, UpsertAction, UpsertPackageRequest,
        UpsertSegmentRequest, Verdict,
    },
};

use crate::support::{
    citus::fewer_on_citus,
    damage::summarize,
    fixture::{Fixture, NewTenant, settings},
    requests::{
        REQUEST_ID, another_key, bella_with_request_id, gold, named, rotation, rotation_of, signup, time_after,
    },
    responses::{reason, violations},
};

/// Settings of a server with these quotas for packages and segments.
fn with_quotas(packages: u32, segments: u32) -> ServerSettings {
    let (packages, segments) = (packages.try_into().unwrap(), segments.try_into().unwrap());
    let quotas = Quotas { packages, segments, ..Quotas::DEFAULT };
    ServerSettings { quotas, ..settings() }
}

/// Settings of a server with this quota for usable keys.
fn with_key_quota(usable_api_keys: u32) -> ServerSettings {
    let quotas = Quotas { usable_api_keys: usable_api_keys.try_into().unwrap(), ..Quotas::DEFAULT };
    ServerSettings { quotas, ..settings() }
}

fn segment(tenant: &NewTenant, name: &str) -> UpsertSegmentRequest {
    UpsertSegmentRequest { tenant_id: tenant.id.clone(), name: Some(name.to_owned()), ..Default::default() }
}

/// A batch that creates this many packages and updates one.
fn batch(tenant: &NewTenant, new_packages: usize) -> BatchUpsertPackagesRequest {
    let new = PackageUpsert { name: Some("Gold".to_owned()), base_price: Some(1), ..PackageUpsert::default() };
    let update = PackageUpsert { package_id: Some(tenant.package_ids[0].clone()), ..new.clone() };
    let packages = std::iter::repeat_n(new, new_packages).chain([update]).collect();
    BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages }
}

async fn batch_upsert(fixture: &Fixture, request: BatchUpsertPackagesRequest) -> Result<(), Status> {
    fixture.catalog.clone().batch_upsert_packages(request).await.map(drop)
}

async fn delete_segment(fixture: &Fixture, tenant: &NewTenant, segment_id: String) {
    let request = DeleteSegmentRequest { tenant_id: tenant.id.clone(), segment_id, ..Default::default() };
    fixture.catalog.clone().delete_segment(request).await.unwrap();
}

async fn repair(fixture: &Fixture, tenant: &NewTenant) {
    let request = RepairTenantRequest { tenant_id: tenant.id.clone() };
    fixture.provisioning.clone().repair_tenant(request).await.unwrap();
}

/// Asserts that the error is about the tenant's quota and that no retry is suggested.
fn assert_quota_exceeded(error: &Status, tenant: &NewTenant, limit: &str) {
    assert_eq!((error.code(), reason(error).as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"), "{error:?}");
    assert_eq!(error.message(), format!("a tenant can have at most {limit}"));
    assert!(error.get_details_retry_info().is_none());
    let violation = &error.get_details_quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, format!("tenant:{}", tenant.id));
    assert!(violation.description.starts_with(error.message()), "{}", violation.description);
}

#[tokio::test]
async fn of_fifty_concurrent_creates_exactly_as_many_succeed_as_the_quota_permits() {
    let fixture = Fixture::with_settings(with_quotas(10, 5)).await;
    let tenant = fixture.tenant("bella").await;
    let (mut packages, calls) = (JoinSet::new(), fewer_on_citus(50));
    for _ in 0..calls {
        let (mut client, package) = (fixture.catalog.clone(), gold(&tenant));
        packages.spawn(async move { client.upsert_package(package).await.map(drop) });
    }
    let packages = packages.join_all().await;
    let mut segments = JoinSet::new();
    for number in 0..calls {
        let (mut client, segment) = (fixture.catalog.clone(), segment(&tenant, &format!("Segment {number}")));
        segments.spawn(async move { client.upsert_segment(segment).await.map(drop) });
    }
    let segments = segments.join_all().await;
    for (responses, created, limit) in [(packages, 7, "10 packages"), (segments, 4, "5 segments")] {
        let errors: Vec<Status> = responses.into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), calls - created, "{limit}");
        for error in &errors {
            assert_quota_exceeded(error, &tenant, limit);
        }
    }
    assert_eq!(fixture.row_counts().await, [1, 5, 10, 1]);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn at_the_quota_updates_succeed_and_deletes_give_room() {
    let fixture = Fixture::with_settings(with_quotas(4, 2)).await;
    let tenant = fixture.tenant("bella").await;
    let package = UpsertPackageRequest { slug: Some("gold".to_owned()), ..gold(&tenant) };
    let created = fixture.upsert_package(package.clone()).await.unwrap();
    assert_eq!(created.action(), UpsertAction::Created);
    assert_eq!(fixture.upsert_package(package).await.unwrap().action(), UpsertAction::Updated);
    let by_id = UpsertPackageRequest { package_id: Some(tenant.package_ids[0].clone()), ..gold(&tenant) };
    assert_eq!(fixture.upsert_package(by_id).await.unwrap().action(), UpsertAction::Updated);
    assert_quota_exceeded(&fixture.upsert_package(gold(&tenant)).await.unwrap_err(), &tenant, "4 packages");
    fixture.delete_package(&tenant.id, &created.package.unwrap().id).await.unwrap();
    fixture.upsert_package(gold(&tenant)).await.unwrap();

    let created = fixture.upsert_segment(segment(&tenant, "Elopements")).await.unwrap().segment.unwrap();
    let update = UpsertSegmentRequest { segment_id: Some(created.id.clone()), ..segment(&tenant, "Small weddings") };
    fixture.upsert_segment(update).await.unwrap();
    let error = fixture.upsert_segment(segment(&tenant, "Another")).await.unwrap_err();
    assert_quota_exceeded(&error, &tenant, "2 segments");
    delete_segment(&fixture, &tenant, created.id).await;
    fixture.upsert_segment(segment(&tenant, "Another")).await.unwrap();
    assert_eq!(fixture.row_counts().await, [1, 2, 4, 1]);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn a_batch_that_would_exceed_the_quota_is_refused_whole() {
    let fixture = Fixture::with_settings(with_quotas(5, 2)).await;
    let tenant = fixture.tenant("bella").await;
    let error = batch_upsert(&fixture, batch(&tenant, 3)).await.unwrap_err();
    assert_quota_exceeded(&error, &tenant, "5 packages");
    assert_eq!(fixture.package(&tenant, &tenant.package_ids[0]).await.unwrap().name, "Basic Package");
    assert_eq!(fixture.count("packages").await, 3);
    // Invalid items are reported first: whether the others fit depends on them.
    let mut invalid = batch(&tenant, 3);
    invalid.packages.push(PackageUpsert { name: Some("Without price".to_owned()), ..PackageUpsert::default() });
    let error = batch_upsert(&fixture, invalid).await.unwrap_err();
    assert_eq!(violations(&error), [("packages[4].base_price".to_owned(), "MISSING_FIELD".to_owned())]);

    batch_upsert(&fixture, batch(&tenant, 2)).await.unwrap();
    batch_upsert(&fixture, batch(&tenant, 0)).await.unwrap();
    assert_eq!(fixture.count("packages").await, 5);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn a_tenant_above_a_lowered_quota_can_only_update_and_delete() {
    let generous = Fixture::start().await;
    let tenant = generous.tenant("bella").await;
    batch_upsert(&generous, batch(&tenant, 5)).await.unwrap();
    let strict = Fixture::start_with(generous.database.clone(), with_quotas(4, 1)).await;
    assert_quota_exceeded(&strict.upsert_package(gold(&tenant)).await.unwrap_err(), &tenant, "4 packages");
    batch_upsert(&strict, batch(&tenant, 0)).await.unwrap();
    strict.delete_package(&tenant.id, &tenant.package_ids[1]).await.unwrap();
    let error = strict.upsert_segment(segment(&tenant, "Another")).await.unwrap_err();
    assert_quota_exceeded(&error, &tenant, "1 segments");
}

#[tokio::test]
async fn every_change_by_the_service_keeps_the_counters_correct() {
    let fixture = Fixture::start().await;
    fixture.sign_up(signup("Omer", "omer@example.com")).await.unwrap();
    let requests = BatchCreateFullyProvisionedRequest { requests: vec![named("one"), named("two")] };
    fixture.provisioning.clone().batch_create_fully_provisioned(requests).await.unwrap();
    let tenant = fixture.tenant("bella").await;
    batch_upsert(&fixture, batch(&tenant, 4)).await.unwrap();
    let another = fixture.upsert_segment(segment(&tenant, "Another")).await.unwrap().segment.unwrap();
    delete_segment(&fixture, &tenant, another.id).await;
    fixture.delete_package(&tenant.id, &tenant.package_ids[2]).await.unwrap();
    // Changes that fail.
    batch_upsert(&fixture, batch(&tenant, 498 + 2)).await.unwrap_err();
    fixture.delete_package(&tenant.id, &tenant.package_ids[2]).await.unwrap_err();
    fixture.upsert_segment(UpsertSegmentRequest { name: None, ..segment(&tenant, "") }).await.unwrap_err();
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    assert_eq!(fixture.count("tenant_usage").await, 4);
    assert_eq!(fixture.count("tenant_usage WHERE (package_count, segment_count) = (6, 1)").await, 1);
}

#[tokio::test]
async fn a_general_segment_that_is_created_again_is_counted_and_exempt_from_the_quota() {
    let fixture = Fixture::with_settings(with_quotas(10, 1)).await;
    let tenant = fixture.tenant("bella").await;
    let renamed = "UPDATE segments SET slug = 'another'";
    fixture.database.execute_without_triggers(renamed).await;
    fixture.upsert_package(gold(&tenant)).await.unwrap();
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    assert_eq!(fixture.count("tenant_usage WHERE (package_count, segment_count) = (4, 2)").await, 1);
}

#[tokio::test]
async fn wrong_counters_after_changes_in_psql_are_found_and_repaired() {
    let fixture = Fixture::with_settings(with_quotas(4, 2)).await;
    let tenant = fixture.tenant("bella").await;
    let changes = "DELETE FROM packages WHERE slug <> 'basic-package';
                   INSERT INTO segments SELECT tenant_id, gen_random_uuid(), 'from-psql', name, name, '', 1, true, now(), now()
                     FROM segments";
    fixture.database.execute(changes).await;
    let findings = fixture.check_integrity(None).await.unwrap();
    assert_eq!(summarize(&findings), vec![("bella".to_owned(), FindingKind::WrongUsageCount); 2]);
    assert!(findings[0].detail.contains("packages") && findings[1].detail.contains("segments"), "{findings:?}");

    repair(&fixture, &tenant).await;
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    batch_upsert(&fixture, batch(&tenant, 3)).await.unwrap();
    let error = fixture.upsert_segment(segment(&tenant, "Another")).await.unwrap_err();
    assert_quota_exceeded(&error, &tenant, "2 segments");
}

#[tokio::test]
async fn a_repair_counts_the_parts_that_it_creates() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    fixture.database.execute_without_triggers("DELETE FROM packages; DELETE FROM segments").await;
    let kinds = [FindingKind::NoGeneralSegment, FindingKind::NoPackage].map(|kind| ("bella".to_owned(), kind));
    assert_eq!(summarize(&fixture.check_integrity(None).await.unwrap()), kinds);
    fixture.database.execute("UPDATE tenant_usage SET package_count = -1, segment_count = 1000").await;
    repair(&fixture, &tenant).await;
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    assert_eq!(fixture.count("tenant_usage WHERE (package_count, segment_count) = (3, 1)").await, 1);
}

#[tokio::test]
async fn a_tenant_without_counters_is_counted_at_its_next_change() {
    let fixture = Fixture::with_settings(with_quotas(4, 2)).await;
    let (one, two) = (fixture.tenant("one").await, fixture.tenant("two").await);
    fixture.database.execute("DELETE FROM tenant_usage").await;
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    repair(&fixture, &one).await;
    fixture.delete_package(&one.id, &one.package_ids[0]).await.unwrap();
    batch_upsert(&fixture, batch(&NewTenant { package_ids: one.package_ids[1..].to_vec(), ..one.clone() }, 2))
        .await
        .unwrap();
    assert_quota_exceeded(&fixture.upsert_package(gold(&one)).await.unwrap_err(), &one, "4 packages");
    fixture.upsert_segment(segment(&two, "Another")).await.unwrap();
    let error = fixture.upsert_segment(segment(&two, "One more")).await.unwrap_err();
    assert_quota_exceeded(&error, &two, "2 segments");
    assert_eq!(fixture.count("tenant_usage").await, 2);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn of_fifty_concurrent_creations_of_keys_exactly_as_many_succeed_as_the_quota_permits() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let (mut client, request) = (fixture.provisioning.clone(), another_key(&tenant.id));
        calls.spawn(async move { client.create_api_key(request).await.map(drop) });
    }
    let errors: Vec<Status> = calls.join_all().await.into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 31);
    for error in &errors {
        assert_quota_exceeded(error, &tenant, "20 API keys");
    }
    assert_eq!(fixture.keys(&tenant.id).await.len(), 20);
}

#[tokio::test]
async fn expired_revoked_and_replaced_keys_do_not_count() {
    let fixture = Fixture::with_settings(with_key_quota(2)).await;
    let tenant = fixture.tenant("bella").await;
    let create = async |expires_in: Option<time::Duration>| {
        let expires_at = expires_in.map(time_after);
        let request = CreateApiKeyRequest { expires_at, ..another_key(&tenant.id) };
        fixture.create_key(request).await.map(|response| response.api_key.unwrap().public_key)
    };
    let second = create(None).await.unwrap();
    assert_quota_exceeded(&create(None).await.unwrap_err(), &tenant, "2 API keys");
    // A rotation is possible at the quota. The replaced key does not count, although it still verifies.
    let rotated = fixture.try_rotate(rotation_of(&tenant.id, &second)).await.unwrap().api_key.unwrap().public_key;
    assert_quota_exceeded(&create(None).await.unwrap_err(), &tenant, "2 API keys");
    fixture.revoke(&tenant.id, &rotated).await.unwrap();
    create(Some(time::Duration::minutes(10))).await.unwrap();
    assert_quota_exceeded(&create(None).await.unwrap_err(), &tenant, "2 API keys");
    fixture.advance_clock(time::Duration::minutes(10));
    create(None).await.unwrap();
    assert_quota_exceeded(&create(None).await.unwrap_err(), &tenant, "2 API keys");
    fixture.rotate(&tenant, None).await;
    create(None).await.unwrap();
    assert_quota_exceeded(&create(None).await.unwrap_err(), &tenant, "2 API keys");
}

#[tokio::test]
async fn a_creation_is_replayed_at_the_quota() {
    let fixture = Fixture::with_settings(with_key_quota(2)).await;
    let tenant = fixture.tenant("bella").await;
    let request = CreateApiKeyRequest { request_id: Some(REQUEST_ID.to_owned()), ..another_key(&tenant.id) };
    let created = fixture.create_key(request.clone()).await.unwrap();
    let repeated = fixture.create_key(request).await.unwrap();
    assert!(repeated.replayed);
    assert_eq!((repeated.api_key, repeated.secret_key), (created.api_key, created.secret_key));
}

#[tokio::test]
async fn the_newest_200_ended_keys_are_kept_and_every_key_that_verifies() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let request_id = Some(REQUEST_ID.to_owned());
    let first = RotateApiKeyRequest { request_id, ..rotation_of(&tenant.id, &tenant.public_key) };
    let first = (first.clone(), fixture.try_rotate(first).await.unwrap());
    let rotated = first.1.api_key.as_ref().unwrap().public_key.clone();
    fixture.revoke(&tenant.id, &rotated).await.unwrap();
    // The tenant's first key verifies for 24 hours, and the second is revoked. Newer keys are expired.
    let expired = "INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at, expires_at)
                   SELECT lpad(n::text, 16, '0'), id, 'pk_live_x_' || lpad(n::text, 16, '0'), '$argon2id$',
                          now() + n * interval '1 ms', now() FROM tenants, generate_series(1, 250) AS n";
    fixture.database.execute(expired).await;
    fixture.advance_clock(time::Duration::minutes(1));
    let newest = fixture.create_key(another_key(&tenant.id)).await.unwrap().api_key.unwrap();
    let kept: Vec<String> = fixture.keys(&tenant.id).await.into_iter().map(|key| key.public_key).collect();
    let expected = (52..=250).rev().map(|number| format!("pk_live_x_{number:016}"));
    let expected: Vec<String> = [newest.public_key].into_iter().chain(expected).chain([tenant.public_key]).collect();
    assert_eq!(kept, expected, "one of the 200 is the replaced key that still verifies");

    let (request, response) = first;
    let repeated = fixture.try_rotate(request).await.unwrap();
    assert_eq!((repeated.replayed, repeated.secret_key.as_str()), (true, ""));
    let deleted = repeated.api_key.unwrap();
    assert_eq!((&deleted.public_key, deleted.revoked_at.is_some()), (&rotated, true));
    assert_eq!(fixture.verify(&response.secret_key).await.verdict(), Verdict::Invalid);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test]
async fn the_keys_of_a_tenant_that_rotates_often_are_bounded_and_its_creation_is_replayed() {
    let fixture = Fixture::start().await;
    let tenant = fixture.create(bella_with_request_id()).await.unwrap().tenant.unwrap();
    for number in 0..205 {
        let overlap = if number % 2 == 0 { time::Duration::ZERO } else { time::Duration::days(1) };
        fixture.try_rotate(rotation(&tenant.id, Some(overlap))).await.unwrap();
    }
    assert_eq!(fixture.keys(&tenant.id).await.len(), 201);
    let repeated = fixture.create(bella_with_request_id()).await.unwrap();
    assert_eq!((repeated.replayed, repeated.secret_key.as_str()), (true, ""));
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    fixture.provisioning.clone().repair_tenant(RepairTenantRequest { tenant_id: tenant.id }).await.unwrap();
    assert!(fixture.create(bella_with_request_id()).await.unwrap().replayed);
}
