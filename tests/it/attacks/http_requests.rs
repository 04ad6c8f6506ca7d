//! Requests that are not gRPC. A form in a browser that has a client certificate must not create a tenant.

use h2::client::Builder;
use http::{Method, Request, Response, StatusCode};
use prost::Message as _;
use tonic::Code;

use super::{
    call::{Call, CallEnd},
    rpcs,
    target::{CLIENT_NAME, Protocol, Setup, Target},
};
use crate::support::{
    certificate::SelfSigned,
    http2::{CREATE_PATH, Http2, Port, framed},
    requests::named,
};

const SLUG: &str = "created-by-a-form";
const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// The first three are those of forms, which a browser sends to any server without its consent.
const CONTENT_TYPES: [Option<&str>; 6] = [
    Some("application/x-www-form-urlencoded"),
    Some("multipart/form-data; boundary=x"),
    Some("text/plain"),
    Some("application/json"),
    Some("application/proto"),
    None,
];

/// Sends a complete request whose body would create a tenant.
async fn send(
    connection: &Http2,
    method: &Method,
    path: &str,
    content_type: Option<&str>,
    token: Option<&str>,
) -> Response<()> {
    let mut request = Request::builder().method(method).uri(format!("https://turnkey{path}"));
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut requests = connection.requests.clone().ready().await.unwrap();
    let (response, mut body) = requests.send_request(request.body(()).unwrap(), false).unwrap();
    // Fails if the response is complete already.
    let _ = body.send_data(framed(&named(SLUG).encode_to_vec()), true);
    response.await.unwrap().map(drop)
}

async fn assert_only_grpc_is_served(target: &Target, port: &Port, token: Option<&str>, paths: &[String]) {
    let connection = port.http2(&Builder::new()).await.unwrap();
    for path in paths {
        for method in &METHODS {
            // The method decides before the content type.
            for content_type in [None, Some("application/grpc")] {
                let response = send(&connection, method, path, content_type, token).await;
                assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path} {content_type:?}");
                assert_eq!(response.headers()["allow"], "POST", "{method} {path}");
            }
        }
        for content_type in CONTENT_TYPES {
            let response = send(&connection, &Method::POST, path, content_type, token).await;
            assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path} {content_type:?}");
        }
    }
    assert_eq!(target.count("SELECT count(*) FROM tenants WHERE slug = 'created-by-a-form'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_post_requests_of_grpc_are_served() {
    let target = Target::start(Protocol::Plaintext).await;
    let token = target.platform_token.as_deref();
    assert_only_grpc_is_served(&target, &target.service, token, &rpcs::all()).await;
    assert_only_grpc_is_served(&target, &target.service, None, &["/".to_owned(), "/unknown".to_owned()]).await;
    assert_only_grpc_is_served(&target, &target.health, None, &rpcs::health()).await;
    target.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_a_browser_with_a_client_certificate_creates_no_tenant() {
    let operator = SelfSigned::new(CLIENT_NAME);
    let setup = Setup { protocol: Protocol::Tls, client: Some(&operator), ..Setup::default() };
    let target = Target::start_with(&setup).await;
    let port = target.service_for(&operator);
    assert_only_grpc_is_served(&target, &port, None, &[CREATE_PATH.to_owned()]).await;
    let connection = port.http2(&Builder::new()).await.unwrap();
    // The certificate is accepted.
    let create = Call::complete(CREATE_PATH, None, &named(SLUG).encode_to_vec());
    assert_eq!(create.make(connection.requests.clone(), ()).await, CallEnd::Status(Code::Ok));
    target.stop();
}
