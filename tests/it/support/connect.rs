//! A transport for the generated clients that speaks Connect over HTTP/1.1 in place of gRPC, so that tests written for
//! gRPC run over HTTP too. Messages are binary; tests of their own cover JSON.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::{Message as _, bytes::Bytes};
use prost_types::Any;
use serde_json::Value;
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt as _, util::BoxCloneSyncService};

use super::{
    http1::{Http, Received, try_send_over},
    http2::{Port, framed},
};

/// gRPC or Connect.
pub type Transport = BoxCloneSyncService<Request<Body>, Response<Body>, tonic::transport::Error>;

pub fn over_grpc(channel: Channel) -> Transport {
    Transport::new(channel)
}

pub fn over_connect(http: Http) -> Transport {
    over_connect_to(Port { address: http.address, tls: None })
}

pub fn over_connect_to(port: Port) -> Transport {
    Transport::new(Connect(port).map_err(|never| match never {}))
}

const STREAMING_RPCS: [&str; 2] = ["/CheckIntegrity", "/WatchEvents"];
const PREFIX_BYTES: usize = 5;
const END_STREAM: u8 = 2;

#[derive(Clone)]
struct Connect(Port);

impl Service<Request<Body>> for Connect {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let port = self.0.clone();
        Box::pin(async move { Ok(call(&port, request).await) })
    }
}

async fn call(port: &Port, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let message = body.collect().await.unwrap().to_bytes();
    let is_stream = STREAMING_RPCS.iter().any(|rpc| head.uri.path().ends_with(rpc));
    let (content_type, message) = if is_stream {
        ("application/connect+proto", message)
    } else {
        ("application/proto", message.slice(PREFIX_BYTES..))
    };
    let mut connect = Request::post(head.uri.path()).header(header::CONTENT_TYPE, content_type);
    connect = connect.header("connect-protocol-version", "1");
    for value in head.headers.get_all(header::AUTHORIZATION) {
        connect = connect.header(header::AUTHORIZATION, value);
    }
    let socket = match port.connect().await {
        Ok(socket) => socket,
        Err(error) => return disconnected(&error),
    };
    let response = match try_send_over(socket, connect.body(message).unwrap()).await {
        Ok(response) => response,
        Err(error) => return disconnected(&error),
    };
    if response.status != StatusCode::OK {
        assert_eq!(response.header("content-type"), Some("application/json"));
        return status(&serde_json::from_slice(&response.body).unwrap(), &response.headers).into_http();
    }
    assert_eq!(response.header("content-type"), Some(content_type));
    let (messages, status) = if is_stream { split_stream(&response) } else { (framed(&response.body), Status::ok("")) };
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).unwrap();
    let frames = [Frame::data(messages), Frame::trailers(trailers)].map(Ok::<_, Status>);
    let mut response = Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))));
    response.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
    response
}

/// What a gRPC client reports in the same situation.
fn disconnected(error: &dyn std::error::Error) -> Response<Body> {
    Status::unavailable(format!("the connection failed: {error}")).into_http()
}

/// Returns the messages, each with its prefix, and the status in the last envelope.
fn split_stream(response: &Received) -> (Bytes, Status) {
    let mut end = 0;
    while response.body[end] != END_STREAM {
        let length = u32::from_be_bytes(response.body[end + 1..end + PREFIX_BYTES].try_into().unwrap());
        end += PREFIX_BYTES + usize::try_from(length).unwrap();
    }
    let last: Value = serde_json::from_slice(&response.body[end + PREFIX_BYTES..]).unwrap();
    let ended = last.get("error").map_or_else(|| Status::ok(""), |error| status(error, &HeaderMap::new()));
    (response.body.slice(..end), ended)
}

fn status(error: &Value, headers: &HeaderMap) -> Status {
    let details = error["details"].as_array().into_iter().flatten().map(|detail| Any {
        type_url: format!("type.googleapis.com/{}", detail["type"].as_str().unwrap()),
        value: BASE64_STANDARD_NO_PAD.decode(detail["value"].as_str().unwrap()).unwrap(),
    });
    let code = code(error["code"].as_str().unwrap());
    let message = error["message"].as_str().unwrap_or_default();
    let details =
        tonic_types::pb::Status { code: code.into(), message: message.to_owned(), details: details.collect() };
    let mut status = Status::with_details(code, message, details.encode_to_vec().into());
    for name in ["grpc-retry-pushback-ms", "retry-after"] {
        if let Some(value) = headers.get(name) {
            status.metadata_mut().insert(name, value.to_str().unwrap().parse().unwrap());
        }
    }
    status
}

fn code(name: &str) -> Code {
    let codes = (1..=16).map(Code::from);
    let named =
        |code: &Code| format!("{code:?}").to_lowercase() == name.replace('_', "").replace("canceled", "cancelled");
    codes.into_iter().find(named).unwrap_or_else(|| panic!("no code {name}"))
}
