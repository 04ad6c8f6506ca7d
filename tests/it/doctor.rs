//! `turnkey doctor`: its table, its JSON lines, its exit codes and the file of the keys that it creates.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

use tempfile::TempDir;
use turnkey::grpc::pb::FindingKind;

use crate::support::{
    damage::{Findings, damage_of_every_kind, summarize},
    fixture::Fixture,
    process::{database_url, temp_folder, turnkey},
    requests::signup,
};

struct Doctor<'a> {
    fixture: &'a Fixture,
    folder: TempDir,
}

impl<'a> Doctor<'a> {
    fn new(fixture: &'a Fixture) -> Self {
        Self { fixture, folder: temp_folder() }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = turnkey(self.folder.path());
        let database = database_url(&self.fixture.database.server);
        command.arg("doctor").args(arguments).env("DATABASE_URL", database).env("RUST_LOG", "error").output().unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_exactly_the_damage_and_repairs_it() {
    let fixture = Fixture::start().await;
    let expected = damage_of_every_kind(&fixture).await;
    let doctor = Doctor::new(&fixture);

    let output = doctor.run(&["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let mut found = Findings::new();
    for line in stdout(&output).lines() {
        let finding: serde_json::Value = serde_json::from_str(line).unwrap();
        let kind = FindingKind::from_str_name(finding["kind"].as_str().unwrap()).unwrap();
        assert!(finding["tenant_id"].is_string() && finding["detail"].is_string());
        found.push((finding["slug"].as_str().unwrap().to_owned(), kind));
    }
    found.sort();
    assert_eq!(found, expected);

    let output = doctor.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("The tenant has no API key at all."), "{}", stdout(&output));
    assert!(stdout(&output).contains("17 findings in 11 tenants, 0 repaired, 17 unresolved."), "{}", stdout(&output));

    let output = doctor.run(&["--repair"]);
    assert_eq!(output.status.code(), Some(1), "a created key needs a file");
    assert!(
        stdout(&output).contains("requires --out") && stdout(&output).contains("16 repaired, 1 unresolved."),
        "{}",
        stdout(&output)
    );
    assert_eq!(
        summarize(&fixture.check_integrity(None).await.unwrap()),
        [("no-key".to_owned(), FindingKind::NoApiKey)]
    );

    let foreign = doctor.folder.path().join("notes.txt");
    fs::write(&foreign, "not a key file\n").unwrap();
    let output = doctor.run(&["--repair", "--out", "notes.txt"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert_eq!(fs::read_to_string(foreign).unwrap(), "not a key file\n");

    let output = doctor.run(&["--repair", "--out", "keys.csv"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let keys = doctor.folder.path().join("keys.csv");
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(keys).unwrap();
    let row: Vec<&str> = text.lines().nth(1).unwrap().split(',').collect();
    assert_eq!((text.lines().count(), row[0]), (2, "no-key"));
    assert_eq!(fixture.verify(row[3]).await.tenant_slug, "no-key");

    let output = doctor.run(&["--json"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""));
    assert_eq!(stdout(&doctor.run(&[])), "No findings in 11 tenants.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_as_unresolved_what_a_repair_cannot_resolve() {
    let fixture = Fixture::start().await;
    fixture.sign_up(signup("Anna", "anna@bücher.example")).await.unwrap();
    fixture.sign_up(signup("Berta", "berta@bücher.example")).await.unwrap();
    let damage = "UPDATE owners SET email = 'anna@bücher.example' WHERE email LIKE 'berta%'";
    fixture.database.execute(damage).await;
    let doctor = Doctor::new(&fixture);
    for _ in 0..2 {
        let output = doctor.run(&["--repair", "--out", "keys.csv"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stdout(&output).contains("unresolved: another owner has this address"), "{}", stdout(&output));
        assert!(stdout(&output).contains("1 finding in 2 tenants, 0 repaired, 1 unresolved."), "{}", stdout(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_doctor_is_limited_and_its_json_is_not() {
    let fixture = Fixture::start().await;
    let half = "INSERT INTO tenants SELECT gen_random_uuid(), 'half-' || number, 'x', 10, '{}', true, now(), now()
                  FROM generate_series(1, 1100) AS number";
    fixture.database.execute_without_triggers(half).await;
    let doctor = Doctor::new(&fixture);
    let output = stdout(&doctor.run(&[]));
    assert!(output.contains("more: --json shows them all"), "{output}");
    assert!(output.contains("3300 findings in 1100 tenants, 0 repaired, 3300 unresolved."), "{output}");
    let output = stdout(&doctor.run(&["--json", "--repair", "--out", "keys.csv"]));
    assert_eq!((output.lines().count(), output.matches(r#""outcome":"repaired""#).count()), (3_300, 3_300));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_exits_with_2_if_it_cannot_check() {
    let fixture = Fixture::start().await;
    let doctor = Doctor::new(&fixture);
    let mut command = turnkey(doctor.folder.path());
    let output = command.arg("doctor").env("DATABASE_URL", "postgres://x@127.0.0.1:1/x").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(doctor.run(&["--out", "keys.csv"]).status.code(), Some(2), "--out requires --repair");
}

#[test]
fn doctor_without_a_database_url_does_not_start_an_embedded_postgres() {
    let folder = temp_folder();
    let output = turnkey(folder.path()).arg("doctor").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!folder.path().join(".turnkey").exists());
}
