//! `turnkey purge`: deleted tenants, removed for good.

use std::{fs::File, io::Write as _, process::Output};

use nix::pty::openpty;
use tempfile::tempdir_in;
use turnkey::grpc::pb::get_tenant_request::Identifier;

use crate::{
    cluster::execute,
    create_from_signup::signup,
    fixture::{Fixture, ONE_TENANT, named, reason},
    process::{turnkey, url},
};

impl Fixture {
    fn purge(&self, arguments: &[&str]) -> Output {
        let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut command = turnkey(folder.path());
        command.arg("purge").args(arguments).env("DATABASE_URL", url(&self.database.server)).output().unwrap()
    }

    /// Makes tenants, all of them deleted that many days ago.
    async fn deleted(&self, slugs: &[&str], days: u32) {
        for slug in slugs {
            self.tenant(slug).await;
            let sql = format!("UPDATE tenants SET deleted_at = now() - interval '{days} days' WHERE slug = '{slug}'");
            execute(&self.database.superuser, sql).await;
        }
    }
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_it_would_remove_and_removes_nothing() {
    let fixture = Fixture::start().await;
    fixture.deleted(&["bella", "omers-cafe"], 31).await;
    fixture.deleted(&["recent"], 29).await;
    let before = fixture.row_counts().await;
    let said = said(&fixture.purge(&["--older-than", "30d"]));
    assert!(said.contains("bella\n") && said.contains("omers-cafe\n") && said.contains("--yes"), "{said}");
    assert!(!said.contains("recent"), "{said}");
    assert_eq!(fixture.row_counts().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_it_asks_and_takes_yes_alone_for_yes() {
    let fixture = Fixture::start().await;
    fixture.deleted(&["bella"], 31).await;
    for (answer, left) in [("\n", 1), ("n\n", 1), ("yesterday\n", 1), ("Y\n", 0)] {
        let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let terminal = openpty(None, None).unwrap();
        let mut command = turnkey(folder.path());
        command.args(["purge", "--older-than", "30d"]).env("DATABASE_URL", url(&fixture.database.server));
        let asked = command.stdin(terminal.slave.try_clone().unwrap()).stdout(terminal.slave).spawn();
        File::from(terminal.master.try_clone().unwrap()).write_all(answer.as_bytes()).unwrap();
        assert!(asked.unwrap().wait().unwrap().success());
        assert_eq!(fixture.count("tenants").await, left, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_yes_it_removes_those_alone_with_all_they_had_and_frees_their_slug_and_address() {
    let fixture = Fixture::start().await;
    fixture.tenant("alive").await;
    fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap();
    execute(
        &fixture.database.superuser,
        "UPDATE tenants SET deleted_at = '2020-01-01' WHERE slug = 'bella'".to_owned(),
    )
    .await;
    fixture.deleted(&["recent"], 29).await;
    assert!(said(&fixture.purge(&["--older-than", "30d", "--yes"])).contains("Tenants deleted permanently: 1"));
    assert_eq!((fixture.row_counts().await, fixture.count("owners").await), ([2, 2, 6, 2], 0));
    let gone = fixture.get(Identifier::Slug("bella".to_owned())).await.unwrap_err();
    assert_eq!(reason(&gone), "TENANT_NOT_FOUND");
    assert!(fixture.get(Identifier::Slug("recent".to_owned())).await.is_ok());
    assert!(fixture.sign_up(signup("Bella", "bella@example.com")).await.is_ok());
    assert!(said(&fixture.purge(&["--older-than", "30d", "--yes"])).contains("No tenant"), "a second run has no work");
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_go_in_small_transactions_and_two_purges_at_once_get_on() {
    let fixture = Fixture::start().await;
    let template = fixture.create(named("template")).await.unwrap().tenant.unwrap();
    // 450 deleted tenants, whole but for the row of the key, which is copied under another id.
    let many = format!(
        "SET session_replication_role = replica;
         CREATE TEMP TABLE copy AS SELECT gen_random_uuid() AS id, number FROM generate_series(1, 450) AS number;
         INSERT INTO tenants SELECT id, 'tenant-' || number, 'x', 10, '{{}}', true, now(), now(), '2020-01-01' FROM copy;
         INSERT INTO segments SELECT copy.id, gen_random_uuid(), slug, name, hero_title, description, sort_order, active,
                                     created_at, updated_at FROM copy, segments WHERE tenant_id = '{0}';
         INSERT INTO packages SELECT copy.id, gen_random_uuid(), segments.id, packages.slug, packages.name,
                                     packages.description, base_price, booking_type, grouping_order, packages.active,
                                     packages.created_at, packages.updated_at
                                FROM copy JOIN segments ON segments.tenant_id = copy.id, packages
                               WHERE packages.tenant_id = '{0}';
         INSERT INTO api_keys SELECT lpad(number::text, 16, '0'), copy.id, 'pk_live_x_' || lpad(number::text, 16, '0'),
                                     secret_hash, created_at FROM copy, api_keys WHERE tenant_id = '{0}'",
        template.id
    );
    execute(&fixture.database.superuser, many).await;
    assert_eq!(fixture.row_counts().await, [451, 451, 1_353, 451]);
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| fixture.purge(&["--older-than", "1day 6h", "--yes"]));
        (fixture.purge(&["--older-than", "1day 6h", "--yes"]), other.join().unwrap())
    });
    assert!(one.status.success() && other.status.success(), "{one:?} {other:?}");
    said(&fixture.purge(&["--older-than", "1day", "--yes"]));
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_age_that_is_none_is_named_with_all_that_is_wrong() {
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = turnkey(folder.path())
        .args(["purge", "--older-than", "soon"])
        .env("DATABASE_URL", "mysql://nowhere")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--older-than") && said.contains("DATABASE_URL"), "{said}");
}
