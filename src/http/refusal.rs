//! Responses to requests that do not become a call, and what all responses in JSON have in common.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use prost::bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tonic::body::Body;

use super::platform;

/// The JSON form of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Connect,
    Platform,
}

impl Dialect {
    /// The dialect of the callers of a path.
    pub fn of_path(path: &str) -> Self {
        if platform::find(path).is_some() { Self::Platform } else { Self::Connect }
    }
}

/// Why a request does not become a call.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// The code that a Connect client derives from the status.
    code: &'static str,
    reason: &'static str,
    message: &'static str,
    header: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unimplemented", "NOT_FOUND", "there is nothing at this path")
    }

    pub fn method_not_allowed(allowed: &'static str) -> Self {
        let message = "this path does not support the request's method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "unknown", "METHOD_NOT_ALLOWED", message).with(header::ALLOW, allowed)
    }

    /// `supported` lists media types.
    pub fn unsupported_media_type(supported: &'static str) -> Self {
        const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
        let message =
            "the content type is missing or unsupported; the header Accept-Post lists those that are supported";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "unknown", "UNSUPPORTED_MEDIA_TYPE", message).with(ACCEPT_POST, supported)
    }

    pub fn unsupported_encoding() -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "unimplemented", "UNSUPPORTED_ENCODING", "the request must not be compressed")
            .with(header::ACCEPT_ENCODING, "identity")
    }

    pub fn invalid_host() -> Self {
        let message = "a request by HTTP/1.1 must have one header Host";
        Self::new(StatusCode::BAD_REQUEST, "invalid_argument", "INVALID_HOST", message)
    }

    pub fn foreign_origin() -> Self {
        let message = "pages of this origin may not call; TURNKEY_HTTP_ALLOWED_ORIGINS names those that may";
        Self::new(StatusCode::FORBIDDEN, "permission_denied", "ORIGIN_NOT_ALLOWED", message)
    }

    pub fn foreign_host() -> Self {
        let message = "the header Host must name a loopback address, because the server listens on one";
        Self::new(StatusCode::FORBIDDEN, "permission_denied", "HOST_NOT_ALLOWED", message)
    }

    const fn new(status: StatusCode, code: &'static str, reason: &'static str, message: &'static str) -> Self {
        Self { status, code, reason, message, header: None }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    pub fn into_response(self, dialect: Dialect) -> Response<Body> {
        let Self { status, code, reason, message, header } = self;
        let mut response = match dialect {
            Dialect::Connect => json_response(status, &ConnectError { code, message, details: Vec::new() }),
            Dialect::Platform => json_response(status, &PlatformError::new(status, reason, message)),
        };
        response.headers_mut().extend(header.map(|(name, value)| (name, HeaderValue::from_static(value))));
        response
    }
}

/// An error as in <https://connectrpc.com/docs/protocol/#error-end-stream>.
#[derive(Debug, Serialize)]
pub(super) struct ConnectError<'a> {
    pub code: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<ConnectDetail<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct ConnectDetail<'a> {
    #[serde(rename = "type")]
    pub type_name: &'a str,
    /// Protobuf, in base64.
    pub value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug: Option<Value>,
}

/// An error of the platform's calls.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlatformError<'a> {
    status: &'static str,
    status_code: u16,
    #[serde(rename = "error")]
    reason: &'a str,
    pub message: Cow<'a, str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<InvalidField<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct InvalidField<'a> {
    pub field: &'a str,
    pub reason: &'a str,
    pub description: &'a str,
}

impl<'a> PlatformError<'a> {
    pub fn new(status: StatusCode, reason: &'a str, message: &'a str) -> Self {
        Self { status: "error", status_code: status.as_u16(), reason, message: message.into(), fields: Vec::new() }
    }
}

pub(super) fn json_response(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    // Fails only for maps with keys that are not text.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
