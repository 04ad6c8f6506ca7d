//! Pages in browsers: which origins may call, and the protection against rebound host names.

use http::{Method, Request, StatusCode};
use prost::bytes::Bytes;
use serde_json::json;
use turnkey::config::ServerSettings;

use crate::support::{
    fixture::{Fixture, settings, with_http},
    http1::{Http, Received},
};

const PAGE: &str = "https://admin.example.com";
const PATHS: [&str; 6] = [
    "/mcp",
    "/turnkey.v1.TenantProvisioning/ListTenants",
    "/api/v1/admin/tenants",
    "/v1/auth/signup",
    "/healthz",
    "/unknown",
];

async fn start_with_page() -> (Fixture, Http) {
    let settings = ServerSettings { http_allowed_origins: vec![PAGE.parse().unwrap()], ..with_http(settings()) };
    let fixture = Fixture::with_settings(settings).await;
    let http = fixture.http();
    (fixture, http)
}

async fn send(http: Http, method: Method, path: &str, headers: &[(&str, &str)]) -> Received {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    http.send(request.body(Bytes::from("{}")).unwrap()).await
}

#[tokio::test]
async fn no_page_may_call_unless_its_origin_is_named() {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    for path in PATHS {
        for method in [Method::POST, Method::GET, Method::OPTIONS] {
            for origin in [PAGE, "null", "http://127.0.0.1:8080"] {
                let refused = send(fixture.http(), method.clone(), path, &[("origin", origin)]).await;
                assert_eq!(refused.status, StatusCode::FORBIDDEN, "{method} {path} {origin}");
                assert_eq!(refused.header("access-control-allow-origin"), None);
            }
        }
    }
    assert_eq!(fixture.count("tenants").await, 0);
    // In the form that the callers of the path read.
    for (path, code) in [("/api/v1/admin/tenants", &["error"][..]), (PATHS[0], &["code"])] {
        let error = send(fixture.http(), Method::POST, path, &[("origin", PAGE)]).await.json();
        assert!(code.iter().all(|name| error.get(name).is_some()), "{error}");
    }
}

#[tokio::test]
async fn a_page_of_a_named_origin_may_call_and_read_the_headers_it_needs() {
    let (_fixture, http) = start_with_page().await;
    let preflight = [
        ("origin", PAGE),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,idempotency-key"),
    ];
    for path in PATHS {
        let permitted = send(http, Method::OPTIONS, path, &preflight).await;
        assert_eq!(permitted.status, StatusCode::NO_CONTENT, "{path}");
        assert_eq!(permitted.header("access-control-allow-origin"), Some(PAGE));
        assert_eq!(permitted.header("vary"), Some("origin"));
        assert!(permitted.header("access-control-allow-methods").unwrap().contains("POST"));
        let allowed = permitted.header("access-control-allow-headers").unwrap();
        for header in
            ["authorization", "content-type", "connect-protocol-version", "connect-timeout-ms", "idempotency-key"]
        {
            assert!(allowed.contains(header), "{header}");
        }
        assert!(permitted.body.is_empty());
    }
    let create = json!({ "slug": "bella", "name": "Bella" });
    for expected in [StatusCode::CREATED, StatusCode::CONFLICT] {
        let response = http.post_with("/api/v1/admin/tenants", &create, &[("origin", PAGE)]).await;
        assert_eq!(response.status, expected);
        assert_eq!(response.header("access-control-allow-origin"), Some(PAGE));
        assert_eq!(response.header("access-control-allow-credentials"), None);
        let exposed = response.header("access-control-expose-headers").unwrap();
        assert!(
            ["retry-after", "grpc-retry-pushback-ms", "idempotent-replayed"].iter().all(|name| exposed.contains(name))
        );
    }
    let foreign = http.post_with("/api/v1/admin/tenants", &create, &[("origin", "https://evil.example")]).await;
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (StatusCode::FORBIDDEN, None));
    // Caches must not serve a response to another page.
    let without_origin = http.post("/api/v1/admin/tenants", &create).await;
    assert_eq!(without_origin.header("vary"), Some("origin"));
}

#[tokio::test]
async fn a_host_name_that_was_rebound_to_the_loopback_address_is_refused() {
    let (fixture, http) = start_with_page().await;
    for path in PATHS {
        for host in ["evil.example", "evil.example:8080", "192.0.2.1"] {
            // A page of that host is of the same origin: a GET has no Origin at all.
            let refused = send(http, Method::GET, path, &[("host", host)]).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path} {host}");
            let refused = send(http, Method::POST, path, &[("host", host), ("origin", PAGE)]).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path} {host}");
        }
    }
    assert_eq!(fixture.count("tenants").await, 0);
    for host in ["localhost", "127.0.0.1:8080", "[::1]:8080"] {
        assert_eq!(send(http, Method::GET, "/livez", &[("host", host)]).await.status, StatusCode::OK, "{host}");
    }
}
