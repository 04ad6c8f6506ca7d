//! A failed call in the form of each dialect: the HTTP status, headers and JSON of a gRPC status.

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use prost::Message as _;
use prost_types::Any;
use tonic::{Code, Status, body::Body};
use tonic_types::{FieldViolation, StatusExt as _};

use super::{
    json,
    refusal::{ConnectDetail, ConnectError, Dialect, InvalidField, PlatformError, json_response},
};
use crate::{
    error::Error,
    grpc::status::{RETRY_PUSHBACK, code_name, of_refused_request},
};

#[derive(Debug)]
pub(super) struct Failure(Status);

impl Failure {
    pub const fn new(status: Status) -> Self {
        Self(status)
    }

    /// The failure of a request that does not become a call.
    pub fn of(error: Error) -> Self {
        Self(of_refused_request(error))
    }

    #[cfg(feature = "mcp")]
    pub const fn status(&self) -> &Status {
        &self.0
    }

    /// `fields` maps the names of fields to those of the caller, in the dialect of the platform.
    pub fn into_response(self, dialect: Dialect, fields: &[(&str, &str)]) -> Response<Body> {
        let mut response = match dialect {
            Dialect::Connect => self.with_connect_error(|error| json_response(http_status(self.0.code()), error)),
            Dialect::Platform => self.platform_response(fields),
        };
        response.headers_mut().extend(self.headers());
        if response.status() == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 15.5.2, requires it.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    pub fn with_connect_error<T>(&self, use_error: impl FnOnce(&ConnectError<'_>) -> T) -> T {
        let details =
            tonic_types::pb::Status::decode(self.0.details()).map(|status| status.details).unwrap_or_default();
        use_error(&ConnectError {
            code: &connect_code(self.0.code()),
            message: self.0.message(),
            details: details.iter().map(connect_detail).collect(),
        })
    }

    /// When to retry.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let retry_delay = self.0.get_details_retry_info().and_then(|info| info.retry_delay);
        if let Some(delay) = retry_delay {
            // Whole seconds, rounded up.
            let seconds = delay.as_millis().div_ceil(1_000).max(1);
            headers.extend(HeaderValue::try_from(seconds.to_string()).ok().map(|value| (header::RETRY_AFTER, value)));
        }
        if let Some(pushback) = self.0.metadata().as_ref().get(RETRY_PUSHBACK) {
            headers.insert(HeaderName::from_static(RETRY_PUSHBACK), pushback.clone());
        }
        headers
    }

    fn platform_response(&self, fields: &[(&str, &str)]) -> Response<Body> {
        let info = self.0.get_details_error_info();
        let (status, reason) = match (&info, self.0.code()) {
            (Some(info), code) => (http_status(code), info.reason.as_str()),
            // Without a reason: the message is too large, or cannot be read.
            (None, Code::ResourceExhausted) => (StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE"),
            (None, Code::InvalidArgument) => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            (None, code) => (http_status(code), code_name(code)),
        };
        let mut error = PlatformError::new(status, reason, self.0.message());
        let violations = self.0.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
        error.fields = violations
            .iter()
            .map(|FieldViolation { field, reason, description, .. }| {
                let renamed = fields.iter().find(|(name, _)| name == field);
                InvalidField { field: renamed.map_or(field.as_str(), |(_, name)| name), reason, description }
            })
            .collect();
        if let [only] = error.fields.as_slice() {
            error.message = format!("{} {}", only.field, only.description).into();
        }
        json_response(status, &error)
    }
}

fn connect_detail(detail: &Any) -> ConnectDetail<'_> {
    ConnectDetail {
        type_name: detail.type_url.rsplit('/').next().unwrap_or_default(),
        value: BASE64_STANDARD_NO_PAD.encode(&detail.value),
        debug: json::detail(detail),
    }
}

/// The name of a code in the Connect protocol.
fn connect_code(code: Code) -> String {
    match code {
        Code::Cancelled => "canceled".to_owned(),
        code => code_name(code).to_ascii_lowercase(),
    }
}

/// As in <https://connectrpc.com/docs/protocol/#error-codes>.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}
