//! `turnkey serve` as a process: settings, addresses, signals and the embedded Postgres.

use std::fs;

use nix::sys::signal::Signal;
use tonic::Code;
use turnkey::grpc::pb::{GetTenantRequest, get_tenant_request::Identifier};

use crate::support::{
    database::Cluster,
    fixture::channel,
    process::{Process, database_url, serve, temp_folder, turnkey},
    reflection::list_services,
    requests::bella,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_log_line_and_the_ready_file_contain_the_address_and_a_signal_stops_the_server_with_0() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut process = Process::start(
            turnkey(folder.path())
                .args(["serve", "--listen", "127.0.0.1:0", "--ready-file", "ready"])
                .env("DATABASE_URL", database_url(&database.server)),
        );
        let address = process.address();
        assert!(process.log[0].contains(&address), "{}", process.log[0]);
        process.wait_for("Wrote the ready file");
        assert_eq!(fs::read_to_string(folder.path().join("ready")).unwrap().trim(), address);
        let healthcheck = |address: &str| {
            let status = turnkey(folder.path()).args(["healthcheck", "--listen", address]).status().unwrap();
            status.code()
        };
        assert_eq!(healthcheck(&address), Some(0));
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(0));
        assert_eq!(healthcheck(&address), Some(1));
        assert!(!folder.path().join("ready").exists(), "a stopped server is not ready");
        // A killed server leaves its ready file. The next server must not seem ready because of it.
        fs::write(folder.path().join("ready"), "127.0.0.1:1").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_arguments_turnkey_serves_on_an_embedded_postgres_and_keeps_its_data() {
    let folder = temp_folder();
    let start = || Process::start(turnkey(folder.path()).env("TURNKEY_LISTEN", "127.0.0.1:0"));
    let mut process = start();
    let created = process.provisioning().await.create_fully_provisioned(bella()).await.unwrap().into_inner();
    process.signal(Signal::SIGINT);
    assert_eq!(process.wait().code(), Some(0));

    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut process = start();
        let identifier = Some(Identifier::Slug("bella-weddings".to_owned()));
        let found = process.provisioning().await.get_tenant(GetTenantRequest { identifier }).await.unwrap();
        assert_eq!(found.into_inner().tenant, created.tenant);
        process.signal(signal);
        process.wait();
    }
    assert!(folder.path().join(".turnkey").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reachable_address_without_credentials_needs_allow_unauthenticated() {
    let folder = temp_folder();
    let error = turnkey(folder.path()).args(["--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(error.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&error.stderr).contains("--allow-unauthenticated"));

    let database = Cluster::get().migrated().await;
    let mut process = Process::start(
        turnkey(folder.path())
            .args(["--listen", "0.0.0.0:0", "--allow-unauthenticated", "--shutdown-delay", "0"])
            .env("DATABASE_URL", database_url(&database.server)),
    );
    let port = process.address().rsplit_once(':').unwrap().1.to_owned();
    assert!(process.log.iter().any(|line| line.contains("no credential")));
    let channel = channel(&format!("127.0.0.1:{port}")).await;
    let refused = list_services(&channel, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "no reflection on a reachable address without credentials");
}

#[test]
fn all_invalid_settings_are_reported_together() {
    let error = turnkey(temp_folder().path())
        .args(["serve", "--listen", "here", "--key-argon2", "m=1,t=1,p=1", "--rate-limit-per-caller", "0"])
        .env("TURNKEY_HASHING_WORKERS", "0")
        .env("TURNKEY_MAX_CONNECTION_AGE", "10ms")
        .env("TURNKEY_DATABASE_MAX_CONNECTIONS", "0")
        .env("TURNKEY_MAX_PACKAGES_PER_TENANT", "0")
        .env("TURNKEY_MAX_SEGMENTS_PER_TENANT", "many")
        .env("TURNKEY_KEY_MODE", "prod")
        .env("TURNKEY_LOG_FORMAT", "xml")
        .env("RUST_LOG", "turnkey[rpc]=debug")
        .env("DATABASE_URL", "mysql://root:hunter2@localhost/x")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/xml")
        .env("OTEL_EXPORTER_PROMETHEUS_PORT", "metrics")
        .env("OTEL_TRACES_SAMPLER", "sometimes")
        .args(["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca", "ca.pem"])
        .args(["--tokens-file", "tokens.toml"])
        .output()
        .unwrap();
    assert_eq!(error.status.code(), Some(2));
    let stderr = String::from_utf8(error.stderr).unwrap();
    for setting in [
        "TURNKEY_LISTEN",
        "TURNKEY_KEY_ARGON2",
        "TURNKEY_DATABASE_MAX_CONNECTIONS",
        "TURNKEY_MAX_PACKAGES_PER_TENANT",
        "TURNKEY_MAX_SEGMENTS_PER_TENANT",
        "TURNKEY_KEY_MODE",
        "TURNKEY_LOG_FORMAT",
        "RUST_LOG: filters of spans are not supported",
        "TURNKEY_RATE_LIMIT_PER_CALLER",
        "TURNKEY_MAX_CONNECTION_AGE",
        "TURNKEY_HASHING_WORKERS",
        "DATABASE_URL",
        "TURNKEY_TLS_CERT: cannot read cert.pem",
        "TURNKEY_TLS_KEY: cannot read key.pem",
        "TURNKEY_TLS_CLIENT_CA: cannot read ca.pem",
        "TURNKEY_TOKENS_FILE: cannot read tokens.toml",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "OTEL_TRACES_SAMPLER",
    ] {
        assert!(stderr.contains(setting), "{setting} is missing in:\n{stderr}");
    }
    assert!(!stderr.contains("hunter2"));
}

#[test]
fn a_directory_without_postgres_is_reported_with_the_other_invalid_settings() {
    let folder = temp_folder();
    for command in ["serve", "migrate", "doctor"] {
        let error =
            turnkey(folder.path()).arg(command).env("PG_BIN", "/missing").env("TURNKEY_LOG_FORMAT", "xml").output();
        let error = error.unwrap();
        assert_eq!(error.status.code(), Some(2));
        let stderr = String::from_utf8(error.stderr).unwrap();
        assert!(stderr.contains("PG_BIN: /missing") && stderr.contains("TURNKEY_LOG_FORMAT"), "{stderr}");
    }
    assert!(!folder.path().join(".turnkey").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_listens_on_a_host_name_and_reads_the_database_url_from_a_file() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let file = folder.path().join("url");
    fs::write(&file, database_url(&database.server) + "\n").unwrap();
    let mut process = Process::start(
        turnkey(folder.path())
            .args(["serve", "--listen", "localhost:0", "--health-listen", "localhost:0"])
            .env("DATABASE_URL_FILE", &file),
    );
    let address = process.address();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let address = address.replace("127.0.0.1", "localhost");
    let healthcheck = turnkey(folder.path()).args(["healthcheck", "--listen", &address]).status().unwrap();
    assert!(healthcheck.success());
}

#[test]
fn an_unusable_file_with_the_database_url_is_reported() {
    let folder = temp_folder();
    fs::write(folder.path().join("url"), "mysql://root:hunter2@localhost/x\n").unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    for (file, expected) in [
        ("url", "must begin with postgres://"),
        ("empty", "must begin with postgres://"),
        ("missing", "cannot read missing"),
    ] {
        let error = turnkey(folder.path()).arg("migrate").env("DATABASE_URL_FILE", file).output().unwrap();
        assert_eq!(error.status.code(), Some(2));
        let stderr = String::from_utf8(error.stderr).unwrap();
        assert!(stderr.contains(&format!("DATABASE_URL_FILE: {expected}")), "{stderr}");
        assert!(!stderr.contains("hunter2"));
    }
}

#[test]
fn every_command_with_a_database_reports_its_file_together_with_other_settings() {
    let folder = temp_folder();
    let commands: [&[&str]; 5] = [
        &["serve"],
        &["migrate"],
        &["doctor"],
        &["import", "tenants.csv", "--out", "keys.csv"],
        &["purge", "--older-than", "30d"],
    ];
    for arguments in commands {
        let mut command = turnkey(folder.path());
        command.args(arguments).env("DATABASE_URL_FILE", "missing").env("TURNKEY_LOG_FORMAT", "xml");
        let error = command.output().unwrap();
        assert_eq!(error.status.code(), Some(2), "{arguments:?}");
        let stderr = String::from_utf8(error.stderr).unwrap();
        assert!(stderr.contains("DATABASE_URL_FILE: cannot read missing"), "{arguments:?}: {stderr}");
        assert!(stderr.contains("TURNKEY_LOG_FORMAT: must be"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn an_empty_variable_for_the_database_counts_as_unset() {
    let folder = temp_folder();
    fs::write(folder.path().join("url"), "mysql://localhost/x").unwrap();
    let mut command = turnkey(folder.path());
    command.arg("migrate").env("DATABASE_URL", "").env("DATABASE_URL_FILE", "url");
    assert!(String::from_utf8(command.output().unwrap().stderr).unwrap().contains("must begin with postgres://"));
    let mut command = turnkey(folder.path());
    command.arg("migrate").env("DATABASE_URL", "mysql://localhost/x").env("DATABASE_URL_FILE", "");
    assert!(String::from_utf8(command.output().unwrap().stderr).unwrap().contains("must begin with postgres://"));
}

#[test]
fn a_flag_for_the_database_url_overrides_both_variables() {
    let folder = temp_folder();
    fs::write(folder.path().join("url"), "postgres://x@127.0.0.1:1/from-the-file").unwrap();
    let migrate = |flags: &[&str]| {
        let mut command = turnkey(folder.path());
        command.arg("migrate").args(flags).env("DATABASE_URL", "mysql://variable").env("DATABASE_URL_FILE", "missing");
        let error = command.output().unwrap();
        (error.status.code(), String::from_utf8(error.stderr).unwrap())
    };
    let (code, stderr) = migrate(&[]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("set only one of DATABASE_URL and DATABASE_URL_FILE"), "{stderr}");
    for flags in [["--database-url", "postgres://x@127.0.0.1:1/x"], ["--database-url-file", "url"]] {
        let (code, stderr) = migrate(&flags);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("cannot reach the database"), "{stderr}");
    }
}

#[test]
fn a_token_for_other_imports_does_not_prevent_one_into_the_database() {
    let folder = temp_folder();
    let import = |flags: &[&str]| {
        let mut command = turnkey(folder.path());
        command.args(["import", "tenants.csv", "--out", "keys.csv", "--database-url", "mysql://x"]).args(flags);
        let error =
            if flags.is_empty() { command.env("TURNKEY_TOKEN", "svc_x") } else { &mut command }.output().unwrap();
        assert_eq!(error.status.code(), Some(2));
        String::from_utf8(error.stderr).unwrap()
    };
    let with_variable = import(&[]);
    assert!(with_variable.contains("DATABASE_URL: must begin") && !with_variable.contains("token"), "{with_variable}");
    assert!(import(&["--token", "svc_x"]).contains("TURNKEY_TOKEN: needs --server"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_reported_before_a_postgres_is_started() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = temp_folder();
    let address = listener.local_addr().unwrap().to_string();
    let error = turnkey(folder.path()).args(["--listen", &address]).output().unwrap();
    assert_eq!(error.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&error.stderr).contains(&address));
    assert!(!folder.path().join(".turnkey").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_role_with_more_privileges_than_needed_is_reported_at_start() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(&mut serve(folder.path(), &database.superuser));
    let line = process.wait_for("more privileges than it needs");
    assert!(line.contains("is a superuser"), "{line}");
}
