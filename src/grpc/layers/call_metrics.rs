//! When a call ends: with its last byte, not with the first of its answer; or when its caller hangs up.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tonic::{Code, Status, body::Body};
use tracing::Span;

use crate::{grpc::status::code_name, telemetry::metrics};

/// Tells of the end of a call, once.
#[derive(Debug)]
pub struct CallMetrics {
    method: &'static str,
    span: Span,
    started: Instant,
    has_ended: bool,
}

impl CallMetrics {
    /// `method` without its leading slash.
    pub fn new(method: &'static str, span: Span) -> Self {
        Self { method, span, started: Instant::now(), has_ended: false }
    }

    /// Goes on into the answer's body, unless the answer has no body to speak of.
    pub fn observe_response(mut self, answer: Response<Body>) -> Response<Body> {
        if let Some(status) = Status::from_header_map(answer.headers()) {
            self.end(status.code());
            return answer;
        }
        answer.map(|body| Body::new(MetricsBody { body, measured: self }))
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let status = code_name(code);
        self.span.record("rpc.response.status_code", status);
        let is_failure = is_failure(code);
        if is_failure {
            self.span.record("error.type", status);
            self.span.record("otel.status_code", "ERROR");
        }
        metrics::record_call(self.method, status, is_failure, self.started.elapsed());
    }
}

impl Drop for CallMetrics {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The codes for which a server is to blame
/// (<https://opentelemetry.io/docs/specs/semconv/rpc/grpc/>).
const fn is_failure(code: Code) -> bool {
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

struct MetricsBody {
    body: Body,
    measured: CallMetrics,
}

impl MetricsBody {
    fn end(&mut self, trailers: &HeaderMap) {
        self.measured.end(Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code()));
    }
}

impl http_body::Body for MetricsBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.end(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
