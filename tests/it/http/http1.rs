//! Details of HTTP/1: pipelines, hosts, the ends of bodies, `Expect` and `Upgrade`.

use http::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    fixture::{Fixture, settings, with_http},
    http1::{Http, request},
};

const LIST: &str = "/turnkey.v1.TenantProvisioning/ListTenants";
const CREATE: &str = "/api/v1/admin/tenants";

async fn start() -> (Fixture, Http) {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    let http = fixture.http();
    (fixture, http)
}

/// The statuses of the responses in what a connection received.
fn statuses(received: &str) -> Vec<&str> {
    let after_version = received.split("HTTP/1.").skip(1).filter_map(|response| response.get(2..5));
    after_version.filter(|status| status.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// The head of a request that creates a tenant, without its end.
fn create_head(headers: &str) -> String {
    format!("POST {CREATE} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\r\n")
}

#[tokio::test]
async fn pipelined_requests_get_their_responses_in_order() {
    let (_fixture, http) = start().await;
    let paths = ["/livez", "/unknown"].repeat(400);
    let head = |path: &&str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let requests: String = paths.iter().map(head).collect();
    let last = "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut socket = TcpStream::connect(http.address).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let send = async {
        writer.write_all(requests.as_bytes()).await.unwrap();
        writer.write_all(last.as_bytes()).await.unwrap();
    };
    let mut received = String::new();
    let ((), result) = tokio::join!(send, reader.read_to_string(&mut received));
    result.unwrap();
    assert_eq!(statuses(&received), [&["200", "404"].repeat(400)[..], &["200"]].concat());
}

#[tokio::test]
async fn a_head_request_has_no_body() {
    let (_fixture, http) = start().await;
    let head = http.send(request(http::Method::HEAD, "/livez")).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn a_request_has_one_host_and_every_host_that_it_names_is_checked() {
    let (_fixture, http) = start().await;
    let status = async |head: &str| {
        let received = http.send_bytes(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await;
        statuses(&received).concat()
    };
    assert_eq!(status("GET /livez HTTP/1.1").await, "400");
    assert_eq!(status("GET /livez HTTP/1.1\r\nhost: localhost\r\nhost: localhost").await, "400");
    assert_eq!(status("GET /livez HTTP/1.0").await, "200");
    assert_eq!(status("GET http://localhost/livez HTTP/1.1\r\nhost: localhost").await, "200");
    assert_eq!(status("GET http://evil.example/livez HTTP/1.1\r\nhost: localhost").await, "403");
    assert_eq!(status("GET http://localhost/livez HTTP/1.1\r\nhost: evil.example").await, "403");
    assert_eq!(status("OPTIONS * HTTP/1.1\r\nhost: localhost").await, "404");
    assert_eq!(status("CONNECT localhost:80 HTTP/1.1\r\nhost: localhost").await, "404");
}

#[tokio::test]
async fn a_request_to_change_the_protocol_is_ignored() {
    let (_fixture, http) = start().await;
    for protocol in ["h2c", "websocket"] {
        let upgrade = format!(
            "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings, close\r\nupgrade: {protocol}\r\n\
             http2-settings: AAMAAABkAAQAAP__\r\n\r\n"
        );
        assert_eq!(statuses(&http.send_bytes(upgrade.as_bytes()).await), ["200"], "{protocol}");
    }
}

#[tokio::test]
async fn a_body_that_is_shorter_than_announced_creates_nothing() {
    let (fixture, http) = start().await;
    let body = json!({ "slug": "bella", "name": "Bella" }).to_string();
    let announced = body.len() + 1;
    let mut socket = TcpStream::connect(http.address).await.unwrap();
    let request = create_head(&format!("content-length: {announced}\r\n")) + &body;
    socket.write_all(request.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut received = String::new();
    // The server may reset the connection.
    let _ = socket.read_to_string(&mut received).await;
    assert!(!received.contains(" 201 "), "{received}");
    assert_eq!(fixture.count("tenants").await, 0);
}

#[tokio::test]
async fn what_follows_a_body_is_the_next_request() {
    let (_fixture, http) = start().await;
    let body = "{}";
    let request = format!(
        "POST {LIST} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}garbage\r\n\r\n",
        body.len()
    );
    assert_eq!(statuses(&http.send_bytes(request.as_bytes()).await), ["200", "400"]);
}

#[tokio::test]
async fn a_body_without_a_definite_end_creates_nothing() {
    let (fixture, http) = start().await;
    let body = json!({ "slug": "bella", "name": "Bella" }).to_string();
    let length = body.len();
    for (headers, body) in [
        (format!("content-length: {length}\r\ncontent-length: 5\r\n"), body.clone()),
        ("content-length: -1\r\n".to_owned(), body.clone()),
        ("transfer-encoding: chunked, gzip\r\n".to_owned(), format!("{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked\r\n".to_owned(), format!("z\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked\r\n".to_owned(), format!("ffffffffffffffffff\r\n{body}\r\n0\r\n\r\n")),
        (
            "transfer-encoding: chunked\r\n".to_owned(),
            format!("{length:x};{}\r\n{body}\r\n0\r\n\r\n", "x".repeat(64 * 1024)),
        ),
    ] {
        let received = http.send_bytes((create_head(&headers) + &body).as_bytes()).await;
        assert!(!received.contains(" 201 "), "{headers}: {received}");
    }
    assert_eq!(fixture.count("tenants").await, 0);
}

#[tokio::test]
async fn a_client_that_waits_before_its_body_sends_it_only_if_the_request_is_accepted() {
    let (_fixture, http) = start().await;
    let first_status = async |head: &str| {
        let mut socket = TcpStream::connect(http.address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut received = [0; 12];
        socket.read_exact(&mut received).await.unwrap();
        String::from_utf8(received.to_vec()).unwrap()
    };
    let expecting = |length: usize| create_head(&format!("content-length: {length}\r\nexpect: 100-continue\r\n"));
    assert_eq!(first_status(&expecting(100)).await, "HTTP/1.1 100");
    assert_eq!(first_status(&expecting(256 * 1024 + 1)).await, "HTTP/1.1 413");
    assert_eq!(first_status(&expecting(100).replace("/json", "/xml")).await, "HTTP/1.1 415");
    assert_eq!(first_status(&expecting(100).replace("localhost", "evil.example")).await, "HTTP/1.1 403");
}

#[tokio::test]
async fn a_client_that_reads_only_after_it_has_sent_its_body_sees_why_it_is_refused() {
    let (_fixture, http) = start().await;
    // Far more than the buffers of both sockets.
    let body = vec![b' '; 6 * 1024 * 1024];
    let mut socket = TcpStream::connect(http.address).await.unwrap();
    socket.write_all(create_head(&format!("content-length: {}\r\n", body.len())).as_bytes()).await.unwrap();
    socket.write_all(&body).await.unwrap();
    let mut received = [0; 12];
    socket.read_exact(&mut received).await.unwrap();
    assert_eq!(str::from_utf8(&received).unwrap(), "HTTP/1.1 413");
}
