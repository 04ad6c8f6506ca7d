//! What `turnkey adopt` repairs, what it refuses, and how it reports both.

use std::fs;

use crate::support::{
    adoption::{Adoption, OldDatabase, old_id, texts},
    fixture::Fixture,
    process::{database_url, turnkey},
    requests::signup,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_an_orphan_lacks_is_created_and_what_is_open_has_one_meaning() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(100).await);
    let adoption = Adoption::new(&fixture, &old);
    assert_eq!(adoption.outcome(&[]).0, 0);
    let report = adoption.report();
    for (number, expected) in [
        (0, &[][..]),
        (1, &["segments: General created", "packages: the default packages created"]),
        (2, &["packages: the default packages created"]),
        (3, &["segments: General created"]),
        (4, &["packages[p010000000000000000000004].segmentId: placed in General"]),
        (5, &[]),
        (6, &[]),
        (7, &["passwordHash: left out, because the tenant has no email"]),
        (8, &["packages[p020000000000000000000008].groupingOrder: placed after the last package"]),
        (
            9,
            &[
                "segments[s200000000000000000000009].slug: extras, derived from the name",
                "packages[p010000000000000000000009].slug: whole-day, derived from the name",
                "packages[p020000000000000000000009].slug: whole-day-2, derived from the name",
            ],
        ),
        (10, &["packages[p010000000000000000000010].segmentId: the segment of another tenant replaced by General"]),
        (11, &[]),
        (15, &["segments[s100000000000000000000015].description: white space or spelling normalized"]),
    ] {
        let line = &report[&old_id(number)];
        assert_eq!(line.status, "adopted");
        let repairs: Vec<&str> = line.repairs.split(" | ").filter(|repair| !repair.is_empty()).collect();
        assert!(expected.iter().all(|repair| repairs.contains(repair)), "{number}: {repairs:?}");
        assert_eq!(repairs.is_empty(), expected.is_empty(), "{number}: {repairs:?}");
    }
    let catalog = async |number: u32| {
        let sql = format!(
            "SELECT concat_ws(' ', segments.slug, packages.slug, base_price, grouping_order)
               FROM packages
               JOIN segments ON segments.tenant_id = packages.tenant_id AND segments.id = segment_id
              WHERE packages.tenant_id IN (SELECT id FROM tenants WHERE slug = 'tenant-{number}')
              ORDER BY grouping_order, packages.id"
        );
        texts(&fixture.database.superuser, &sql).await
    };
    let defaults = ["general basic-package 0 1", "general standard-package 0 2", "general premium-package 0 3"];
    assert_eq!(catalog(1).await, defaults);
    assert_eq!(catalog(2).await, defaults);
    let of_old = |segments: [&str; 4]| {
        let packages =
            segments.iter().zip(1..).map(|(segment, n)| format!("{segment} package-{n} {} {n}", (n - 1) * 12_500));
        packages.collect::<Vec<_>>()
    };
    assert_eq!(catalog(0).await, of_old(["general", "general", "general", "extras"]));
    assert_eq!(catalog(3).await, of_old(["extras", "extras", "extras", "extras"]));
    assert_eq!(catalog(4).await, of_old(["general"; 4]));
    assert_eq!(catalog(8).await, of_old(["general", "general", "general", "extras"]), "by their age");
    assert_eq!(catalog(10).await, of_old(["general", "general", "general", "extras"]));
    let general = "SELECT concat_ws(', ', segments.name, hero_title, description, sort_order)
                     FROM segments
                    WHERE slug = 'general' AND tenant_id IN (SELECT id FROM tenants WHERE slug = 'tenant-3')";
    let expected = "General, Our Services, Your main service offerings, 0";
    assert_eq!(texts(&fixture.database.superuser, general).await, [expected]);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_is_reported_with_its_column_its_class_and_a_remedy() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_tenants(100).await);
    // Several problems of one tenant.
    old.execute(r#"UPDATE "Tenant" SET email = 'none', "updatedAt" = 'infinity' WHERE name = ''"#).await;
    let adoption = Adoption::new(&fixture, &old);
    assert_eq!(adoption.outcome(&["--skip-invalid"]).0, 1);
    let report = adoption.report();
    for (number, problems, remedy) in [
        (50, &["slug BAD_FORMAT"][..], "--renames"),
        (51, &["slug RESERVED"], "--renames"),
        (52, &["name MISSING_FIELD", "email BAD_FORMAT", "updatedAt OUT_OF_RANGE"], "in the old database"),
        (53, &["email BAD_FORMAT"], "in the old database"),
        (54, &["commissionPercent OUT_OF_RANGE"], "in the old database"),
        (55, &["email EMAIL_TAKEN"], "in the old database"),
        (56, &["email EMAIL_TAKEN"], "in the old database"),
        (57, &["passwordHash BAD_FORMAT"], "in the old database"),
        (58, &["packages[p030000000000000000000058].basePrice OUT_OF_RANGE"], "in the old database"),
        (59, &["branding BAD_FORMAT"], "in the old database"),
        (60, &["apiKeyPublic BAD_FORMAT"], "in the old database"),
        (61, &["apiKeySecret BAD_FORMAT"], "in the old database"),
        (62, &["packages[p020000000000000000000062].name MISSING_FIELD"], "in the old database"),
        (63, &["slug BAD_FORMAT"], "--renames"),
        (64, &["slug BAD_FORMAT"], "--renames"),
    ] {
        let line = &report[&old_id(number)];
        assert_eq!((line.status.as_str(), line.tenant_id.as_str(), line.repairs.as_str()), ("refused", "", ""));
        let reported: Vec<&str> = line.problems.split(" | ").collect();
        assert_eq!(reported.len(), problems.len(), "{number}: {reported:?}");
        for problem in problems {
            let found = reported.iter().find(|reported| reported.starts_with(problem));
            assert!(
                found.is_some_and(|found| found.ends_with(remedy) || found.contains(remedy)),
                "{number}: {reported:?}"
            );
        }
    }
    assert_eq!(report.values().filter(|line| line.status == "refused").count(), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_report_nor_the_messages_contain_secrets_or_addresses() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_tenants(100).await);
    let adoption = Adoption::new(&fixture, &old);
    let mut command = adoption.command(&["--skip-invalid"]);
    let output = command.env("RUST_LOG", "debug,sqlx=debug").output().unwrap();
    let report = fs::read_to_string(adoption.path("adopted.csv")).unwrap();
    let seen =
        format!("{report}{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(seen.contains("Adopted tenant"));
    let secrets = r#"SELECT secret FROM "Tenant", unnest(ARRAY["passwordHash", "apiKeySecret", email]) AS secret
                     WHERE secret IS NOT NULL"#;
    for secret in old.texts(secrets).await {
        assert!(!seen.contains(&secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_a_tenant_of_the_new_database_has_is_refused() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(5).await);
    fixture.tenant("tenant-0").await;
    fixture.sign_up(signup("Bella", "OWNER-1@example.com")).await.unwrap();
    let key = old.texts(r#"SELECT "apiKeyPublic" FROM "Tenant" WHERE slug = 'tenant-2'"#).await.remove(0);
    let tenant = fixture.tenant("omers-studio").await;
    let update = format!(
        "UPDATE api_keys SET key_id = right('{key}', 16), public_key = 'pk_live_omers_' || right('{key}', 16)
          WHERE tenant_id = '{}'",
        tenant.id
    );
    fixture.database.execute(update).await;
    let adoption = Adoption::new(&fixture, &old);
    let (code, messages) = adoption.outcome(&["--skip-invalid"]);
    assert_eq!(code, 1, "{messages}");
    for (number, class) in [(0, "slug SLUG_TAKEN"), (1, "email EMAIL_TAKEN"), (2, "apiKeyPublic API_KEY_TAKEN")] {
        let line = adoption.line(number);
        assert_eq!(line.status, "refused");
        assert!(line.problems.starts_with(class) && line.problems.contains("of the new database"), "{}", line.problems);
    }
    assert_eq!(adoption.count("adopted"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_slug_that_another_tenant_has_is_refused_for_both() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(3).await);
    let adoption = Adoption::new(&fixture, &old);
    adoption.write_renames(&[("tenant-0", "tenant-1")]);
    assert_eq!(adoption.outcome(&["--renames", "renames.csv", "--skip-invalid"]).0, 1);
    for number in [0, 1] {
        assert!(adoption.line(number).problems.starts_with("slug SLUG_TAKEN"), "{}", adoption.line(number).problems);
    }
    assert_eq!(adoption.line(2).status, "adopted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_that_cannot_run_writes_nothing_and_exits_with_2() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(3).await);
    let adoption = Adoption::new(&fixture, &old);
    let fails = |arguments: &[&str], reason: &str| {
        let (code, messages) = adoption.outcome(arguments);
        assert_eq!(code, 2, "{messages}");
        assert!(messages.contains(reason) && !messages.contains("hunter2"), "{messages}");
        assert!(!adoption.path("adopted.csv").exists());
    };
    fails(&["--from", "postgres://reader:hunter2@127.0.0.1:1/old"], "the database of --from");
    fails(&["--from", "mysql://reader:hunter2@old/platform"], "--from / TURNKEY_FROM: must begin with postgres://");
    fails(&["--from", &database_url(&fixture.database.server)], "\"Tenant\" does not exist");
    fails(&["--database-url", "postgres://x:hunter2@127.0.0.1:1/new"], "database");
    fails(&["--renames", "missing.csv"], "cannot read missing.csv");
    fs::write(adoption.path("renames.csv"), "old_slug,new_slug\ntenant-0,admin\n").unwrap();
    fails(&["--renames", "renames.csv"], "renames.csv: line 2: new_slug is reserved");
    let output = turnkey(adoption.folder.path()).args(["adopt", "--out", "adopted.csv"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--from / TURNKEY_FROM: must be the URL"));
    assert_eq!(fixture.row_counts().await, [0; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_report_stays_as_it_is() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(3).await);
    let adoption = Adoption::new(&fixture, &old);
    fs::write(adoption.path("adopted.csv"), "slug,tenant_id,public_key,secret_key\n").unwrap();
    let (code, messages) = adoption.outcome(&[]);
    assert_eq!(code, 2);
    assert!(messages.contains("adopted.csv is not a report of adopt"), "{messages}");
    assert_eq!(fs::read_to_string(adoption.path("adopted.csv")).unwrap(), "slug,tenant_id,public_key,secret_key\n");
    assert_eq!(fixture.row_counts().await, [0; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_of_the_old_database_can_be_in_a_file() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(3).await);
    let adoption = Adoption::new(&fixture, &old);
    fs::write(adoption.path("url"), format!("{}\n", database_url(&old.reader))).unwrap();
    let mut command = adoption.command(&["--from-file", "url"]);
    let output = command.env("TURNKEY_FROM", "postgres://reader@127.0.0.1:1/old").output().unwrap();
    assert!(output.status.success(), "the flag precedes the variable: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(adoption.count("adopted"), 3);
}
