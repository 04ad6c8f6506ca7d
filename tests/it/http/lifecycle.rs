//! The HTTP address of `serve`: health, versions of HTTP, TLS, shutdown and settings.

use std::{
    fs,
    time::{Duration, Instant},
};

use h2::client::Builder;
use http::{Request, StatusCode};
use nix::sys::signal::Signal;
use prost::bytes::Bytes;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    certificate::{SERVER_NAME, SelfSigned},
    database::{Cluster, TestDatabase},
    fixture::{Fixture, settings, with_http},
    http1::{Http, send_over},
    http2::Port,
    process::{Process, serve, temp_folder, turnkey},
};

const LIST: &str = "/turnkey.v1.TenantProvisioning/ListTenants";
const CREATE: &str = "/api/v1/admin/tenants";

#[tokio::test]
async fn readiness_follows_the_database_and_liveness_the_process() {
    let fixture = Fixture::start_with(TestDatabase::unreachable(), with_http(settings())).await;
    let ready = fixture.http().get("/healthz").await;
    assert_eq!((ready.status, ready.json()), (StatusCode::SERVICE_UNAVAILABLE, json!({ "status": "NOT_SERVING" })));
    let live = fixture.http().get("/livez").await;
    assert_eq!((live.status, live.json()), (StatusCode::OK, json!({ "status": "SERVING" })));

    let fixture = Fixture::with_settings(with_http(settings())).await;
    while fixture.http().get("/healthz").await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn http_is_not_served_by_default_and_grpc_alone_on_the_address_of_grpc() {
    let fixture = Fixture::start().await;
    assert!(fixture.server.http_address.is_none());
    let grpc = Http { address: fixture.server.address };
    assert_eq!(grpc.send_bytes(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_served_without_tls_and_with_it_beside_http_1() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let certificate = SelfSigned::new(SERVER_NAME);
    fs::write(folder.path().join("cert.pem"), &certificate.certificate).unwrap();
    fs::write(folder.path().join("key.pem"), &certificate.key).unwrap();
    let start = |arguments: &[&str]| {
        let mut command = serve(folder.path(), &database.server);
        Process::start(command.args(["--http-listen", "127.0.0.1:0"]).args(arguments))
    };
    let post = |scheme: &str| {
        let request = Request::post(format!("{scheme}://localhost{LIST}"));
        request.header("content-type", "application/json").body(()).unwrap()
    };
    let call = async |port: &Port, scheme: &str| {
        let connection = port.http2(&Builder::new()).await.unwrap();
        let mut requests = connection.requests.clone().ready().await.unwrap();
        let (response, mut body) = requests.send_request(post(scheme), false).unwrap();
        body.send_data("{}".into(), true).unwrap();
        response.await.unwrap().status()
    };
    let mut plaintext = start(&[]);
    let address = plaintext.http().address;
    assert_eq!(call(&Port { address, tls: None }, "http").await, StatusCode::OK);

    let mut encrypted = start(&["--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
    let address = encrypted.http().address;
    let http_2 = Port { address, tls: Some(certificate.connector(None)) };
    assert_eq!(call(&http_2, "https").await, StatusCode::OK);
    let http_1 = Port { address, tls: Some(certificate.connector_of(&[b"http/1.1"], None)) };
    let request = Request::post(LIST).header("content-type", "application/json").body(Bytes::from("{}")).unwrap();
    assert_eq!(send_over(http_1.connect().await.unwrap(), request).await.status, StatusCode::OK);
    // In plaintext nothing is served.
    let plain = Http { address }.send_bytes(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(!plain.contains("200"), "{plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_the_calls_in_progress_and_closes_idle_connections() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(serve(folder.path(), &database.server).args(["--http-listen", "127.0.0.1:0"]));
    let http = process.http();
    // One sends nothing, one waits between its requests, one is in the middle of a request.
    let silent = TcpStream::connect(http.address).await.unwrap();
    let mut idle = TcpStream::connect(http.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert_ne!(idle.read(&mut [0; 1024]).await.unwrap(), 0);
    let create = json!({ "slug": "bella", "name": "Bella" }).to_string();
    let (first, rest) = create.split_at(5);
    let mut busy = TcpStream::connect(http.address).await.unwrap();
    let head = format!(
        "POST {CREATE} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        create.len()
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 12];
    busy.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100", "the server has begun to receive the body");
    busy.write_all(first.as_bytes()).await.unwrap();

    process.signal(Signal::SIGTERM);
    let signalled = Instant::now();
    process.wait_for("Stopping");
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty(), "closed");
    busy.write_all(rest.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    busy.read_to_end(&mut response).await.unwrap();
    let response = String::from_utf8(response).unwrap();
    assert!(response.contains("HTTP/1.1 201 ") && response.contains("connection: close"), "{response}");
    let status = tokio::task::spawn_blocking(move || process.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(25), "the documented limit");
    drop(silent);
}

#[tokio::test]
async fn invalid_settings_of_http_are_reported_together() {
    let folder = temp_folder();
    let mut command = turnkey(folder.path());
    command.args(["serve", "--http-listen", "8080", "--http-allowed-origins", "https://a.example,https://b.example/"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("TURNKEY_HTTP_LISTEN: must be an address"), "{stderr}");
    assert!(stderr.contains("TURNKEY_HTTP_ALLOWED_ORIGINS: must be origins without a path"), "{stderr}");
    let output = turnkey(folder.path()).args(["serve", "--http-listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("TURNKEY_HTTP_LISTEN: callers need no credential"), "{stderr}");
}
