//! Damage that only a superuser can do, and the findings that the service must report for it.

use turnkey::grpc::pb::{CreateFullyProvisionedRequest, Finding, FindingKind};
use uuid::Uuid;

use super::{
    fixture::Fixture,
    requests::{named, signup},
};

/// The id of no tenant.
pub const UNKNOWN_TENANT: &str = "99999999-9999-7999-8999-999999999999";

/// A row of the tenant `~` in each table, and the finding that it is if there is no such tenant.
pub const STRAY_ROWS: [(&str, FindingKind); 6] = [
    (
        "INSERT INTO segments VALUES ('~', gen_random_uuid(), 'general', 'General', 'Hello', '', 0, true, now(), now())",
        FindingKind::SegmentWithoutTenant,
    ),
    (
        "INSERT INTO packages VALUES ('~', gen_random_uuid(), gen_random_uuid(), 'gold', 'Gold', '', 0, 'DATE', 1, true,
                                      now(), now())",
        FindingKind::PackageWithoutTenant,
    ),
    (
        "INSERT INTO api_keys VALUES ('BBBBBBBBBBBBBBBB', '~', 'pk_live_x_BBBBBBBBBBBBBBBB', '$argon2id$', now())",
        FindingKind::ApiKeyWithoutTenant,
    ),
    (
        "INSERT INTO owners VALUES ('~', 'nobody@example.com', 'nobody@example.com', '$argon2id$')",
        FindingKind::OwnerWithoutTenant,
    ),
    ("INSERT INTO tenant_usage VALUES ('~', 3, 1)", FindingKind::UsageCountWithoutTenant),
    (
        "INSERT INTO idempotency_records (caller, rpc, request_hash, fingerprint, tenant_id, key_id, created_at)
         VALUES ('anonymous', 'CreateFullyProvisioned', sha256('x'), sha256('y'), '~', 'x', now())",
        FindingKind::DanglingIdempotencyRecord,
    ),
];

/// The slug and kind of each finding, sorted.
pub type Findings = Vec<(String, FindingKind)>;

/// Creates a tenant for each kind of damage and one without damage. Returns the expected findings.
pub async fn damage_of_every_kind(fixture: &Fixture) -> Findings {
    use FindingKind as Kind;

    let sound = fixture.tenant("sound").await;
    let mut expected = Findings::new();
    for (slug, sql, kind) in [
        ("no-general", "UPDATE segments SET slug = 'another' WHERE tenant_id = $", Kind::NoGeneralSegment),
        ("no-package", "DELETE FROM packages WHERE tenant_id = $", Kind::NoPackage),
        ("no-key", "DELETE FROM api_keys WHERE tenant_id = $", Kind::NoApiKey),
        (
            "no-segment",
            "UPDATE packages SET segment_id = '99999999-9999-7999-8999-999999999999' WHERE slug = 'basic-package' AND tenant_id = $",
            Kind::PackageWithoutSegment,
        ),
        (
            "foreign-segment",
            "UPDATE packages SET segment_id = ^
              WHERE slug = 'basic-package' AND tenant_id = $",
            Kind::PackageInForeignSegment,
        ),
        ("wrong-count", "DELETE FROM packages WHERE slug = 'basic-package' AND tenant_id = $", Kind::WrongUsageCount),
        (
            "foreign-key",
            "UPDATE idempotency_records SET key_id = (SELECT key_id FROM api_keys WHERE tenant_id = ~) WHERE tenant_id = $",
            Kind::DanglingIdempotencyRecord,
        ),
    ] {
        let tenant = create_with_record(fixture, slug).await;
        let sql = sql.replace('$', &format!("'{}'", tenant.id)).replace('~', &format!("'{}'", sound.id));
        let sql = sql.replace('^', &format!("'{}'", sound.general_id));
        fixture.database.execute_without_triggers(&sql).await;
        expected.push((slug.to_owned(), kind));
    }
    expected.push(("no-key".to_owned(), Kind::DanglingIdempotencyRecord));
    fixture.sign_up(signup("No Owner", "bella@example.com")).await.unwrap();
    fixture.database.execute_without_triggers("DELETE FROM owners").await;
    expected.push(("no-owner".to_owned(), Kind::SignupWithoutOwner));

    fixture.sign_up(signup("Wrong Email", "ömer@example.com")).await.unwrap();
    fixture.database.execute("UPDATE owners SET canonical_email = 'Ömer@example.com' WHERE email LIKE 'ömer%'").await;
    expected.push(("wrong-email".to_owned(), Kind::WrongCanonicalEmail));

    let tenant = create_with_record(fixture, "dangling-record").await;
    let key_id = tenant.api_key_public.rsplit('_').next().unwrap();
    let replace_key = format!(
        "INSERT INTO api_keys SELECT 'AAAAAAAAAAAAAAAA', tenant_id, 'pk_live_x_AAAAAAAAAAAAAAAA', secret_hash, created_at
           FROM api_keys WHERE tenant_id = '{}';
         DELETE FROM api_keys WHERE key_id = '{key_id}'",
        tenant.id
    );
    fixture.database.execute_without_triggers(&replace_key).await;
    expected.push(("dangling-record".to_owned(), Kind::DanglingIdempotencyRecord));

    for (insert, kind) in STRAY_ROWS {
        fixture.database.execute_without_triggers(&insert.replace('~', UNKNOWN_TENANT)).await;
        expected.push((String::new(), kind));
    }
    expected.sort();
    expected
}

/// Creates a tenant with an idempotency record, which refers to what is damaged next.
async fn create_with_record(fixture: &Fixture, slug: &str) -> turnkey::grpc::pb::Tenant {
    let request_id = Some(Uuid::new_v4().to_string());
    let created = fixture.create(CreateFullyProvisionedRequest { request_id, ..named(slug) }).await.unwrap();
    created.tenant.unwrap()
}

pub fn summarize(findings: &[Finding]) -> Findings {
    let mut summary: Findings = findings.iter().map(|finding| (finding.slug.clone(), finding.kind())).collect();
    summary.sort();
    summary
}
