//! Requests that are refused before an RPC is called: their paths, methods and content types.

use http::{Method, Request, StatusCode};
use prost::bytes::Bytes;
use serde_json::json;

use crate::support::{
    fixture::{Fixture, settings, with_http},
    http1::{Http, request},
};

const UNARY: &str = "/turnkey.v1.TenantProvisioning/CreateFullyProvisioned";
const STREAM: &str = "/turnkey.v1.TenantProvisioning/CheckIntegrity";
const CREATE: &str = "/api/v1/admin/tenants";
const SIGN_UP: &str = "/v1/auth/signup";

async fn start() -> (Fixture, Http) {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    let http = fixture.http();
    (fixture, http)
}

#[tokio::test]
async fn an_unknown_path_is_404() {
    let (_fixture, http) = start().await;
    for path in [
        "/",
        "/turnkey.v1.TenantProvisioning",
        "/turnkey.v1.TenantProvisioning/",
        "/turnkey.v1.TenantProvisioning/DropEverything",
        "/turnkey.v2.TenantProvisioning/GetTenant",
        "/TURNKEY.v1.TenantProvisioning/GetTenant",
        "/api/v1/admin/tenants/",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        for response in [http.get(path).await, http.post(path, &json!({})).await] {
            assert_eq!(response.status, StatusCode::NOT_FOUND, "{path}");
            // What a Connect client makes of the status.
            assert_eq!(response.json()["code"], "unimplemented");
        }
    }
}

#[tokio::test]
async fn another_method_is_405_and_names_the_methods_that_are_supported() {
    let (_fixture, http) = start().await;
    for path in [UNARY, STREAM, CREATE, SIGN_UP] {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let response = http.send(request(method.clone(), path)).await;
            assert_eq!(
                (response.status, response.header("allow")),
                (StatusCode::METHOD_NOT_ALLOWED, Some("POST")),
                "{method} {path}"
            );
        }
    }
    for path in ["/healthz", "/livez"] {
        let response = http.post(path, &json!({})).await;
        assert_eq!((response.status, response.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, Some("GET, HEAD")));
    }
    let error = http.get(CREATE).await.json();
    assert_eq!(
        (&error["status"], &error["statusCode"], &error["error"]),
        (&json!("error"), &json!(405), &json!("METHOD_NOT_ALLOWED"))
    );
}

#[tokio::test]
async fn another_content_type_is_415_and_creates_nothing() {
    let (fixture, http) = start().await;
    let create = json!({ "slug": "created-by-a-form", "name": "Bella" }).to_string();
    // A browser sends the first three to any site without asking.
    for content_type in [
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data; boundary=x"),
        Some("text/plain"),
        Some("application/json; charset=utf-16"),
        Some("application/jsonx"),
        Some("application/grpc"),
        Some("application/grpc+proto"),
        Some("application/connect+json"),
        Some(""),
        None,
    ] {
        for path in [UNARY, CREATE, SIGN_UP] {
            let mut post = Request::post(path);
            if let Some(content_type) = content_type {
                post = post.header("content-type", content_type);
            }
            let response = http.send(post.body(Bytes::from(create.clone())).unwrap()).await;
            assert_eq!(response.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path} {content_type:?}");
            assert!(response.header("accept-post").unwrap().contains("application/json"));
        }
    }
    let unary_type = http.post(STREAM, &json!({})).await;
    assert_eq!(unary_type.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "a stream has content types of its own");
    assert_eq!(fixture.count("tenants").await, 0);
    for content_type in ["application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\"", "application/json"] {
        let post = Request::post(UNARY).header("content-type", content_type);
        let body = json!({ "slug": "bella", "name": "Bella", "validateOnly": true }).to_string();
        assert_eq!(http.send(post.body(body.into()).unwrap()).await.status, StatusCode::OK, "{content_type}");
    }
}

#[tokio::test]
async fn a_compressed_request_of_the_platform_is_415() {
    let (_fixture, http) = start().await;
    let response = http.post_with(CREATE, &json!({}), &[("content-encoding", "gzip")]).await;
    assert_eq!(
        (response.status, response.header("accept-encoding")),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("identity"))
    );
}
