//! `CheckIntegrity` and `RepairTenant`: damage of every kind is found and repaired.

use std::collections::{BTreeMap, BTreeSet};

use strum::VariantArray as _;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use turnkey::{
    domain::integrity as domain,
    grpc::pb::{
        CheckIntegrityRequest, CreateFromSignupRequest, FindingKind, RepairTenantRequest, RepairTenantResponse, Verdict,
    },
};

use crate::support::{
    damage::{STRAY_ROWS, UNKNOWN_TENANT, damage_of_every_kind, summarize},
    fixture::{Fixture, NewTenant, ONE_TENANT},
    requests::{named, signup},
    responses::{reason, violations},
};

async fn repair(fixture: &Fixture, tenant_id: &str) -> Result<RepairTenantResponse, Status> {
    let request = RepairTenantRequest { tenant_id: tenant_id.to_owned() };
    fixture.provisioning.clone().repair_tenant(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn an_undamaged_database_has_no_findings() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("locked-out").await;
    fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap();
    let expired = fixture.tenant("expired").await;
    fixture
        .database
        .execute_without_triggers(&format!(
            "UPDATE api_keys SET expires_at = created_at WHERE tenant_id = '{}'",
            expired.id
        ))
        .await;
    fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap();
    let deleted = fixture.tenant("deleted").await;
    fixture.delete_tenant(&deleted.id).await.unwrap();
    // Changed defaults are not damage.
    fixture
        .database
        .execute_without_triggers(
            "UPDATE segments SET name = 'Old', hero_title = 'Old'; UPDATE packages SET slug = slug || '-old'",
        )
        .await;
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    assert_eq!(fixture.check_integrity(Some(&tenant.id)).await.unwrap(), []);
}

/// Both tenants are found, and a repair moves all packages.
#[tokio::test]
async fn of_one_tenant_at_most_20_damaged_packages_and_20_dangling_records_are_listed() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("many").await, fixture.tenant("other").await);
    let damage = format!(
        "INSERT INTO packages
         SELECT tenant_id, gen_random_uuid(), gen_random_uuid(), 'lost-' || n, 'P', '', 0, 'DATE', n, true, now(), now()
           FROM packages, generate_series(1, 100) AS n WHERE slug = 'basic-package' AND tenant_id = '{0}';
         UPDATE packages SET segment_id = '99999999-9999-7999-8999-999999999999' WHERE slug = 'basic-package' AND tenant_id = '{1}';
         INSERT INTO idempotency_records (caller, rpc, request_hash, fingerprint, tenant_id, key_id, created_at)
         SELECT 'anonymous', 'CreateFullyProvisioned', sha256(n::text::bytea), sha256('y'), '{0}', 'x', now()
           FROM generate_series(1, 100) AS n",
        tenant.id, other.id
    );
    fixture.database.execute_without_triggers(&damage).await;
    let findings = fixture.check_integrity(None).await.unwrap();
    let of_kind = |kind| findings.iter().filter(|finding| finding.kind() == kind).count();
    assert_eq!(of_kind(FindingKind::PackageWithoutSegment), 21);
    assert_eq!(of_kind(FindingKind::DanglingIdempotencyRecord), 20);
    repair(&fixture, &tenant.id).await.unwrap();
    assert_eq!(fixture.check_integrity(Some(&tenant.id)).await.unwrap(), []);
}

#[tokio::test]
async fn exactly_the_damaged_tenants_are_found() {
    let fixture = Fixture::start().await;
    let expected = damage_of_every_kind(&fixture).await;
    let kinds: BTreeSet<_> = expected.iter().map(|(_, kind)| kind.as_str_name().to_owned()).collect();
    let all = domain::FindingKind::VARIANTS.iter().map(|kind| format!("FINDING_KIND_{kind}"));
    assert_eq!(kinds, all.collect());
    let findings = fixture.check_integrity(None).await.unwrap();
    assert_eq!(summarize(&findings), expected);
    assert!(findings.iter().all(|finding| finding.detail.ends_with('.')));
    let without_tenant: Vec<_> = findings.iter().filter(|finding| finding.slug.is_empty()).collect();
    assert!(without_tenant.iter().all(|finding| finding.tenant_id == UNKNOWN_TENANT));
}

#[tokio::test]
async fn a_check_of_one_tenant_returns_only_its_findings() {
    let fixture = Fixture::start().await;
    damage_of_every_kind(&fixture).await;
    let all = fixture.check_integrity(None).await.unwrap();
    for of_tenant in all.chunk_by(|one, next| one.tenant_id == next.tenant_id) {
        assert_eq!(fixture.check_integrity(Some(&of_tenant[0].tenant_id)).await.unwrap(), of_tenant);
    }
    let error = fixture.check_integrity(Some(&uuid::Uuid::new_v4().to_string())).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    let error = fixture.check_integrity(Some("42")).await.unwrap_err();
    assert_eq!(violations(&error), [("tenant_id".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test]
async fn a_row_without_its_tenant_is_found_and_deleted_by_the_id_of_the_tenant() {
    let fixture = Fixture::start().await;
    let sound = fixture.tenant("sound").await;
    for (insert, kind) in STRAY_ROWS {
        fixture.database.execute_without_triggers(&insert.replace('~', UNKNOWN_TENANT)).await;
        let findings = fixture.check_integrity(Some(UNKNOWN_TENANT)).await.unwrap();
        assert_eq!(summarize(&findings), [(String::new(), kind)]);
        assert_eq!(fixture.check_integrity(None).await.unwrap(), findings);
        assert_eq!(fixture.check_integrity(Some(&sound.id)).await.unwrap(), []);
        assert_eq!(repair(&fixture, UNKNOWN_TENANT).await.unwrap(), RepairTenantResponse::default());
        let error = fixture.check_integrity(Some(UNKNOWN_TENANT)).await.unwrap_err();
        assert_eq!(reason(&error), "TENANT_NOT_FOUND");
        assert_eq!(reason(&repair(&fixture, UNKNOWN_TENANT).await.unwrap_err()), "TENANT_NOT_FOUND");
    }
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn the_rows_of_many_missing_tenants_among_others_are_found() {
    let fixture = Fixture::start().await;
    for slug in ["first", "second", "third"] {
        fixture.tenant(slug).await;
    }
    // More than a chunk before, between and after the tenants, whose ids are in the order of their creation.
    let strays = "
        INSERT INTO tenant_usage SELECT gen_random_uuid(), 3, 1 FROM generate_series(1, 1500);
        INSERT INTO tenant_usage SELECT (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid, 3, 1
                                   FROM generate_series(1, 1500) AS n;
        INSERT INTO tenant_usage
        SELECT (left(id::text, 24) || 'ffff' || lpad(to_hex(n), 8, '0'))::uuid, 3, 1
          FROM tenants, generate_series(1, 1500) AS n WHERE slug = 'second';
        INSERT INTO idempotency_records (caller, rpc, request_hash, fingerprint, tenant_id, key_id, created_at)
        SELECT 'x', 'RotateApiKey', sha256(tenant_id::text::bytea), sha256('y'), tenant_id, 'x', now()
          FROM tenant_usage WHERE tenant_id NOT IN (SELECT id FROM tenants)";
    fixture.database.execute_without_triggers(strays).await;
    let findings = fixture.check_integrity(None).await.unwrap();
    let ids: Vec<_> = findings.iter().map(|finding| &finding.tenant_id).collect();
    assert!(ids.is_sorted() && findings.iter().all(|finding| finding.slug.is_empty()));
    let of_kind = |kind| findings.iter().filter(|finding| finding.kind() == kind).count();
    assert_eq!(of_kind(FindingKind::UsageCountWithoutTenant), 4_500);
    assert_eq!(of_kind(FindingKind::DanglingIdempotencyRecord), 4_500);
}

#[tokio::test]
async fn a_repair_creates_the_missing_parts_once_from_the_defaults() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let sound = fixture.create(named("sound")).await.unwrap();
    fixture
        .database
        .execute_without_triggers(&format!(
            "DELETE FROM segments WHERE tenant_id = '{0}'; DELETE FROM packages WHERE tenant_id = '{0}';
             DELETE FROM api_keys WHERE tenant_id = '{0}'",
            tenant.id
        ))
        .await;
    assert_eq!(fixture.check_integrity(Some(&tenant.id)).await.unwrap().len(), 3);

    let repaired = repair(&fixture, &tenant.id).await.unwrap();
    let segment = repaired.created_segment.unwrap();
    let expected = sound.segment.unwrap();
    assert_eq!(
        (segment.slug, segment.name, segment.hero_title, segment.description, segment.sort_order),
        (expected.slug, expected.name, expected.hero_title, expected.description, expected.sort_order)
    );
    assert_eq!(repaired.created_packages.len(), 3);
    for (package, expected) in repaired.created_packages.iter().zip(&sound.packages) {
        assert_eq!((&package.slug, &package.description), (&expected.slug, &expected.description));
        assert_eq!((&package.segment_id, package.grouping_order), (&segment.id, expected.grouping_order));
    }
    let secret_key = repaired.secret_key.unwrap();
    assert_eq!(fixture.verify(&secret_key).await.verdict(), Verdict::Valid);
    let (tenant_now, key) = (repaired.tenant.unwrap(), repaired.created_api_key.unwrap());
    assert_eq!(tenant_now.api_key_public, key.public_key);
    assert_eq!(fixture.keys(&tenant.id).await, [key]);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);

    let repeated = repair(&fixture, &tenant.id).await.unwrap();
    assert_eq!(repeated, RepairTenantResponse { tenant: Some(tenant_now), ..RepairTenantResponse::default() });
    assert_eq!(fixture.row_counts().await, [2, 2, 6, 2]);
}

#[tokio::test]
async fn a_repair_creates_no_key_for_a_tenant_whose_keys_are_revoked() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap();
    let repaired = repair(&fixture, &tenant.id).await.unwrap();
    assert_eq!((repaired.created_api_key, repaired.secret_key), (None, None));
    assert_eq!(fixture.keys(&tenant.id).await.len(), 1);
}

#[tokio::test]
async fn ten_concurrent_repairs_create_the_missing_parts_once() {
    let fixture = Fixture::start().await;
    let NewTenant { id, .. } = fixture.tenant("bella-weddings").await;
    fixture.database.execute_without_triggers("DELETE FROM packages; DELETE FROM api_keys; DELETE FROM segments").await;
    let mut repairs = JoinSet::new();
    for _ in 0..10 {
        let (mut client, tenant_id) = (fixture.provisioning.clone(), id.clone());
        repairs
            .spawn(async move { client.repair_tenant(RepairTenantRequest { tenant_id }).await.unwrap().into_inner() });
    }
    let repaired = repairs.join_all().await;
    assert_eq!(repaired.iter().filter(|response| response.created_segment.is_some()).count(), 1);
    assert_eq!(repaired.iter().filter(|response| response.secret_key.is_some()).count(), 1);
    assert_eq!(repaired.iter().map(|response| response.created_packages.len()).sum::<usize>(), 3);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn a_deleted_tenant_can_be_repaired_and_an_unknown_one_is_not_found() {
    let fixture = Fixture::start().await;
    let error = repair(&fixture, UNKNOWN_TENANT).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.delete_tenant(&tenant.id).await.unwrap();
    fixture.database.execute_without_triggers("DELETE FROM packages").await;
    assert_eq!(repair(&fixture, &tenant.id).await.unwrap().created_packages.len(), 3);
}

#[tokio::test]
async fn a_stream_of_many_findings_is_complete_and_can_be_cancelled() {
    let fixture = Fixture::start().await;
    let many = "INSERT INTO tenants SELECT gen_random_uuid(), 'tenant-' || number, 'x', 10, '{}', true, now(), now()
                  FROM generate_series(1, 2500) AS number";
    fixture.database.execute_without_triggers(many).await;
    let findings = fixture.check_integrity(None).await.unwrap();
    assert_eq!(findings.len(), 7_500);
    let mut by_tenant: BTreeMap<&str, u32> = BTreeMap::new();
    for finding in &findings {
        *by_tenant.entry(&finding.slug).or_default() += 1;
    }
    assert!(by_tenant.len() == 2_500 && by_tenant.values().all(|&count| count == 3));

    let request = CheckIntegrityRequest { tenant_id: None };
    let mut stream = fixture.provisioning.clone().check_integrity(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    drop(stream);
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_signup_repeated_after_a_repair_is_replayed() {
    let fixture = Fixture::start().await;
    let request = CreateFromSignupRequest {
        request_id: Some(uuid::Uuid::new_v4().to_string()),
        ..signup("Bella", "bella@example.com")
    };
    let first = fixture.sign_up(request.clone()).await.unwrap();
    let tenant_id = first.tenant.unwrap().id;
    fixture.database.execute_without_triggers("DELETE FROM packages").await;
    repair(&fixture, &tenant_id).await.unwrap();
    let repeated = fixture.sign_up(request).await.unwrap();
    assert_eq!((repeated.replayed, repeated.secret_key, repeated.packages.len()), (true, first.secret_key, 0));
}
