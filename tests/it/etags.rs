//! Etags: they change exactly when a field of the resource changes, and a call with another one changes nothing.

use sqlx::{AssertSqlSafe, ConnectOptions as _};
use time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{
    BatchUpsertPackagesRequest, CreateFullyProvisionedResponse, DeletePackageRequest, DeleteSegmentRequest,
    DeleteTenantRequest, GetSegmentRequest, ListTenantsRequest, Package, PackageUpsert, Segment, Tenant,
    UpdateTenantRequest, UpsertPackageRequest, UpsertSegmentRequest, get_tenant_request::Identifier,
};

use crate::support::{
    damage::UNKNOWN_TENANT,
    fixture::{Fixture, NewTenant},
    owners::BELLA,
    requests::{gold, named, signup},
    responses::reason,
};

/// What a client reads: the tenant, its General segment and its first package.
async fn read(fixture: &Fixture, tenant: &NewTenant) -> (Tenant, Segment, Package) {
    let request =
        GetSegmentRequest { tenant_id: tenant.id.clone(), segment_id: tenant.general_id.clone(), ..Default::default() };
    let segment = fixture.catalog.clone().get_segment(request).await.unwrap().into_inner().segment.unwrap();
    (
        fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap(),
        segment,
        fixture.package(tenant, &tenant.package_ids[0]).await.unwrap(),
    )
}

async fn etags(fixture: &Fixture, tenant: &NewTenant) -> [String; 3] {
    let (tenant, segment, package) = read(fixture, tenant).await;
    [tenant.etag, segment.etag, package.etag]
}

async fn rename_tenant(fixture: &Fixture, id: &str, name: &str, etag: Option<&str>) -> Result<Tenant, Status> {
    let (tenant_id, name, etag) = (id.to_owned(), Some(name.to_owned()), etag.map(str::to_owned));
    let request = UpdateTenantRequest { tenant_id, name, etag, ..UpdateTenantRequest::default() };
    Ok(fixture.provisioning.clone().update_tenant(request).await?.into_inner().tenant.unwrap())
}

/// An update of the first package.
fn price(tenant: &NewTenant, base_price: i64, etag: Option<&str>) -> UpsertPackageRequest {
    UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(tenant.package_ids[0].clone()),
        base_price: Some(base_price),
        etag: etag.map(str::to_owned),
        ..UpsertPackageRequest::default()
    }
}

/// An update of the General segment.
fn title(tenant: &NewTenant, hero_title: &str, etag: Option<&str>) -> UpsertSegmentRequest {
    UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        segment_id: Some(tenant.general_id.clone()),
        hero_title: Some(hero_title.to_owned()),
        etag: etag.map(str::to_owned),
        ..UpsertSegmentRequest::default()
    }
}

fn assert_mismatch(error: &Status, resource_type: &str) {
    assert_eq!((error.code(), reason(error).as_str()), (Code::Aborted, "ETAG_MISMATCH"), "{error}");
    let metadata = error.get_details_error_info().unwrap().metadata;
    assert_eq!(metadata.get("resource_type").map(String::as_str), Some(resource_type));
    assert!(error.get_details_retry_info().is_none(), "a retry does not help");
}

#[tokio::test]
async fn the_etags_of_a_response_are_those_that_are_read_afterwards() {
    let fixture = Fixture::start().await;
    for created in [fixture.create(named("bella-one")).await.unwrap(), {
        let signup = fixture.sign_up(signup("Bella Two", BELLA)).await.unwrap();
        CreateFullyProvisionedResponse {
            tenant: signup.tenant,
            secret_key: signup.secret_key,
            segment: signup.segment,
            packages: signup.packages,
            replayed: signup.replayed,
        }
    }] {
        let (tenant, segment, package) = (created.tenant.unwrap(), created.segment.unwrap(), &created.packages[0]);
        let ids = NewTenant {
            id: tenant.id.clone(),
            public_key: tenant.api_key_public.clone(),
            secret_key: created.secret_key,
            general_id: segment.id.clone(),
            package_ids: vec![package.id.clone()],
        };
        let responded = [tenant.etag, segment.etag, package.etag.clone()];
        assert!(responded.iter().all(|etag| !etag.is_empty()));
        assert_eq!(responded, etags(&fixture, &ids).await);
        let mut client = fixture.provisioning.clone();
        let listed = client.list_tenants(ListTenantsRequest::default()).await.unwrap().into_inner().tenants;
        assert!(listed.iter().any(|listed| listed.etag == responded[0]));

        let changed = [
            rename_tenant(&fixture, &ids.id, "Changed", None).await.unwrap().etag,
            fixture.upsert_segment(title(&ids, "Changed", None)).await.unwrap().segment.unwrap().etag,
            fixture.upsert_package(price(&ids, 7, None)).await.unwrap().package.unwrap().etag,
        ];
        assert_eq!(changed, etags(&fixture, &ids).await);
        assert!(changed.iter().zip(&responded).all(|(changed, created)| changed != created));
    }
}

#[tokio::test]
async fn a_call_that_changes_nothing_leaves_the_etag_and_every_change_renews_it() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    rename_tenant(&fixture, &tenant.id, "Bella", None).await.unwrap();
    fixture.upsert_segment(title(&tenant, "Gold", None)).await.unwrap();
    fixture.upsert_package(price(&tenant, 1, None)).await.unwrap();
    let before = etags(&fixture, &tenant).await;

    fixture.advance_clock(Duration::minutes(1));
    rename_tenant(&fixture, &tenant.id, "Bella", None).await.unwrap();
    fixture.upsert_segment(title(&tenant, "Gold", None)).await.unwrap();
    fixture.upsert_package(price(&tenant, 1, None)).await.unwrap();
    // Other rows, which the resources do not show or do not own.
    fixture.rotate(&tenant, None).await;
    let added = fixture.upsert_package(gold(&tenant)).await.unwrap().package.unwrap();
    fixture.delete_package(&tenant.id, &added.id).await.unwrap();
    assert_eq!(etags(&fixture, &tenant).await, before);

    let mut seen = vec![before[0].clone()];
    for change in 0..6 {
        let changed = match change {
            0 => fixture.suspend_tenant(&tenant.id).await,
            1 => fixture.delete_tenant(&tenant.id).await,
            2 => fixture.undelete_tenant(&tenant.id).await,
            3 => fixture.set_owner(&tenant.id, BELLA, None).await,
            4 => fixture.set_owner(&tenant.id, "omer@example.com", None).await,
            _ => {
                let token = fixture.verification_token("omer@example.com").await;
                fixture.verify_email(&token).await;
                fixture.get(Identifier::TenantId(tenant.id.clone())).await
            }
        };
        let etag = changed.unwrap().etag;
        assert_eq!(etag, fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap().etag);
        assert!(!seen.contains(&etag), "change {change}");
        seen.push(etag);
    }
}

#[tokio::test]
async fn a_change_in_psql_renews_the_etag_of_its_resource_alone() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    fixture.set_owner(&tenant.id, BELLA, None).await.unwrap();
    let psql = fixture.superuser_pool().await;
    for (sql, resource) in [
        ("UPDATE tenants SET name = 'Other'", Some(0)),
        ("UPDATE tenants SET branding = '{\"a\": 1}'", Some(0)),
        ("UPDATE tenants SET name = name", None),
        ("UPDATE owners SET email = 'other@example.com', canonical_email = 'other@example.com'", Some(0)),
        ("UPDATE owners SET email_verified_at = now()", Some(0)),
        ("UPDATE owners SET password_hash = NULL, reset_token_hash = NULL", None),
        ("DELETE FROM owners", Some(0)),
        ("UPDATE segments SET description = 'Other'", Some(1)),
        ("UPDATE segments SET slug = slug", None),
        ("UPDATE packages SET base_price = base_price + 1", Some(2)),
        ("UPDATE packages SET active = active", None),
        ("UPDATE api_keys SET last_used_at = now()", None),
    ] {
        let before = etags(&fixture, &tenant).await;
        sqlx::query(AssertSqlSafe(sql)).execute(&psql).await.unwrap();
        let after = etags(&fixture, &tenant).await;
        for index in 0..3 {
            assert_eq!(before[index] != after[index], resource == Some(index), "{sql}: resource {index}");
        }
    }
}

#[tokio::test]
async fn a_change_with_the_etag_that_was_read_is_made_and_with_any_other_changes_nothing() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    fixture.set_owner(&tenant.id, BELLA, None).await.unwrap();
    let [old_tenant, old_segment, old_package] = etags(&fixture, &tenant).await;
    rename_tenant(&fixture, &tenant.id, "Two", Some(&old_tenant)).await.unwrap();
    fixture.upsert_segment(title(&tenant, "Two", Some(&old_segment))).await.unwrap();
    fixture.upsert_package(price(&tenant, 2, Some(&old_package))).await.unwrap();

    let before = read(&fixture, &tenant).await;
    for etags in [[&old_tenant, &old_segment, &old_package], [&"x\0".to_owned(), &before.2.etag, &before.1.etag]] {
        let [tenant_etag, segment_etag, package_etag] = etags.map(|etag| Some(etag.as_str()));
        let error = rename_tenant(&fixture, &tenant.id, "Three", tenant_etag).await.unwrap_err();
        assert_mismatch(&error, "turnkey.v1.Tenant");
        let request = DeleteTenantRequest { tenant_id: tenant.id.clone(), etag: tenant_etag.map(str::to_owned) };
        let error = fixture.provisioning.clone().delete_tenant(request).await.unwrap_err();
        assert_mismatch(&error, "turnkey.v1.Tenant");
        let error = fixture.upsert_segment(title(&tenant, "Three", segment_etag)).await.unwrap_err();
        assert_mismatch(&error, "turnkey.v1.Segment");
        for validate_only in [None, Some(true)] {
            let request = UpsertPackageRequest { validate_only, ..price(&tenant, 3, package_etag) };
            assert_mismatch(&fixture.upsert_package(request).await.unwrap_err(), "turnkey.v1.Package");
        }
        let request = DeletePackageRequest {
            tenant_id: tenant.id.clone(),
            package_id: tenant.package_ids[0].clone(),
            etag: package_etag.map(str::to_owned),
            ..Default::default()
        };
        let error = fixture.catalog.clone().delete_package(request).await.unwrap_err();
        assert_mismatch(&error, "turnkey.v1.Package");
    }
    assert_eq!(read(&fixture, &tenant).await, before);

    // The empty text counts as absent.
    rename_tenant(&fixture, &tenant.id, "Three", Some("")).await.unwrap();
    fixture.upsert_segment(title(&tenant, "Three", Some(""))).await.unwrap();
    fixture.upsert_package(price(&tenant, 3, Some(""))).await.unwrap();
}

#[tokio::test]
async fn an_upsert_with_an_etag_never_creates() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let etag = etags(&fixture, &tenant).await[2].clone();
    for slug in [None, Some("gold".to_owned())] {
        let package = UpsertPackageRequest { slug: slug.clone(), etag: Some(etag.clone()), ..gold(&tenant) };
        assert_mismatch(&fixture.upsert_package(package).await.unwrap_err(), "turnkey.v1.Package");
        let name = Some("Weddings".to_owned());
        let segment = UpsertSegmentRequest { segment_id: None, slug, name, ..title(&tenant, "Gold", Some(&etag)) };
        assert_mismatch(&fixture.upsert_segment(segment).await.unwrap_err(), "turnkey.v1.Segment");
    }
    let by_slug = UpsertPackageRequest {
        package_id: None,
        slug: Some("basic-package".to_owned()),
        ..price(&tenant, 5, Some(&etag))
    };
    assert_eq!(fixture.upsert_package(by_slug).await.unwrap().package.unwrap().base_price, Some(5));
    assert_eq!(fixture.row_counts().await, [1, 1, 3, 1]);
}

#[tokio::test]
async fn a_batch_with_one_wrong_etag_changes_nothing() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let mut items = Vec::new();
    for id in &tenant.package_ids {
        let etag = Some(fixture.package(&tenant, id).await.unwrap().etag);
        let (package_id, base_price) = (Some(id.clone()), Some(9));
        items.push(PackageUpsert { package_id, base_price, etag, ..PackageUpsert::default() });
    }
    fixture.upsert_package(price(&tenant, 1, None)).await.unwrap();
    let batch = |packages: &[PackageUpsert]| BatchUpsertPackagesRequest {
        tenant_id: tenant.id.clone(),
        packages: packages.to_vec(),
    };
    let error = fixture.catalog.clone().batch_upsert_packages(batch(&items)).await.unwrap_err();
    assert_mismatch(&error, "turnkey.v1.Package");
    assert_eq!(fixture.package(&tenant, &tenant.package_ids[1]).await.unwrap().base_price, Some(0));
    fixture.catalog.clone().batch_upsert_packages(batch(&items[1..])).await.unwrap();
    assert_eq!(fixture.package(&tenant, &tenant.package_ids[1]).await.unwrap().base_price, Some(9));
}

#[tokio::test]
async fn of_concurrent_calls_with_one_etag_exactly_one_changes_the_resource() {
    const CALLS: usize = 8;
    let fixture = std::sync::Arc::new(Fixture::start().await);
    let tenant = fixture.tenant("bella").await;
    let [tenant_etag, segment_etag, package_etag] = etags(&fixture, &tenant).await;
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let (fixture, id) = (std::sync::Arc::clone(&fixture), tenant.id.clone());
        let segment = title(&tenant, &format!("Title {number}"), Some(&segment_etag));
        let package = price(&tenant, i64::try_from(number).unwrap() + 1, Some(&package_etag));
        let etag = tenant_etag.clone();
        calls.spawn(async move {
            [
                rename_tenant(&fixture, &id, &format!("Name {number}"), Some(&etag)).await.map(drop),
                fixture.upsert_segment(segment).await.map(drop),
                fixture.upsert_package(package).await.map(drop),
            ]
        });
    }
    let results = calls.join_all().await;
    for (index, resource) in ["Tenant", "Segment", "Package"].into_iter().enumerate() {
        let (made, refused): (Vec<_>, Vec<_>) = results.iter().map(|of_call| &of_call[index]).partition(|r| r.is_ok());
        assert_eq!((made.len(), refused.len()), (1, CALLS - 1), "{resource}");
        for error in refused {
            assert_mismatch(error.as_ref().unwrap_err(), &format!("turnkey.v1.{resource}"));
        }
    }
}

#[tokio::test]
async fn a_deletion_with_the_right_etag_succeeds_and_what_does_not_exist_is_not_found() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let created = fixture.upsert_package(gold(&tenant)).await.unwrap().package.unwrap();
    let request = DeletePackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: created.id,
        etag: Some(created.etag),
        ..Default::default()
    };
    fixture.catalog.clone().delete_package(request.clone()).await.unwrap();
    let error = fixture.catalog.clone().delete_package(request).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "PACKAGE_NOT_FOUND"));

    let weddings = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    let created = fixture.upsert_segment(weddings).await.unwrap().segment.unwrap();
    let request = DeleteSegmentRequest {
        tenant_id: tenant.id.clone(),
        segment_id: created.id,
        etag: Some(created.etag),
        ..Default::default()
    };
    fixture.catalog.clone().delete_segment(request).await.unwrap();

    let [etag, ..] = etags(&fixture, &tenant).await;
    let request = DeleteTenantRequest { tenant_id: tenant.id.clone(), etag: Some(etag.clone()) };
    let deleted = fixture.provisioning.clone().delete_tenant(request).await.unwrap().into_inner().tenant.unwrap();
    let error = rename_tenant(&fixture, &tenant.id, "Two", Some(&deleted.etag)).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let unknown = rename_tenant(&fixture, UNKNOWN_TENANT, "Two", Some(&etag)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_waits_for_a_new_owner_and_a_new_key_compares_and_returns_them() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let before = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap();
    let new_key = "pk_live_bella_0000000000000000";
    let mut holder = fixture.database.superuser.connect().await.unwrap();
    let change = format!(
        "BEGIN;
         SELECT pg_advisory_xact_lock(tenant_lock_key('{id}'));
         INSERT INTO owners (tenant_id, email, canonical_email) VALUES ('{id}', '{BELLA}', '{BELLA}');
         INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
         SELECT right('{new_key}', 16), '{id}', '{new_key}', secret_hash, now() FROM api_keys",
        id = tenant.id
    );
    sqlx::raw_sql(AssertSqlSafe(change)).execute(&mut holder).await.unwrap();
    let waiting = tokio::spawn({
        let (fixture, id, etag) = (fixture.provisioning.clone(), tenant.id.clone(), before.etag.clone());
        async move {
            let request = |name: &str, etag: Option<String>| UpdateTenantRequest {
                tenant_id: id.clone(),
                name: Some(name.to_owned()),
                etag,
                ..UpdateTenantRequest::default()
            };
            let (mut one, mut other) = (fixture.clone(), fixture);
            tokio::join!(one.update_tenant(request("Stale", Some(etag))), other.update_tenant(request("New", None)))
        }
    });
    let waiting_for_lock = "pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
    while fixture.count(waiting_for_lock).await < 2 {}
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    let (with_etag, without) = waiting.await.unwrap();
    assert_mismatch(&with_etag.unwrap_err(), "turnkey.v1.Tenant");
    let changed = without.unwrap().into_inner().tenant.unwrap();
    assert_eq!((changed.owner_email.as_deref(), changed.api_key_public.as_str()), (Some(BELLA), new_key));
    assert_eq!(changed, fixture.get(Identifier::TenantId(tenant.id)).await.unwrap());
}
