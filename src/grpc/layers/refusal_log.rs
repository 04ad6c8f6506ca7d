//! Logs refused calls: who called what, and why it was refused. At most one line a second for each caller and reason.

use std::sync::Arc;

use http::Response;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;

use super::authentication::CallerName;
use crate::{grpc::status::code_name, telemetry::LogLimiter};

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct RefusalLog(Arc<LogLimiter<(Arc<str>, String)>>);

impl RefusalLog {
    /// Logs the response of a call if it is a refusal. Internal errors are logged where they occur.
    pub fn observe(&self, rpc: &'static str, response: &Response<Body>) {
        let Some(status) = Status::from_header_map(response.headers()) else { return };
        if matches!(status.code(), Code::Ok | Code::Cancelled | Code::Internal) {
            return;
        }
        let caller =
            response.extensions().get().map_or_else(|| "unauthenticated".into(), |CallerName(name)| Arc::clone(name));
        let details = status.get_error_details();
        let reason = details.error_info().map_or_else(|| code_name(status.code()), |info| info.reason.as_str());
        if let Some(count) = self.0.count((Arc::clone(&caller), reason.to_owned())) {
            tracing::info!(caller = &*caller, rpc, reason, count, "Refused call");
        }
    }
}
