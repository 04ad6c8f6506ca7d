//! The limits of HTTP: sizes of heads and bodies, memory once parsed, times and connections.

use std::{convert::Infallible, time::Duration};

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{body::Frame, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use turnkey::config::{Bounds, ServerSettings};

use crate::support::{
    fixture::{Fixture, settings, with_http},
    http1::{Http, Received},
    requests::named,
};

const LIST: &str = "/turnkey.v1.TenantProvisioning/ListTenants";
const CREATE: &str = "/api/v1/admin/tenants";
const BATCH: &str = "/turnkey.v1.PackageCatalog/BatchUpsertPackages";
/// What does not happen within this time never happens.
const END_TIMEOUT: Duration = Duration::from_secs(20);

async fn start_with(bounds: Bounds) -> (Fixture, Http) {
    let fixture = Fixture::with_settings(ServerSettings { bounds, ..with_http(settings()) }).await;
    let http = fixture.http();
    (fixture, http)
}

/// JSON of this length.
fn padded(length: usize) -> Bytes {
    format!("{{{}}}", " ".repeat(length - 2)).into()
}

async fn post(http: Http, path: &str, body: Bytes) -> Received {
    http.send(Request::post(path).header("content-type", "application/json").body(body).unwrap()).await
}

#[tokio::test]
async fn a_body_above_the_limit_of_its_rpc_is_refused_and_the_client_sees_why() {
    let (_fixture, http) = start_with(Bounds::default()).await;
    let (small, large) = (256 * 1024, 4 * 1024 * 1024);
    assert_eq!(post(http, LIST, padded(small)).await.status, StatusCode::OK);
    assert_ne!(post(http, BATCH, padded(large)).await.status, StatusCode::TOO_MANY_REQUESTS);
    // Far more than the buffers of both sockets, so that the client is still sending when the server refuses.
    for (path, length) in [(LIST, small + 1), (LIST, 3 * 1024 * 1024), (BATCH, large + 1), (BATCH, 7 * 1024 * 1024)] {
        let refused = post(http, path, padded(length)).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{path} {length}");
        assert_eq!(refused.json()["code"], "resource_exhausted");
    }
    for length in [small + 1, 3 * 1024 * 1024] {
        let refused = post(http, CREATE, padded(length)).await;
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(refused.json()["error"], "PAYLOAD_TOO_LARGE");
    }
    // Refused before it is received.
    let wrong_type = Request::post(LIST).header("content-type", "text/plain").body(padded(3 * 1024 * 1024)).unwrap();
    assert_eq!(http.send(wrong_type).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn json_that_grows_when_it_is_parsed_is_refused() {
    let (fixture, http) = start_with(Bounds::default()).await;
    let tenant = fixture.tenant("bella").await;
    let items = format!(r#"{{"packages": [{}{{}}]}}"#, "{},".repeat(1_000_000));
    let refused = post(http, BATCH, items.into()).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("resource_exhausted"))
    );
    let deep = format!(r#"{{"tenantId": "{}", "branding": {}1{}}}"#, tenant.id, r#"{"a":"#.repeat(40), "}".repeat(40));
    let refused = post(http, "/turnkey.v1.TenantProvisioning/UpdateTenant", deep.into()).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_argument")));
    // Text is not counted.
    let brackets = json!({ "slug": "[{,".repeat(20_000) });
    assert_eq!(
        http.post("/turnkey.v1.TenantProvisioning/GetTenant", &brackets).await.json()["code"],
        "invalid_argument"
    );
}

#[tokio::test]
async fn the_largest_branding_and_the_largest_batch_are_accepted() {
    let (fixture, http) = start_with(Bounds::default()).await;
    let tenant = fixture.tenant("bella").await;
    let numbers: Vec<u32> = (0..1_900).collect();
    let nested = (0..12).fold(json!(numbers), |inner, _| json!({ "a": inner }));
    let update = json!({ "tenantId": tenant.id, "branding": { "colors": nested } });
    let updated = http.post("/turnkey.v1.TenantProvisioning/UpdateTenant", &update).await;
    assert_eq!(updated.status, StatusCode::OK, "{updated:?}");
    assert!(updated.json()["tenant"]["branding"]["colors"] == update["branding"]["colors"]);
    let package = |number: usize| {
        json!({
            "slug": format!("gold-{number}"), "name": "Gold", "title": "Gold", "description": "x", "basePrice": 1,
            "priceCents": 1, "bookingType": "BOOKING_TYPE_DATE", "active": true, "groupingOrder": number,
        })
    };
    let batch = json!({ "tenantId": tenant.id, "packages": (0..500).map(package).collect::<Vec<Value>>() });
    assert_eq!(http.post(BATCH, &batch).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_head_above_16_kib_is_refused() {
    let (_fixture, http) = start_with(Bounds::default()).await;
    let with_header = async |length: usize| {
        let request =
            format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: {}\r\n\r\n", "a".repeat(length));
        http.send_bytes(request.as_bytes()).await
    };
    assert!(with_header(15 * 1024).await.starts_with("HTTP/1.1 200 "));
    assert!(with_header(17 * 1024).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    assert!(http.send_bytes(many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn bytes_that_are_not_http_close_the_connection() {
    let (_fixture, http) = start_with(Bounds::default()).await;
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"hello\r\n\r\n"]
    {
        let response = http.send_bytes(bytes).await;
        assert!(
            response.is_empty() || response.starts_with("HTTP/1.1 400 ") || response.starts_with("HTTP/1.1 505 "),
            "{response}"
        );
    }
    // Both lengths: the request of a smuggler.
    let smuggled = "POST /livez HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let response = http.send_bytes(smuggled.as_bytes()).await;
    assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");
}

/// Opens a connection, sends this and waits until the server closes it. Returns what the server sent.
async fn sent_until_closed(http: Http, bytes: &str) -> String {
    let sent = timeout(END_TIMEOUT, http.send_bytes(bytes.as_bytes()));
    sent.await.expect("the server closes the connection")
}

#[tokio::test]
async fn a_connection_that_sends_no_request_or_an_unfinished_head_is_closed() {
    let bounds = Bounds { http1_head_timeout: Duration::from_millis(300), ..Bounds::default() };
    let (_fixture, http) = start_with(bounds).await;
    sent_until_closed(http, "").await;
    sent_until_closed(http, "GET /livez HT").await;
    sent_until_closed(http, "GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ").await;
    let kept_alive = sent_until_closed(http, "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(kept_alive.starts_with("HTTP/1.1 200 "), "{kept_alive}");
}

#[tokio::test]
async fn a_head_that_arrives_byte_by_byte_has_the_same_time() {
    let bounds = Bounds { http1_head_timeout: Duration::from_millis(300), ..Bounds::default() };
    let (_fixture, http) = start_with(bounds).await;
    let mut socket = TcpStream::connect(http.address).await.unwrap();
    socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ").await.unwrap();
    let drip = async {
        let mut received = [0; 1024];
        // Each byte comes long before the time is up.
        while timeout(Duration::from_millis(20), socket.read(&mut received)).await.is_err() {
            // Fails once the server has closed the connection.
            let _ = socket.write_all(b"x").await;
        }
    };
    timeout(END_TIMEOUT, drip).await.expect("the server closes the connection");
}

#[tokio::test]
async fn a_connection_is_closed_at_its_maximum_age() {
    let short_lived = ServerSettings { max_connection_age: Duration::from_millis(300), ..with_http(settings()) };
    let fixture = Fixture::with_settings(short_lived).await;
    let response = sent_until_closed(fixture.http(), "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_in_time_ends_with_an_error() {
    let bounds = Bounds { message_timeout: Duration::from_millis(300), ..Bounds::default() };
    let (fixture, http) = start_with(bounds).await;
    let request = format!(
        "POST {LIST} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    let response = sent_until_closed(http, &request).await;
    assert!(response.starts_with("HTTP/1.1 504 ") && response.contains("deadline_exceeded"), "{response}");
    fixture.create(named("bella")).await.unwrap();
}

#[tokio::test]
async fn unfinished_bodies_are_limited_and_leave_room_for_finished_ones() {
    let bounds = Bounds { message_timeout: Duration::from_mins(10), incomplete_messages: 4, ..Bounds::default() };
    let (_fixture, http) = start_with(bounds).await;
    let mut held = Vec::new();
    let mut refused = 0;
    // Without credentials all callers are one, which may use all of the limit.
    while refused == 0 {
        let mut socket = TcpStream::connect(http.address).await.unwrap();
        let request = format!(
            "POST {LIST} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut received = [0; 12];
        match timeout(Duration::from_secs(if held.len() < 4 { 1 } else { 20 }), socket.read_exact(&mut received)).await
        {
            Err(_waits) => held.push(socket),
            Ok(result) => {
                result.unwrap();
                assert_eq!(&received, b"HTTP/1.1 429");
                refused += 1;
            }
        }
        assert!(held.len() <= 4);
    }
    assert_eq!(held.len(), 4);
    assert_eq!(post(http, LIST, "{}".into()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn one_address_can_open_as_many_connections_as_with_grpc() {
    let few = ServerSettings { max_connections: 8, max_connections_per_address: Some(4), ..with_http(settings()) };
    let fixture = Fixture::with_settings(few).await;
    let http = fixture.http();
    // The client of gRPC has one of them.
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(http.address).await.unwrap();
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut received = [0; 12];
        socket.read_exact(&mut received).await.unwrap();
        open.push(socket);
    }
    assert_eq!(http.send_bytes(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await, "");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_response_is_disconnected() {
    let bounds = Bounds { response_timeout: Duration::from_millis(300), ..Bounds::default() };
    let (fixture, http) = start_with(bounds).await;
    let tenant = fixture.tenant("bella").await;
    let packages: Vec<Value> = (0..400)
        .map(|number| json!({ "slug": format!("gold-{number}"), "name": "Gold", "basePrice": 1, "description": "é".repeat(2_000) }))
        .collect();
    assert_eq!(http.post(BATCH, &json!({ "tenantId": tenant.id, "packages": packages })).await.status, StatusCode::OK);
    let list = json!({ "tenantId": tenant.id, "pageSize": 500 }).to_string();
    let request = format!(
        "POST /turnkey.v1.PackageCatalog/ListPackages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{list}",
        list.len()
    );
    // More than fits into the buffers of the sockets.
    let mut socket = TcpStream::connect(http.address).await.unwrap();
    for _ in 0..8 {
        // Fails once the server has closed the connection.
        let _ = socket.write_all(request.as_bytes()).await;
    }
    let closed = async {
        // A write fails when the peer is gone, without reading.
        while socket.write_all(b"\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(END_TIMEOUT, closed).await.expect("the server closes the connection");
    // The permits are free again.
    assert_eq!(http.post(LIST, &json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_of_unknown_length_is_received_like_any_other() {
    let (_fixture, http) = start_with(Bounds::default()).await;
    let socket = TcpStream::connect(http.address).await.unwrap();
    let (mut client, connection) = handshake(TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    let chunks = ["{\"slug\": \"bel", "la\", \"name\":", "\"Bella\"}"]
        .map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::from(chunk))));
    let body = StreamBody::new(futures_util::stream::iter(chunks));
    let request = Request::post(CREATE).header("host", "localhost").header("content-type", "application/json");
    let response = client.send_request(request.body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
    connection.abort();
}
