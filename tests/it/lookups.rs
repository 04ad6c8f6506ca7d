//! Reads by other identifiers than the id, and what the catalog's other reads and writes take besides it: `active`,
//! `allow_missing` and `validate_only`.

use std::fmt::Debug;

use time::Duration;
use tonic::{Code, Status};
use turnkey::{
    config::ServerSettings,
    domain::Quotas,
    grpc::pb::{
        CreateFullyProvisionedRequest, DeletePackageRequest, DeleteSegmentRequest, GetPackageRequest,
        GetSegmentRequest, ListSegmentsRequest, Package, Segment, UpsertAction, UpsertPackageRequest,
        UpsertSegmentRequest, get_tenant_request::Identifier,
    },
};

use crate::support::{
    fixture::{Fixture, NewTenant, settings},
    owners::BELLA,
    requests::{gold, named},
    responses::{reason, violations},
};

fn assert_not_found<T: Debug>(result: Result<T, Status>, expected: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, expected));
}

fn assert_violation<T: Debug>(result: Result<T, Status>, field: &str, expected: &str) {
    assert_eq!(violations(&result.unwrap_err()), [(field.to_owned(), expected.to_owned())]);
}

fn segment(tenant: &NewTenant, slug: &str) -> UpsertSegmentRequest {
    UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        slug: Some(slug.to_owned()),
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    }
}

#[tokio::test]
async fn a_tenant_is_found_by_its_external_id_its_public_keys_and_the_address_of_its_owner() {
    let fixture = Fixture::start().await;
    let request = CreateFullyProvisionedRequest { external_id: Some("crm 7".to_owned()), ..named("bella") };
    let created = fixture.create(request).await.unwrap().tenant.unwrap();
    let old_key = created.api_key_public.clone();
    let tenant = NewTenant {
        id: created.id.clone(),
        public_key: old_key.clone(),
        secret_key: String::new(),
        general_id: String::new(),
        package_ids: Vec::new(),
    };
    fixture.set_owner(&created.id, BELLA, None).await.unwrap();
    fixture.rotate(&tenant, Some(Duration::ZERO)).await;
    fixture.revoke(&created.id, &old_key).await.unwrap();
    fixture.tenant("other").await;
    for is_deleted in [false, true] {
        if is_deleted {
            fixture.delete_tenant(&created.id).await.unwrap();
        }
        let expected = fixture.get(Identifier::TenantId(created.id.clone())).await.unwrap();
        for identifier in [
            Identifier::ExternalId("crm 7".to_owned()),
            Identifier::PublicKey(expected.api_key_public.clone()),
            Identifier::PublicKey(old_key.clone()),
            Identifier::OwnerEmail(BELLA.to_owned()),
            Identifier::OwnerEmail(" BELLA@Example.com ".to_owned()),
        ] {
            assert_eq!(fixture.get(identifier).await.unwrap(), expected);
        }
    }
    // The same key id behind another beginning is not a key of this tenant.
    let foreign = old_key.replace("pk_live_bella", "pk_live_other");
    for identifier in [
        Identifier::ExternalId("crm 8".to_owned()),
        Identifier::PublicKey(foreign),
        Identifier::OwnerEmail("omer@example.com".to_owned()),
    ] {
        assert_not_found(fixture.get(identifier).await, "TENANT_NOT_FOUND");
    }
    for (identifier, field, reason) in [
        (Identifier::ExternalId("a\0".to_owned()), "external_id", "BAD_FORMAT"),
        (Identifier::PublicKey("pk_live".to_owned()), "public_key", "BAD_FORMAT"),
        (Identifier::OwnerEmail("bella".to_owned()), "owner_email", "BAD_FORMAT"),
    ] {
        assert_violation(fixture.get(identifier).await, field, reason);
    }
}

#[tokio::test]
async fn a_package_and_a_segment_are_found_by_exactly_one_of_id_slug_and_external_id() {
    // Every character that SQL or its escapes treat specially.
    const EXTERNAL_ID: &str = "7' OR ''='; --\\x00 $1 é";
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let external_id = || Some(EXTERNAL_ID.to_owned());
    let request = UpsertPackageRequest { external_id: external_id(), ..gold(&tenant) };
    let package = fixture.upsert_package(request).await.unwrap().package.unwrap();
    let request = UpsertSegmentRequest { external_id: external_id(), ..segment(&tenant, "weddings") };
    let weddings = fixture.upsert_segment(request).await.unwrap().segment.unwrap();

    let get_package = async |tenant: &NewTenant, id: &str, slug: Option<&str>, external_id: Option<String>| {
        let (tenant_id, package_id) = (tenant.id.clone(), id.to_owned());
        let request = GetPackageRequest { tenant_id, package_id, slug: slug.map(str::to_owned), external_id };
        Ok::<Package, Status>(fixture.catalog.clone().get_package(request).await?.into_inner().package.unwrap())
    };
    let get_segment = async |tenant: &NewTenant, id: &str, slug: Option<&str>, external_id: Option<String>| {
        let (tenant_id, segment_id) = (tenant.id.clone(), id.to_owned());
        let request = GetSegmentRequest { tenant_id, segment_id, slug: slug.map(str::to_owned), external_id };
        Ok::<Segment, Status>(fixture.catalog.clone().get_segment(request).await?.into_inner().segment.unwrap())
    };
    assert_eq!(get_package(&tenant, &package.id, Some(""), Some(String::new())).await.unwrap(), package);
    assert_eq!(get_package(&tenant, "", Some("gold"), None).await.unwrap(), package);
    assert_eq!(get_package(&tenant, "", None, external_id()).await.unwrap(), package);
    assert_eq!(get_segment(&tenant, &weddings.id, None, None).await.unwrap(), weddings);
    assert_eq!(get_segment(&tenant, "", Some("weddings"), None).await.unwrap(), weddings);
    assert_eq!(get_segment(&tenant, "", None, external_id()).await.unwrap(), weddings);

    assert_not_found(get_package(&other, "", Some("gold"), None).await, "PACKAGE_NOT_FOUND");
    assert_not_found(get_package(&other, "", None, external_id()).await, "PACKAGE_NOT_FOUND");
    assert_not_found(get_segment(&other, "", Some("weddings"), None).await, "SEGMENT_NOT_FOUND");
    assert_not_found(get_segment(&other, "", None, external_id()).await, "SEGMENT_NOT_FOUND");
    assert_violation(get_package(&tenant, "", None, None).await, "package_id", "MISSING_FIELD");
    assert_violation(get_segment(&tenant, "", None, None).await, "segment_id", "MISSING_FIELD");
    assert_violation(get_package(&tenant, &package.id, Some("gold"), None).await, "package_id", "BAD_FORMAT");
    assert_violation(get_segment(&tenant, "", Some("weddings"), external_id()).await, "segment_id", "BAD_FORMAT");
    assert_violation(get_package(&tenant, "", Some("Q"), None).await, "slug", "BAD_FORMAT");
    assert_violation(get_segment(&tenant, "", None, Some("\0".to_owned())).await, "external_id", "BAD_FORMAT");
}

#[tokio::test]
async fn segments_are_listed_by_whether_they_are_active_and_page_tokens_are_bound_to_it() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    for (slug, active) in [("one", false), ("two", true), ("three", false)] {
        let request = UpsertSegmentRequest { active: Some(active), ..segment(&tenant, slug) };
        fixture.upsert_segment(request).await.unwrap();
    }
    let list = async |active: Option<bool>, page_size: i32, page_token: &str| {
        let (tenant_id, page_token) = (tenant.id.clone(), page_token.to_owned());
        let request = ListSegmentsRequest { tenant_id, page_size, page_token, active };
        let page = fixture.catalog.clone().list_segments(request).await?.into_inner();
        let slugs: Vec<String> = page.segments.into_iter().map(|segment| segment.slug).collect();
        Ok::<_, Status>((slugs.join(" "), page.next_page_token))
    };
    assert_eq!(list(None, 0, "").await.unwrap(), ("general one two three".to_owned(), String::new()));
    assert_eq!(list(Some(true), 0, "").await.unwrap(), ("general two".to_owned(), String::new()));
    let (slugs, token) = list(Some(false), 1, "").await.unwrap();
    assert_eq!(slugs, "one");
    assert_eq!(list(Some(false), 1, &token).await.unwrap(), ("three".to_owned(), String::new()));
    for active in [None, Some(true)] {
        assert_violation(list(active, 1, &token).await, "page_token", "BAD_FORMAT");
    }
}

#[tokio::test]
async fn deleting_what_does_not_exist_succeeds_on_request() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let package = |tenant_id: &str, package_id: &str| DeletePackageRequest {
        tenant_id: tenant_id.to_owned(),
        package_id: package_id.to_owned(),
        allow_missing: true,
        ..DeletePackageRequest::default()
    };
    let segment = |tenant_id: &str, segment_id: &str| DeleteSegmentRequest {
        tenant_id: tenant_id.to_owned(),
        segment_id: segment_id.to_owned(),
        allow_missing: true,
        ..DeleteSegmentRequest::default()
    };
    let mut catalog = fixture.catalog.clone();
    for id in [&tenant.package_ids[0], &tenant.package_ids[0], &other.package_ids[0]] {
        catalog.delete_package(package(&tenant.id, id)).await.unwrap();
    }
    catalog.delete_segment(segment(&tenant.id, &other.general_id)).await.unwrap();
    assert_eq!(fixture.row_counts().await, [2, 2, 5, 2]);
    let general = catalog.delete_segment(segment(&tenant.id, &tenant.general_id)).await.unwrap_err();
    assert_eq!(reason(&general), "DEFAULT_SEGMENT");
    let missing = &tenant.package_ids[0];
    assert_not_found(catalog.delete_package(package(missing, missing)).await, "TENANT_NOT_FOUND");
    assert_not_found(catalog.delete_segment(segment(missing, missing)).await, "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn a_segment_upsert_with_validate_only_has_the_response_of_a_real_one_and_writes_nothing() {
    let quotas = Quotas { segments: 2.try_into().unwrap(), ..Quotas::DEFAULT };
    let fixture = Fixture::with_settings(ServerSettings { quotas, ..settings() }).await;
    let tenant = fixture.tenant("bella").await;
    let validate = |request: UpsertSegmentRequest| UpsertSegmentRequest { validate_only: Some(true), ..request };
    let new = UpsertSegmentRequest { slug: None, ..segment(&tenant, "") };
    let update = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        segment_id: Some(tenant.general_id.clone()),
        hero_title: Some("Gold".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    for request in [new, update] {
        let validated = fixture.upsert_segment(validate(request.clone())).await.unwrap();
        let again = fixture.upsert_segment(validate(request.clone())).await.unwrap();
        assert_eq!(validated.action(), again.action(), "the first has written nothing");
        let mut real = fixture.upsert_segment(request).await.unwrap();
        let (validated_segment, segment) = (validated.segment.clone().unwrap(), real.segment.as_mut().unwrap());
        segment.etag.clear();
        if validated.action() == UpsertAction::Created {
            segment.id.clear();
            (segment.created_at, segment.updated_at) = (None, None);
        } else {
            segment.updated_at = validated_segment.updated_at;
        }
        assert_eq!(validated, real);
    }
    let beyond_quota = fixture.upsert_segment(validate(segment(&tenant, "third"))).await.unwrap_err();
    assert_eq!(reason(&beyond_quota), "QUOTA_EXCEEDED");
    assert_eq!(fixture.count("segments").await, 2);
    assert_eq!(fixture.check_integrity(Some(&tenant.id)).await.unwrap(), [], "the counters, too, are right");
}
