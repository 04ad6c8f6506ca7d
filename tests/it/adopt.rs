//! `turnkey adopt`: the tenants of the old database come over as they were, each whole or not at all.

use futures_util::{StreamExt as _, stream};
use nix::sys::signal::Signal;
use turnkey::grpc::pb::{Verdict, VerifyApiKeyRequest};

use crate::support::{
    adoption::{Adoption, OldDatabase, digest, old_id, texts},
    fixture::Fixture,
    process::Process,
};

/// Whole tenants, and those whose damage is repaired without a change to these rows.
const UNCHANGED: &str = "right(id, 2)::int NOT IN (1, 2, 3, 4, 8, 9, 10, 15)";

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_tenant_comes_over_as_it_was() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(100).await);
    let adoption = Adoption::new(&fixture, &old);
    let (code, messages) = adoption.outcome(&[]);
    assert_eq!(code, 0, "{messages}");
    assert!(messages.contains("85 tenants: 85 adopted (9 with repairs), 0 already adopted, 0 refused"), "{messages}");

    let new = &fixture.database.superuser;
    let sql = format!(
        r#"SELECT jsonb_build_array(id, slug, name, "commissionPercent", branding, "isActive",
                                    CASE WHEN is_test_tenant THEN '{{"test": "true"}}'::jsonb ELSE '{{}}' END,
                                    "createdAt" AT TIME ZONE 'UTC', "updatedAt" AT TIME ZONE 'UTC', email,
                                    CASE WHEN email IS NOT NULL THEN "passwordHash" END,
                                    CASE WHEN "emailVerified" AND email IS NOT NULL
                                         THEN "updatedAt" AT TIME ZONE 'UTC' END,
                                    "apiKeyPublic", 'sha256:' || "apiKeySecret")::text
             FROM "Tenant" WHERE {UNCHANGED} ORDER BY id"#
    );
    let expected = old.texts(&sql);
    let adopted = texts(
        new,
        "SELECT jsonb_build_array(external_id, slug, tenants.name, commission_percent, branding, is_active, labels,
                                  tenants.created_at, updated_at, email, password_hash, email_verified_at, public_key,
                                  secret_hash)::text
           FROM tenants JOIN api_keys ON api_keys.tenant_id = tenants.id
           LEFT JOIN owners ON owners.tenant_id = tenants.id
          WHERE right(external_id, 2)::int NOT IN (1, 2, 3, 4, 8, 9, 10, 15)
          ORDER BY external_id",
    );
    assert_eq!(adopted.await, expected.await);

    let sql = format!(
        r#"SELECT jsonb_build_array("tenantId", id, slug, name, "heroTitle", coalesce(description, ''), "sortOrder", active,
                                    "createdAt" AT TIME ZONE 'UTC', "updatedAt" AT TIME ZONE 'UTC')::text
             FROM "Segment" WHERE {} ORDER BY id"#,
        UNCHANGED.replace("id", "\"tenantId\"")
    );
    let expected = old.texts(&sql);
    let adopted = texts(
        new,
        "SELECT jsonb_build_array(tenants.external_id, segments.external_id, segments.slug, segments.name, hero_title,
                                  description, sort_order, active, segments.created_at, segments.updated_at)::text
           FROM segments JOIN tenants ON tenants.id = tenant_id
          WHERE right(tenants.external_id, 2)::int NOT IN (1, 2, 3, 4, 8, 9, 10, 15)
          ORDER BY segments.external_id",
    );
    assert_eq!(adopted.await, expected.await);

    let sql = format!(
        r#"SELECT jsonb_build_array("tenantId", id, "segmentId", slug, name, coalesce(description, ''), "basePrice",
                                    "bookingType", "groupingOrder", active, "createdAt" AT TIME ZONE 'UTC',
                                    "updatedAt" AT TIME ZONE 'UTC')::text
             FROM "Package" WHERE {} ORDER BY id"#,
        UNCHANGED.replace("id", "\"tenantId\"")
    );
    let expected = old.texts(&sql);
    let adopted = texts(
        new,
        "SELECT jsonb_build_array(tenants.external_id, packages.external_id, segments.external_id, packages.slug,
                                  packages.name, packages.description, base_price, booking_type, grouping_order,
                                  packages.active, packages.created_at, packages.updated_at)::text
           FROM packages JOIN tenants ON tenants.id = packages.tenant_id
           JOIN segments ON segments.tenant_id = packages.tenant_id AND segments.id = segment_id
          WHERE right(tenants.external_id, 2)::int NOT IN (1, 2, 3, 4, 8, 9, 10, 15)
          ORDER BY packages.external_id",
    );
    assert_eq!(adopted.await, expected.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_tenant_has_no_finding_and_one_event() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(100).await);
    assert_eq!(Adoption::new(&fixture, &old).outcome(&[]).0, 0);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    let events = texts(
        &fixture.database.superuser,
        "WITH counted AS MATERIALIZED (SELECT tenant_id, count(*) AS packages FROM packages GROUP BY tenant_id)
         SELECT concat_ws(' ', type, caller, data ->> 'external_id' = external_id, data ->> 'slug' = slug,
                          (data ->> 'package_count')::int = packages)
           FROM tenants
           JOIN counted ON counted.tenant_id = tenants.id
           LEFT JOIN events ON events.tenant_id = tenants.id",
    );
    assert_eq!(events.await, vec!["tenant.adopted cli t t t"; 85]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_adopted_tenant_has_a_line_in_the_log() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(10).await);
    let adoption = Adoption::new(&fixture, &old);
    let log = || String::from_utf8(adoption.command(&[]).env("RUST_LOG", "info").output().unwrap().stderr).unwrap();
    let lines: Vec<String> = log().lines().filter(|line| line.contains("Adopted tenant")).map(str::to_owned).collect();
    assert_eq!(lines.len(), 10);
    assert!(lines.iter().all(|line| line.contains(r#""turnkey.caller":"cli""#)), "{lines:?}");
    assert!(!log().contains("Adopted tenant"), "a repeat changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_adoption_changes_nothing() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(100).await);
    let adoption = Adoption::new(&fixture, &old);
    assert_eq!(adoption.outcome(&[]).0, 0);
    let (first, before) = (adoption.report(), digest(&fixture.database.superuser).await);
    let (code, messages) = adoption.outcome(&[]);
    assert_eq!(code, 0, "{messages}");
    assert_eq!(digest(&fixture.database.superuser).await, before);
    for (id, line) in adoption.report() {
        let first = &first[&id];
        assert_eq!((line.status.as_str(), first.status.as_str()), ("already_adopted", "adopted"));
        assert_eq!(
            (line.tenant_id, line.slug, line.repairs),
            (first.tenant_id.clone(), first.slug.clone(), first.repairs.clone())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_only_the_report() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_tenants(100).await);
    let adoption = Adoption::new(&fixture, &old);
    let before = digest(&fixture.database.superuser).await;
    for arguments in [&["--dry-run"][..], &["--dry-run", "--skip-invalid"]] {
        let (code, messages) = adoption.outcome(arguments);
        assert_eq!(code, 1, "{messages}");
        assert_eq!((adoption.count("would_adopt"), adoption.count("refused")), (85, 15));
        assert!(adoption.report().values().all(|line| line.tenant_id.is_empty()));
    }
    assert_eq!(digest(&fixture.database.superuser).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn if_a_tenant_is_refused_no_tenant_is_written_unless_it_is_to_be_skipped() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_tenants(100).await);
    let adoption = Adoption::new(&fixture, &old);
    let (code, messages) = adoption.outcome(&[]);
    assert_eq!(code, 1, "{messages}");
    assert!(messages.contains("Nothing was written to the database"), "{messages}");
    assert_eq!(fixture.row_counts().await, [0; 4]);
    assert_eq!((adoption.count("would_adopt"), adoption.count("refused")), (85, 15));

    let (code, messages) = adoption.outcome(&["--skip-invalid"]);
    assert_eq!(code, 1, "{messages}");
    assert_eq!((adoption.count("adopted"), adoption.count("refused")), (85, 15));
    assert_eq!(fixture.count("tenants").await, 85);
}

#[tokio::test(flavor = "multi_thread")]
async fn corrected_tenants_come_over_in_the_next_run() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_tenants(100).await);
    let adoption = Adoption::new(&fixture, &old);
    assert_eq!(adoption.outcome(&["--skip-invalid"]).0, 1);
    old.execute(r#"DELETE FROM "Tenant" WHERE right(id, 2)::int BETWEEN 54 AND 62"#).await;
    old.execute(r#"UPDATE "Tenant" SET name = 'Bella' WHERE name = ''"#).await;
    old.execute(r#"UPDATE "Tenant" SET email = 'bella@example.com' WHERE email LIKE '% at %'"#).await;
    adoption.write_renames(&[("tenant--50", "tenant-50"), ("admin", "admin-studio"), ("63-tenant", "tenant-63")]);
    assert_eq!(adoption.outcome(&["--renames", "renames.csv"]).0, 1, "one is left");
    assert_eq!(adoption.count("adopted"), 0, "and so none is written");
    adoption.write_renames(&[
        ("tenant--50", "tenant-50"),
        ("admin", "admin-studio"),
        ("63-tenant", "tenant-63"),
        ("tenant-64-", "tenant-64"),
        ("tenant-65-", "tenant-65"),
    ]);
    let (code, messages) = adoption.outcome(&["--renames", "renames.csv"]);
    assert_eq!(code, 0, "{messages}");
    assert!(messages.contains("--renames: no tenant has the slug tenant-65-"), "{messages}");
    assert_eq!((adoption.count("adopted"), adoption.count("already_adopted")), (6, 85));
    assert_eq!(adoption.line(51).slug, "admin-studio");
    // Without the file, they are still known by their old ids.
    assert_eq!(adoption.outcome(&[]).0, 0);
    assert_eq!(adoption.line(51).slug, "admin-studio");
}

/// Kills the command with each of these lines, and completes the adoption.
async fn adopt_under_kills(adoption: &Adoption<'_>, valid_tenants: usize, moments: &[String]) {
    let fixture = adoption.fixture;
    for moment in moments {
        let mut process = Process::start(&mut adoption.command(&[]));
        process.wait_for(moment);
        process.signal(Signal::SIGKILL);
        process.wait();
        assert_eq!(fixture.check_integrity(None).await.unwrap(), [], "a killed command leaves nothing to repair");
    }
    let (code, messages) = adoption.outcome(&[]);
    assert_eq!(code, 0, "{messages}");
    assert_eq!(adoption.count("adopted") + adoption.count("already_adopted"), valid_tenants);
    let rows = i64::try_from(valid_tenants).unwrap();
    assert_eq!((fixture.count("tenants").await, fixture.count("events").await), (rows, rows));
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

/// Returns the messages of a run with this many tenants by which it is killed: while it checks, and while it writes.
fn moments(tenants: usize) -> Vec<String> {
    let line = |(verb, fiftieths): (&str, usize)| format!("{verb} {} of", fiftieths * (tenants / 50));
    [("checked", 2), ("checked", 40), ("processed", 4), ("processed", 20), ("processed", 40)].map(line).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_that_is_killed_at_any_moment_is_completed_by_the_next_run() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(3_000).await);
    adopt_under_kills(&Adoption::new(&fixture, &old), 2_550, &moments(2_550)).await;
}

/// Takes minutes: `cargo test --test it -- --ignored a_hundred_thousand_tenants`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it takes minutes"]
async fn a_hundred_thousand_tenants_come_over_under_kills_with_all_their_keys() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(100_000).await);
    let (before, adoption) = (old.digest().await, Adoption::new(&fixture, &old));
    adopt_under_kills(&adoption, 85_000, &moments(85_000)).await;
    assert_eq!(old.digest().await, before, "the old database is only read");
    let adopted = digest(&fixture.database.superuser).await;
    assert_eq!(adoption.outcome(&[]).0, 0);
    assert_eq!(adoption.count("already_adopted"), 85_000);
    assert_eq!(digest(&fixture.database.superuser).await, adopted, "a repeat changes nothing");
    // The server notes their use.
    let secrets = r#"SELECT 'sk_live_' || slug || '_' || md5('secret ' || right(id, 24)::int) FROM "Tenant""#;
    let verdicts = stream::iter(old.texts(secrets).await).map(|secret_key| {
        let mut client = fixture.provisioning.clone();
        async move { client.verify_api_key(VerifyApiKeyRequest { secret_key }).await.unwrap().into_inner().verdict() }
    });
    let verdicts: Vec<Verdict> = verdicts.buffer_unordered(64).collect().await;
    let count = |verdict| verdicts.iter().filter(|it| **it == verdict).count();
    assert_eq!((count(Verdict::Valid), count(Verdict::TenantSuspended)), (84_000, 1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_adoptions_at_once_adopt_each_tenant_once() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(1_000).await);
    let adoptions = [Adoption::new(&fixture, &old), Adoption::new(&fixture, &old)];
    let mut processes = adoptions.each_ref().map(|adoption| Process::start(&mut adoption.command(&[])));
    for process in &mut processes {
        assert_eq!(process.wait().code(), Some(0), "{}", process.log.join("\n"));
    }
    assert_eq!(adoptions.iter().map(|adoption| adoption.count("adopted")).sum::<usize>(), 850);
    for adoption in &adoptions {
        assert_eq!(adoption.count("adopted") + adoption.count("already_adopted"), 850);
    }
    assert_eq!((fixture.count("tenants").await, fixture.count("events").await), (850, 850));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_database_is_only_read() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_tenants(100).await);
    let before = old.digest().await;
    let adoption = Adoption::new(&fixture, &old);
    for arguments in [&["--dry-run"][..], &[], &["--skip-invalid"], &["--skip-invalid"]] {
        // As a role without any other right than to read.
        assert_eq!(adoption.outcome(arguments).0, 1);
    }
    assert_eq!(old.digest().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_beyond_the_quotas_comes_over_with_all_its_rows() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_tenants(1).await);
    let id = old_id(0);
    old.execute(&format!(
        r#"INSERT INTO "Package" SELECT 'x' || n, '{id}', 'more-' || n, 'More', NULL, 0, true, NULL, NULL, 'DATE', now(), now()
             FROM generate_series(1, 12000) AS n;
           INSERT INTO "Segment" SELECT 'x' || n, '{id}', 'more-' || n, 'More', 'More', NULL, 9, true, now(), now()
             FROM generate_series(1, 200) AS n"#
    ))
    .await;
    let adoption = Adoption::new(&fixture, &old);
    assert_eq!(adoption.outcome(&[]).0, 0);
    assert_eq!(fixture.row_counts().await, [1, 202, 12_004, 1]);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), [], "the counters are right");
}
