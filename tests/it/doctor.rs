//! `turnkey doctor`: its tables, its lines of JSON, its codes, and the file of the keys it makes.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

use tempfile::{TempDir, tempdir_in};
use turnkey::grpc::pb::FindingKind;

use crate::{
    fixture::Fixture,
    integrity::{Expected, every_kind_of_damage, told},
    process::{turnkey, url},
};

struct Doctor<'a> {
    fixture: &'a Fixture,
    folder: TempDir,
}

impl<'a> Doctor<'a> {
    fn of(fixture: &'a Fixture) -> Self {
        Self { fixture, folder: tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = turnkey(self.folder.path());
        let database = url(&self.fixture.database.server);
        command.arg("doctor").args(arguments).env("DATABASE_URL", database).env("RUST_LOG", "error").output().unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_exactly_what_is_wrong_mends_it_and_is_silent() {
    let fixture = Fixture::start().await;
    let expected = every_kind_of_damage(&fixture).await;
    let doctor = Doctor::of(&fixture);

    let output = doctor.run(&["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let mut found = Expected::new();
    for line in said(&output).lines() {
        let finding: serde_json::Value = serde_json::from_str(line).unwrap();
        let kind = FindingKind::from_str_name(finding["kind"].as_str().unwrap()).unwrap();
        assert!(finding["tenant_id"].is_string() && finding["detail"].is_string());
        found.push((finding["slug"].as_str().unwrap().to_owned(), kind));
    }
    found.sort();
    assert_eq!(found, expected);

    let output = doctor.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("The tenant has no API key at all."), "{}", said(&output));
    assert!(said(&output).contains("9 findings in 8 tenants, 0 repaired, 9 unresolved."), "{}", said(&output));

    let output = doctor.run(&["--repair"]);
    assert_eq!(output.status.code(), Some(1), "a key needs a file");
    assert!(
        said(&output).contains("requires --out") && said(&output).contains("7 repaired, 1 unresolved."),
        "{}",
        said(&output)
    );
    assert_eq!(told(&fixture.check(None).await.unwrap()), [("no-key".to_owned(), FindingKind::NoApiKey)]);

    let others = doctor.folder.path().join("diary.txt");
    fs::write(&others, "dear diary\n").unwrap();
    let output = doctor.run(&["--repair", "--out", "diary.txt"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert_eq!(fs::read_to_string(others).unwrap(), "dear diary\n");

    let output = doctor.run(&["--repair", "--out", "keys.csv"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let keys = doctor.folder.path().join("keys.csv");
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(keys).unwrap();
    let row: Vec<&str> = text.lines().nth(1).unwrap().split(',').collect();
    assert_eq!((text.lines().count(), row[0]), (2, "no-key"));
    assert_eq!(fixture.verify(row[3]).await.tenant_slug, "no-key");

    let output = doctor.run(&["--json"]);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    assert_eq!(said(&doctor.run(&[])), "No findings in 8 tenants.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_ends_somewhere_and_json_never() {
    let fixture = Fixture::start().await;
    let half = "INSERT INTO tenants SELECT gen_random_uuid(), 'half-' || number, 'x', 10, '{}', true, now(), now()
                  FROM generate_series(1, 1100) AS number";
    fixture.damage(half).await;
    let doctor = Doctor::of(&fixture);
    let output = said(&doctor.run(&[]));
    assert!(output.contains("more: --json shows them all"), "{output}");
    assert!(output.contains("3300 findings in 1100 tenants, 0 repaired, 3300 unresolved."), "{output}");
    let output = said(&doctor.run(&["--json", "--repair", "--out", "keys.csv"]));
    assert_eq!((output.lines().count(), output.matches(r#""outcome":"repaired""#).count()), (3_300, 3_300));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_that_cannot_look_says_so_with_a_code_of_its_own() {
    let fixture = Fixture::start().await;
    let doctor = Doctor::of(&fixture);
    let mut command = turnkey(doctor.folder.path());
    let output = command.arg("doctor").env("DATABASE_URL", "postgres://x@127.0.0.1:1/x").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(doctor.run(&["--out", "keys.csv"]).status.code(), Some(2), "nothing is written without a repair");
}

#[test]
fn a_doctor_without_a_database_does_not_make_one_to_find_it_sound() {
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = turnkey(folder.path()).arg("doctor").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!folder.path().join(".turnkey").exists());
}
