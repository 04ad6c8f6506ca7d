//! `CheckIntegrity` and `RepairTenant`: damage of every kind, found, mended, and gone.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    CheckIntegrityRequest, CreateFromSignupRequest, CreateFullyProvisionedRequest, Finding, FindingKind,
    RepairTenantRequest, RepairTenantResponse, Verdict,
};

use crate::{
    cluster::execute,
    create_from_signup::signup,
    fixture::{Fixture, NewTenant, ONE_TENANT, named, reason, violations},
};

impl Fixture {
    pub async fn check(&self, tenant_id: Option<&str>) -> Result<Vec<Finding>, Status> {
        let request = CheckIntegrityRequest { tenant_id: tenant_id.map(str::to_owned) };
        let mut stream = self.provisioning.clone().check_integrity(request).await?.into_inner();
        let mut findings = Vec::new();
        while let Some(answer) = stream.message().await? {
            findings.push(answer.finding.unwrap());
        }
        Ok(findings)
    }

    async fn repair(&self, tenant_id: &str) -> Result<RepairTenantResponse, Status> {
        let request = RepairTenantRequest { tenant_id: tenant_id.to_owned() };
        self.provisioning.clone().repair_tenant(request).await.map(tonic::Response::into_inner)
    }

    /// What dumps restored with triggers off and superuser in psql can do.
    pub async fn damage(&self, sql: &str) {
        execute(&self.database.superuser, format!("SET session_replication_role = replica; {sql}")).await;
    }
}

const NOBODY: &str = "99999999-9999-7999-8999-999999999999";

/// Slug and kind of each finding.
pub type Expected = Vec<(String, FindingKind)>;

/// Damage of every kind, each on a tenant of its own beside a sound one, and what is to be found.
pub async fn every_kind_of_damage(fixture: &Fixture) -> Expected {
    use FindingKind as Kind;

    let sound = fixture.tenant("sound").await;
    let mut expected = Expected::new();
    for (slug, sql, kind) in [
        ("no-general", "UPDATE segments SET slug = 'another' WHERE tenant_id = $", Kind::NoGeneralSegment),
        ("no-package", "DELETE FROM packages WHERE tenant_id = $", Kind::NoPackage),
        ("no-key", "DELETE FROM api_keys WHERE tenant_id = $", Kind::NoApiKey),
        (
            "no-segment",
            "UPDATE packages SET segment_id = gen_random_uuid() WHERE slug = 'basic-package' AND tenant_id = $",
            Kind::PackageWithoutSegment,
        ),
        (
            "foreign-segment",
            "UPDATE packages SET segment_id = (SELECT id FROM segments WHERE tenant_id = ~)
              WHERE slug = 'basic-package' AND tenant_id = $",
            Kind::PackageInForeignSegment,
        ),
    ] {
        // With a request id, whose claim points at what is damaged.
        let request_id = Some(uuid::Uuid::new_v4().to_string());
        let made = fixture.create(CreateFullyProvisionedRequest { request_id, ..named(slug) }).await.unwrap();
        let tenant = made.tenant.unwrap();
        let sql = sql.replace('$', &format!("'{}'", tenant.id)).replace('~', &format!("'{}'", sound.id));
        fixture.damage(&sql).await;
        expected.push((slug.to_owned(), kind));
    }
    fixture.sign_up(signup("No Owner", "bella@example.com")).await.unwrap();
    fixture.damage("DELETE FROM owners").await;
    expected.push(("no-owner".to_owned(), Kind::SignupWithoutOwner));

    let claimed =
        CreateFullyProvisionedRequest { request_id: Some(uuid::Uuid::new_v4().to_string()), ..named("dangling-claim") };
    let claimed = fixture.create(claimed).await.unwrap().tenant.unwrap();
    let other = "INSERT INTO api_keys SELECT 'AAAAAAAAAAAAAAAA', tenant_id, 'pk_live_x_AAAAAAAAAAAAAAAA', secret_hash,
                                            created_at FROM api_keys WHERE tenant_id = ";
    let key = claimed.api_key_public.rsplit('_').next().unwrap().to_owned();
    fixture.damage(&format!("{other} '{}'; DELETE FROM api_keys WHERE key_id = '{key}'", claimed.id)).await;
    expected.push(("dangling-claim".to_owned(), Kind::DanglingIdempotencyRecord));

    fixture
        .damage(&format!(
            "INSERT INTO owners VALUES ('{NOBODY}', 'nobody@example.com', '$argon2id$');
             INSERT INTO idempotency_records (caller, rpc, request_hash, fingerprint, tenant_id, key_id, created_at)
             VALUES ('anonymous', 'CreateFullyProvisioned', sha256('x'), sha256('y'), '{NOBODY}', 'x', now())"
        ))
        .await;
    expected.push((String::new(), Kind::OwnerWithoutTenant));
    expected.push((String::new(), Kind::DanglingIdempotencyRecord));
    expected.sort();
    expected
}

pub fn told(findings: &[Finding]) -> Expected {
    let mut told: Expected = findings.iter().map(|finding| (finding.slug.clone(), finding.kind())).collect();
    told.sort();
    told
}

#[tokio::test]
async fn a_sound_database_has_no_findings_whatever_its_tenants_did() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("locked-out").await;
    fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap();
    let expired = fixture.tenant("expired").await;
    fixture.damage(&format!("UPDATE api_keys SET expires_at = created_at WHERE tenant_id = '{}'", expired.id)).await;
    fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap();
    let deleted = fixture.tenant("deleted").await;
    fixture.delete_tenant(&deleted.id).await.unwrap();
    // Defaults that were changed since are no finding.
    fixture
        .damage("UPDATE segments SET name = 'Old', hero_title = 'Old'; UPDATE packages SET slug = slug || '-old'")
        .await;
    assert_eq!(fixture.check(None).await.unwrap(), []);
    assert_eq!(fixture.check(Some(&tenant.id)).await.unwrap(), []);
}

#[tokio::test]
async fn every_kind_of_damage_is_found_and_nothing_else() {
    let fixture = Fixture::start().await;
    let expected = every_kind_of_damage(&fixture).await;
    let findings = fixture.check(None).await.unwrap();
    assert_eq!(told(&findings), expected);
    assert!(findings.iter().all(|finding| finding.detail.ends_with('.')));
    let stray: Vec<_> = findings.iter().filter(|finding| finding.slug.is_empty()).collect();
    assert!(stray.iter().all(|finding| finding.tenant_id == NOBODY));
}

#[tokio::test]
async fn one_tenant_can_be_checked_alone() {
    let fixture = Fixture::start().await;
    every_kind_of_damage(&fixture).await;
    for finding in fixture.check(None).await.unwrap() {
        if !finding.slug.is_empty() {
            assert_eq!(fixture.check(Some(&finding.tenant_id)).await.unwrap(), [finding]);
        }
    }
    let refused = fixture.check(Some(&uuid::Uuid::new_v4().to_string())).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    let refused = fixture.check(Some("42")).await.unwrap_err();
    assert_eq!(violations(&refused), [("tenant_id".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test]
async fn a_repair_makes_what_is_missing_once_and_from_the_same_defaults() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let sound = fixture.create(named("sound")).await.unwrap();
    fixture
        .damage(&format!(
            "DELETE FROM segments WHERE tenant_id = '{0}'; DELETE FROM packages WHERE tenant_id = '{0}';
             DELETE FROM api_keys WHERE tenant_id = '{0}'",
            tenant.id
        ))
        .await;
    assert_eq!(fixture.check(Some(&tenant.id)).await.unwrap().len(), 3);

    let repaired = fixture.repair(&tenant.id).await.unwrap();
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
    assert_eq!(fixture.check(None).await.unwrap(), []);

    let again = fixture.repair(&tenant.id).await.unwrap();
    assert_eq!(again, RepairTenantResponse { tenant: Some(tenant_now), ..RepairTenantResponse::default() });
    assert_eq!(fixture.row_counts().await, [2, 2, 6, 2]);
}

#[tokio::test]
async fn a_tenant_locked_out_on_purpose_gets_no_key() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap();
    let repaired = fixture.repair(&tenant.id).await.unwrap();
    assert_eq!((repaired.created_api_key, repaired.secret_key), (None, None));
    assert_eq!(fixture.keys(&tenant.id).await.len(), 1);
}

#[tokio::test]
async fn ten_repairs_at_once_do_it_once() {
    let fixture = Fixture::start().await;
    let NewTenant { id, .. } = fixture.tenant("bella-weddings").await;
    fixture.damage("DELETE FROM packages; DELETE FROM api_keys; DELETE FROM segments").await;
    let mut repairs = JoinSet::new();
    for _ in 0..10 {
        let (mut client, tenant_id) = (fixture.provisioning.clone(), id.clone());
        repairs
            .spawn(async move { client.repair_tenant(RepairTenantRequest { tenant_id }).await.unwrap().into_inner() });
    }
    let repaired = repairs.join_all().await;
    assert_eq!(repaired.iter().filter(|answer| answer.created_segment.is_some()).count(), 1);
    assert_eq!(repaired.iter().filter(|answer| answer.secret_key.is_some()).count(), 1);
    assert_eq!(repaired.iter().map(|answer| answer.created_packages.len()).sum::<usize>(), 3);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn an_unknown_tenant_cannot_be_repaired_and_a_deleted_one_can() {
    let fixture = Fixture::start().await;
    let refused = fixture.repair(NOBODY).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.delete_tenant(&tenant.id).await.unwrap();
    fixture.damage("DELETE FROM packages").await;
    assert_eq!(fixture.repair(&tenant.id).await.unwrap().created_packages.len(), 3);
}

#[tokio::test]
async fn more_findings_than_a_step_has_come_in_one_stream_that_can_be_left() {
    let fixture = Fixture::start().await;
    let many = "INSERT INTO tenants SELECT gen_random_uuid(), 'tenant-' || number, 'x', 10, '{}', true, now(), now()
                  FROM generate_series(1, 2500) AS number";
    fixture.damage(many).await;
    let findings = fixture.check(None).await.unwrap();
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
async fn a_signup_that_is_repeated_after_a_repair_is_none_the_worse() {
    let fixture = Fixture::start().await;
    let request = CreateFromSignupRequest {
        request_id: Some(uuid::Uuid::new_v4().to_string()),
        ..signup("Bella", "bella@example.com")
    };
    let first = fixture.sign_up(request.clone()).await.unwrap();
    let tenant_id = first.tenant.unwrap().id;
    fixture.damage("DELETE FROM packages").await;
    fixture.repair(&tenant_id).await.unwrap();
    let again = fixture.sign_up(request).await.unwrap();
    assert_eq!((again.replayed, again.secret_key, again.packages.len()), (true, first.secret_key, 0));
}
