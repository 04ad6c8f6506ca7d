//! Records the status and duration of a call at its end: when the last byte of the response has been sent or the client
//! has disconnected, not when the response begins.

use std::time::Instant;

use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use tonic::{Code, Status, body::Body};
use tracing::Span;

use crate::{grpc::status::code_name, telemetry::metrics};

/// Records the end of one call, once. Dropping it earlier records CANCELLED.
#[derive(Debug)]
pub struct CallMetrics {
    system: &'static str,
    method: &'static str,
    span: Span,
    started: Instant,
    has_ended: bool,
}

impl CallMetrics {
    /// `system` is the protocol. `method` has no leading slash. The status of the call is recorded in `span`.
    pub fn new(system: &'static str, method: &'static str, span: Span) -> Self {
        Self { system, method, span, started: Instant::now(), has_ended: false }
    }

    /// Records the call now if the response is trailers-only; otherwise wraps the body and records at its trailers.
    pub fn observe_response(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(code) = code(response.headers()) {
            self.end(code);
            return response;
        }
        response.map(|body| {
            Body::new(body.inspect_frame(move |frame| {
                if let Some(trailers) = frame.trailers_ref() {
                    self.end(code(trailers).unwrap_or(Code::Unknown));
                }
            }))
        })
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let status = code_name(code);
        self.span.record("rpc.response.status_code", status);
        let is_server_error = is_server_error(code);
        if is_server_error {
            self.span.record("error.type", status);
            self.span.record("otel.status_code", "ERROR");
        }
        metrics::record_call(self.system, self.method, status, is_server_error, self.started.elapsed());
    }
}

impl Drop for CallMetrics {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Returns the code of a status without its message, details and metadata, which tonic would copy.
fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// Whether the code is an error of the server (<https://opentelemetry.io/docs/specs/semconv/rpc/grpc/>).
const fn is_server_error(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
