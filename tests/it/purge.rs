//! `turnkey purge`: permanently removes tenants that were deleted long ago.

use std::{fs::File, io::Write as _, process::Output};

use nix::pty::openpty;
use turnkey::grpc::pb::get_tenant_request::Identifier;

use crate::support::{
    database::execute,
    fixture::{Fixture, ONE_TENANT},
    process::{database_url, temp_folder, turnkey},
    requests::{named, signup},
    responses::reason,
};

fn purge(fixture: &Fixture, arguments: &[&str]) -> Output {
    let folder = temp_folder();
    let mut command = turnkey(folder.path());
    let database_url = database_url(&fixture.database.server);
    command.arg("purge").args(arguments).env("DATABASE_URL", database_url).output().unwrap()
}

/// Creates tenants that were deleted this many days ago.
async fn create_deleted(fixture: &Fixture, slugs: &[&str], days: u32) {
    for slug in slugs {
        fixture.tenant(slug).await;
        let sql = format!("UPDATE tenants SET deleted_at = now() - interval '{days} days' WHERE slug = '{slug}'");
        fixture.database.execute(sql).await;
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_without_yes_lists_the_tenants_and_removes_nothing() {
    let fixture = Fixture::start().await;
    create_deleted(&fixture, &["bella", "omers-cafe"], 31).await;
    create_deleted(&fixture, &["recent"], 29).await;
    let before = fixture.row_counts().await;
    let stdout = stdout(&purge(&fixture, &["--older-than", "30d"]));
    assert!(stdout.contains("bella\n") && stdout.contains("omers-cafe\n") && stdout.contains("--yes"), "{stdout}");
    assert!(!stdout.contains("recent"), "{stdout}");
    assert_eq!(fixture.row_counts().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_in_a_terminal_asks_and_accepts_only_y_or_yes() {
    let fixture = Fixture::start().await;
    create_deleted(&fixture, &["bella"], 31).await;
    for (answer, left) in [("\n", 1), ("n\n", 1), ("yesterday\n", 1), ("Y\n", 0)] {
        let folder = temp_folder();
        let terminal = openpty(None, None).unwrap();
        let mut command = turnkey(folder.path());
        command.args(["purge", "--older-than", "30d"]).env("DATABASE_URL", database_url(&fixture.database.server));
        let child = command.stdin(terminal.slave.try_clone().unwrap()).stdout(terminal.slave).spawn();
        File::from(terminal.master.try_clone().unwrap()).write_all(answer.as_bytes()).unwrap();
        assert!(child.unwrap().wait().unwrap().success());
        assert_eq!(fixture.count("tenants").await, left, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_with_yes_removes_only_the_listed_tenants_and_frees_their_slugs_and_addresses() {
    let fixture = Fixture::start().await;
    fixture.tenant("alive").await;
    fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap();
    execute(
        &fixture.database.superuser,
        "UPDATE tenants SET deleted_at = '2020-01-01' WHERE slug = 'bella'".to_owned(),
    )
    .await;
    create_deleted(&fixture, &["recent"], 29).await;
    assert!(stdout(&purge(&fixture, &["--older-than", "30d", "--yes"])).contains("Tenants deleted permanently: 1"));
    assert_eq!((fixture.row_counts().await, fixture.count("owners").await), ([2, 2, 6, 2], 0));
    assert_eq!(fixture.count("tenant_usage").await, 2);
    let error = fixture.get(Identifier::Slug("bella".to_owned())).await.unwrap_err();
    assert_eq!(reason(&error), "TENANT_NOT_FOUND");
    assert!(fixture.get(Identifier::Slug("recent".to_owned())).await.is_ok());
    assert!(fixture.sign_up(signup("Bella", "bella@example.com")).await.is_ok());
    assert!(
        stdout(&purge(&fixture, &["--older-than", "30d", "--yes"])).contains("No tenant"),
        "a second run has nothing to remove"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_purges_remove_hundreds_of_tenants() {
    let fixture = Fixture::start().await;
    let template = fixture.create(named("template")).await.unwrap().tenant.unwrap();
    // 450 complete deleted tenants. Their keys are copies under other key ids, and General has the id of its tenant.
    let many = format!(
        "CREATE TEMP TABLE copy AS SELECT gen_random_uuid() AS id, number FROM generate_series(1, 450) AS number;
         INSERT INTO tenants SELECT id, 'tenant-' || number, 'x', 10, '{{}}', true, now(), now(), '2020-01-01' FROM copy;
         INSERT INTO segments SELECT id, id, 'general', 'x', 'x', '', 0, true, now(), now() FROM copy;
         INSERT INTO packages SELECT id, gen_random_uuid(), id, 'package-' || n, 'x', '', 0, 'DATE', n, true, now(), now()
                                FROM copy, generate_series(1, 3) AS n;
         INSERT INTO api_keys SELECT lpad(number::text, 16, '0'), copy.id, 'pk_live_x_' || lpad(number::text, 16, '0'),
                                     secret_hash, created_at FROM copy, api_keys WHERE tenant_id = '{0}'",
        template.id
    );
    fixture.database.execute_without_triggers(&many).await;
    assert_eq!(fixture.row_counts().await, [451, 451, 1_353, 451]);
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| purge(&fixture, &["--older-than", "1day 6h", "--yes"]));
        (purge(&fixture, &["--older-than", "1day 6h", "--yes"]), other.join().unwrap())
    });
    assert!(one.status.success() && other.status.success(), "{one:?} {other:?}");
    stdout(&purge(&fixture, &["--older-than", "1day", "--yes"]));
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_age_is_reported_together_with_the_other_invalid_settings() {
    let folder = temp_folder();
    let output = turnkey(folder.path())
        .args(["purge", "--older-than", "soon"])
        .env("DATABASE_URL", "mysql://nowhere")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("--older-than") && stderr.contains("DATABASE_URL"), "{stderr}");
}
