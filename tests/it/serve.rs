//! `turnkey serve` as a process: settings, addresses, signals, and the private Postgres.

use std::fs;

use nix::sys::signal::Signal;
use tempfile::{TempDir, tempdir_in};
use tonic_reflection::pb::{v1, v1alpha};
use turnkey::grpc::pb::{GetTenantRequest, get_tenant_request::Identifier};

use crate::{
    cluster::Cluster,
    fixture::{bella, channel},
    process::{Program, serving, turnkey, url},
};

fn folder() -> TempDir {
    tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_log_line_and_the_ready_file_say_the_address_and_sigterm_ends_it_with_0() {
    let database = Cluster::get().migrated().await;
    let folder = folder();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut program = Program::start(
            turnkey(folder.path())
                .args(["serve", "--listen", "127.0.0.1:0", "--ready-file", "ready"])
                .env("DATABASE_URL", url(&database.server)),
        );
        let address = program.address();
        assert!(program.log[0].contains(&address), "{}", program.log[0]);
        program.wait_for("Wrote the ready file");
        assert_eq!(fs::read_to_string(folder.path().join("ready")).unwrap().trim(), address);
        let check = |address: &str| {
            let status = turnkey(folder.path()).args(["healthcheck", "--listen", address]).status().unwrap();
            status.code()
        };
        assert_eq!(check(&address), Some(0));
        program.signal(signal);
        assert_eq!(program.wait().code(), Some(0));
        assert_eq!(check(&address), Some(1));
        assert!(!folder.path().join("ready").exists(), "what has stopped is not ready");
        // As if it had been killed: the next one must not seem ready before it is.
        fs::write(folder.path().join("ready"), "127.0.0.1:1").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_command_it_serves_and_without_a_database_url_it_brings_its_own() {
    let folder = folder();
    let start = || Program::start(turnkey(folder.path()).env("TURNKEY_LISTEN", "127.0.0.1:0"));
    let mut program = start();
    let made = program.provisioning().await.create_fully_provisioned(bella()).await.unwrap().into_inner();
    program.signal(Signal::SIGINT);
    assert_eq!(program.wait().code(), Some(0));

    for end in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut program = start();
        let identifier = Some(Identifier::Slug("bella-weddings".to_owned()));
        let found = program.provisioning().await.get_tenant(GetTenantRequest { identifier }).await.unwrap();
        assert_eq!(found.into_inner().tenant, made.tenant);
        program.signal(end);
        program.wait();
    }
    assert!(folder.path().join(".turnkey").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_others_can_reach_is_refused_unless_it_is_allowed() {
    let folder = folder();
    let refused = turnkey(folder.path()).args(["--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--allow-unauthenticated"));

    let database = Cluster::get().migrated().await;
    let mut program = Program::start(
        turnkey(folder.path())
            .args(["--listen", "0.0.0.0:0", "--allow-unauthenticated", "--shutdown-delay", "0"])
            .env("DATABASE_URL", url(&database.server)),
    );
    let port = program.address().rsplit_once(':').unwrap().1.to_owned();
    assert!(program.log.iter().any(|line| line.contains("no credential")));
    assert!(!reflects(&format!("127.0.0.1:{port}")).await, "no reflection where others can ask");
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_answers_in_both_versions() {
    let database = Cluster::get().migrated().await;
    let folder = folder();
    let mut program = Program::start(&mut serving(folder.path(), &database.server));
    assert!(reflects(&program.address()).await);
}

/// Whether both versions list our services.
async fn reflects(address: &str) -> bool {
    let mut listed = Vec::new();
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel(address).await);
    if let Ok(answers) = client.server_reflection_info(tokio_stream::iter([request])).await {
        let answer = answers.into_inner().message().await.unwrap().unwrap();
        listed.push(format!("{answer:?}"));
    }
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel(address).await);
    if let Ok(answers) = client.server_reflection_info(tokio_stream::iter([request])).await {
        let answer = answers.into_inner().message().await.unwrap().unwrap();
        listed.push(format!("{answer:?}"));
    }
    let names = ["turnkey.v1.TenantProvisioning", "turnkey.v1.PackageCatalog", "grpc.health.v1.Health"];
    listed.len() == 2 && listed.iter().all(|answer| names.iter().all(|name| answer.contains(name)))
}

#[test]
fn all_bad_settings_are_named_together() {
    let refused = turnkey(folder().path())
        .args(["serve", "--listen", "here", "--key-argon2", "m=1,t=1,p=1", "--rate-limit-per-caller", "0"])
        .env("TURNKEY_MAX_CONNECTION_AGE", "10ms")
        .env("TURNKEY_DATABASE_MAX_CONNECTIONS", "0")
        .env("TURNKEY_KEY_MODE", "prod")
        .env("TURNKEY_LOG_FORMAT", "xml")
        .env("DATABASE_URL", "mysql://root:hunter2@localhost/x")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    for setting in [
        "TURNKEY_LISTEN",
        "TURNKEY_KEY_ARGON2",
        "TURNKEY_DATABASE_MAX_CONNECTIONS",
        "TURNKEY_KEY_MODE",
        "TURNKEY_LOG_FORMAT",
        "TURNKEY_RATE_LIMIT_PER_CALLER",
        "TURNKEY_MAX_CONNECTION_AGE",
        "DATABASE_URL",
    ] {
        assert!(said.contains(setting), "{setting} is missing in:\n{said}");
    }
    assert!(!said.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_before_any_database_is_touched() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = folder();
    let address = taken.local_addr().unwrap().to_string();
    let refused = turnkey(folder.path()).args(["--listen", &address]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&address));
    assert!(!folder.path().join(".turnkey").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_too_many_rights_is_said_at_start() {
    let database = Cluster::get().migrated().await;
    let folder = folder();
    let mut program = Program::start(&mut serving(folder.path(), &database.superuser));
    let line = program.wait_for("more rights than it needs");
    assert!(line.contains("is a superuser"), "{line}");
}
