//! `turnkey call`: any RPC from the shell.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use turnkey::{config::ServerSettings, grpc::pb::DESCRIPTORS};

use crate::support::{
    damage::damage_of_every_kind,
    fixture::{Fixture, settings},
    process::{temp_folder, turnkey},
    requests::bella,
    tokens::Tokens,
};

fn call(fixture: &Fixture, arguments: &[&str]) -> Command {
    let mut command = turnkey(std::path::Path::new("."));
    command.arg("call").args(arguments).args(["--server", &format!("http://{}", fixture.server.address)]);
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The exit code and standard error of a command that prints nothing else.
fn failure(output: Output) -> (Option<i32>, String) {
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn without_an_rpc_all_of_them_are_listed_and_no_server_is_needed() {
    let folder = temp_folder();
    let output = run(turnkey(folder.path()).arg("call"));
    assert!(output.status.success(), "{output:?}");
    let list = String::from_utf8(output.stdout).unwrap();
    for line in [
        "turnkey.v1.TenantProvisioning",
        "turnkey.v1.PackageCatalog",
        "  GetTenant                    Reads one tenant by id or by slug",
    ] {
        assert!(list.lines().any(|listed| listed.starts_with(line)), "{line}: {list}");
    }
    let rpcs: usize =
        DescriptorPool::decode(DESCRIPTORS).unwrap().services().map(|service| service.methods().len()).sum();
    assert_eq!(list.lines().filter(|line| line.starts_with("  ")).count(), rpcs);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_of_a_request_are_arguments_and_the_response_is_json() {
    // Without reflection.
    let fixture = Fixture::with_settings(ServerSettings { reflection: false, ..settings() }).await;
    let tenant = fixture.tenant("bella-weddings").await;
    let found = json_of(&run(&mut call(&fixture, &["GetTenant", "slug=bella-weddings"])));
    assert_eq!(found["tenant"]["id"], tenant.id);
    assert_eq!((&found["tenant"]["commissionPercent"], &found["tenant"]["isActive"]), (&json!(10), &json!(true)));

    let tenant_id = format!("tenant_id={}", tenant.id);
    let arguments = ["TenantProvisioning/UpdateTenant", &tenant_id, "name=Bella", "branding.colors.main=red"];
    let updated = json_of(&run(&mut call(&fixture, &arguments)));
    assert_eq!(updated["tenant"]["branding"], json!({"colors": {"main": "red"}}));
    let package =
        ["UpsertPackage", &tenant_id, "name=Elopement", "basePrice=120000", "booking_type=BOOKING_TYPE_TIMESLOT"];
    let package = json_of(&run(&mut call(&fixture, &package)));
    assert_eq!(package["action"], "UPSERT_ACTION_CREATED");
    assert_eq!(package["package"]["basePrice"], "120000", "an int64 in the JSON of protobuf");
    assert_eq!(package["package"]["bookingType"], "BOOKING_TYPE_TIMESLOT");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_is_also_read_from_an_argument_a_file_and_standard_input() {
    let fixture = Fixture::start().await;
    let folder = temp_folder();
    fs::write(folder.path().join("request.json"), r#"{"slug": "from-file", "name": "From File"}"#).unwrap();
    let from_text = ["CreateFullyProvisioned", "-d", r#"{"slug": "from-text"}"#, "name=From Text"];
    assert_eq!(json_of(&run(&mut call(&fixture, &from_text)))["tenant"]["name"], "From Text");
    let from_file = ["CreateFullyProvisioned", "--data", "@request.json"];
    let output = run(call(&fixture, &from_file).current_dir(folder.path()));
    assert_eq!(json_of(&output)["tenant"]["slug"], "from-file");

    let mut command = call(&fixture, &["CreateFullyProvisioned", "-d", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"{"slug": "from-stdin", "name": "From Stdin"}"#).unwrap();
    let created = json_of(&child.wait_with_output().unwrap());
    assert_eq!((&created["tenant"]["slug"], &created["replayed"]), (&json!("from-stdin"), &json!(false)));
    assert_eq!(fixture.count("idempotency_records").await, 0, "no request id is added");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_one_json_object_a_line() {
    let fixture = Fixture::start().await;
    let output = run(&mut call(&fixture, &["CheckIntegrity"]));
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let expected = damage_of_every_kind(&fixture).await;
    let output = run(&mut call(&fixture, &["CheckIntegrity"]));
    let text = String::from_utf8(output.stdout).unwrap();
    let findings: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(findings.len(), expected.len());
    assert!(
        findings.iter().all(|line| line["finding"]["kind"].as_str().unwrap().starts_with("FINDING_KIND_")),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_status_is_exit_code_1_with_its_reason_and_violations() {
    let fixture = Fixture::start().await;
    fixture.create(bella()).await.unwrap();
    let run = |arguments: &[&str]| failure(run(&mut call(&fixture, arguments)));
    let missing = run(&["GetTenant", "slug=omers-cafe"]);
    assert_eq!(missing, (Some(1), "turnkey: NOT_FOUND / TENANT_NOT_FOUND: no such tenant\n".to_owned()));
    let expected = "turnkey: INVALID_ARGUMENT / INVALID_REQUEST: 2 fields are missing or invalid\n  \
                    slug: must have at least 3 characters (TOO_SHORT)\n  name: is required (MISSING_FIELD)\n";
    assert_eq!(run(&["CreateFullyProvisioned", "slug=x"]), (Some(1), expected.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_be_made_is_exit_code_2() {
    let fixture = Fixture::start().await;
    for (arguments, expected) in [
        (&["GetTennant"][..], "no RPC is named GetTennant; did you mean GetTenant?"),
        (&["GetTenant", "slg=x"], "GetTenantRequest has no field slg; did you mean slug?"),
        (&["GetTenant", "-d", r#"{"slg": "x"}"#], "slg is not a field of this request"),
        (&["GetTenant", "-d", "{"], "the data is not a JSON object"),
        (&["GetTenant", "-d", "@missing.json"], "cannot read missing.json"),
        (&["ListTenants", "page_size=many"], "pageSize"),
    ] {
        let (code, stderr) = failure(run(&mut call(&fixture, arguments)));
        assert!(code == Some(2) && stderr.contains(expected), "{arguments:?}: {code:?} {stderr}");
    }
    let folder = temp_folder();
    let mut unreachable = turnkey(folder.path());
    unreachable.args(["call", "GetTenant", "slug=x", "--server", "http://127.0.0.1:1"]);
    let (code, stderr) = failure(run(&mut unreachable));
    assert!(code == Some(2) && stderr.contains("cannot reach the server"), "{stderr}");
    let mut invalid = turnkey(folder.path());
    invalid.args(["call", "GetTenant", "--server", "localhost:50051", "--token-file", "missing"]);
    let (code, stderr) = failure(run(&mut invalid));
    assert!(stderr.contains("TURNKEY_SERVER: must be http://") && stderr.contains("TURNKEY_TOKEN_FILE: "), "{stderr}");
    assert_eq!(code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credential_is_a_token_or_a_file_with_one() {
    let tokens = Tokens::new();
    let token = tokens.create("reporting", &["reader"]);
    let fixture = Fixture::with_settings(tokens.settings()).await;
    fs::write(tokens.folder().join("token"), format!("{token}\n")).unwrap();
    let list = || {
        let mut command = call(&fixture, &["ListTenants"]);
        command.current_dir(tokens.folder());
        command
    };
    let (code, stderr) = failure(run(&mut list()));
    assert!(code == Some(1) && stderr.contains("UNAUTHENTICATED"), "{stderr}");
    for command in [
        list().args(["--token-file", "token"]),
        list().args(["--token", &token]),
        list().env("TURNKEY_TOKEN_FILE", "token"),
        list().env("TURNKEY_TOKEN", &token),
        list().args(["--token-file", "token"]).env("TURNKEY_TOKEN", "svc_another_one"),
    ] {
        assert_eq!(json_of(&run(command))["tenants"], json!([]));
    }
}
