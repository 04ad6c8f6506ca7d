//! Maps [`Error`] to what a client sees. No other file creates a `Status`.
//!
//! Every status carries `google.rpc.ErrorInfo` with a stable reason, and the detail message of its kind (AIP-193).
//! Causes do not reach a client: they are logged here, once.

use std::{collections::HashMap, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _, pb};
pub use turnkey_client::code_name;

use crate::{
    domain::{TenantId, Violation, Violations},
    error::{Error, ErrorChain, Precondition, Resource, UniqueField},
    telemetry::trace::TraceId,
};

const DOMAIN: &str = "turnkey";
/// Details travel base64-encoded in a trailer. These 6 KiB become 8 KiB, the most that clients accept.
const MAX_DETAILS_BYTES: usize = 6 * 1024;
const MAX_VIOLATIONS: usize = 50;
/// The field of the violation that counts the omitted ones.
const TRUNCATION_FIELD: &str = "…";
pub const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
const RETRY_OVERLOADED: Duration = Duration::from_millis(200);
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(1);
const RETRY_CONFLICT: Duration = Duration::from_millis(50);

/// An error as a client sees it: as a status, or in an item of a batch response.
pub struct RpcError {
    pub code: Code,
    pub message: String,
    pub details: ErrorDetails,
}

impl RpcError {
    pub fn reason(&self) -> &str {
        self.details.error_info().map_or("", |info| info.reason.as_str())
    }
}

/// Logs the cause of an error and returns its status. That of an internal error contains the trace id.
pub fn from_error(error: Error, trace_id: TraceId) -> Status {
    // The window of wrong passwords is long, and a client that retries by itself would only extend the wait of its
    // user.
    let client_may_retry = !matches!(error, Error::TooManyAttempts { .. });
    let mut failure = report(error);
    if failure.code == Code::Internal {
        failure.message = format!("{}; report it with the trace id {trace_id}", failure.message);
    }
    // What gRPC itself would refuse has gRPC's code alone.
    if failure.reason().is_empty() {
        return Status::new(failure.code, failure.message);
    }
    let retry_delay = failure.details.retry_info().and_then(|retry| retry.retry_delay);
    let mut status = Status::with_error_details(failure.code, failure.message, failure.details);
    if let Some(delay) = retry_delay {
        // Stock gRPC clients obey this trailer, and do not know the details (gRFC A6). A negative number means: do not
        // retry. Rounded up, because a retry that is a fraction of a millisecond early is refused again.
        let delay_ms = i64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
        let pushback_ms = if client_may_retry { delay_ms } else { -1 };
        status.metadata_mut().insert(RETRY_PUSHBACK, pushback_ms.into());
    }
    status
}

/// Returns the status of a request that is refused before it becomes a call, and so has no trace.
pub fn of_refused_request(error: Error) -> Status {
    from_error(error, TraceId::INVALID)
}

/// Logs the cause of an error, if it has one, and returns what the client sees.
pub fn report(error: Error) -> RpcError {
    match &error {
        Error::DatabaseUnavailable(cause) => tracing::warn!(cause = %ErrorChain(cause), "The database is unavailable"),
        Error::Internal(cause) => tracing::error!(cause = %ErrorChain(cause), "Internal error"),
        _ => {}
    }
    error.into()
}

impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let (code, details) = match error {
            Error::InvalidRequest(violations) => {
                let mut details = error_info("INVALID_REQUEST");
                details.set_bad_request(truncated_violations(&violations));
                (Code::InvalidArgument, details)
            }
            Error::AlreadyExists { field, value } => (Code::AlreadyExists, already_exists(field, value)),
            Error::NotFound { resource, field } => return not_found(resource, field.as_deref(), &message),
            Error::FailedPrecondition(precondition) => {
                (Code::FailedPrecondition, failed_precondition(precondition, &message))
            }
            Error::Unauthenticated => (Code::Unauthenticated, error_info("UNAUTHENTICATED")),
            Error::PermissionDenied => (Code::PermissionDenied, error_info("PERMISSION_DENIED")),
            // As tonic itself returns it if authentication is off.
            Error::Unimplemented => {
                return Self { code: Code::Unimplemented, message: String::new(), details: ErrorDetails::new() };
            }
            Error::Overloaded => (Code::ResourceExhausted, retry_info("OVERLOADED", RETRY_OVERLOADED)),
            // gRPC itself would refuse these, and has no details for them.
            Error::MalformedMessage(_) => (Code::InvalidArgument, ErrorDetails::new()),
            Error::UnsupportedEncoding(_) => (Code::Unimplemented, ErrorDetails::new()),
            Error::MessageTooLarge { .. } | Error::TooManyNestedMessages => {
                (Code::ResourceExhausted, ErrorDetails::new())
            }
            Error::RateLimited { retry_after } => (Code::ResourceExhausted, retry_info("OVERLOADED", retry_after)),
            Error::TooManyAttempts { retry_after } => {
                (Code::ResourceExhausted, retry_info("TOO_MANY_ATTEMPTS", retry_after))
            }
            Error::QuotaExceeded { tenant_id, resource, .. } => {
                (Code::ResourceExhausted, quota_exceeded(tenant_id, resource, &message))
            }
            Error::DatabaseUnavailable(_) => (Code::Unavailable, retry_info("DATABASE_UNAVAILABLE", RETRY_UNAVAILABLE)),
            Error::CursorExpired => (Code::OutOfRange, error_info("CURSOR_EXPIRED")),
            Error::ConnectionClosing => (Code::Unavailable, retry_info("CONNECTION_CLOSING", RETRY_CONFLICT)),
            Error::DeadlineExceeded => (Code::DeadlineExceeded, error_info("DEADLINE_EXCEEDED")),
            Error::Cancelled => (Code::Cancelled, error_info("CANCELLED")),
            Error::EtagMismatch(resource) => (Code::Aborted, etag_mismatch(resource)),
            Error::Conflict => (Code::Aborted, retry_info("CONFLICT", RETRY_CONFLICT)),
            Error::Internal(_) => (Code::Internal, error_info("INTERNAL")),
        };
        Self { code, message, details }
    }
}

fn error_info(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

fn retry_info(reason: &str, delay: Duration) -> ErrorDetails {
    let mut details = error_info(reason);
    details.set_retry_info(Some(delay));
    details
}

fn already_exists(field: UniqueField, value: Option<String>) -> ErrorDetails {
    let (reason, resource, description) = match field {
        UniqueField::TenantSlug => ("SLUG_TAKEN", Resource::Tenant, "A tenant has this slug."),
        UniqueField::SegmentSlug => ("SEGMENT_SLUG_TAKEN", Resource::Segment, "Another segment has this slug."),
        UniqueField::PackageSlug => ("PACKAGE_SLUG_TAKEN", Resource::Package, "Another package has this slug."),
        UniqueField::TenantExternalId => ("EXTERNAL_ID_TAKEN", Resource::Tenant, "A tenant has this external id."),
        UniqueField::SegmentExternalId => {
            ("EXTERNAL_ID_TAKEN", Resource::Segment, "Another segment has this external id.")
        }
        UniqueField::PackageExternalId => {
            ("EXTERNAL_ID_TAKEN", Resource::Package, "Another package has this external id.")
        }
        UniqueField::OwnerEmail => ("EMAIL_TAKEN", Resource::Tenant, "A tenant's owner has this address."),
    };
    let mut details = error_info(reason);
    details.set_resource_info(resource_type(resource), value.unwrap_or_default(), "", description);
    details
}

/// Names the resource's type and never its id: another tenant's resource and a missing one must give equal responses.
fn not_found(resource: Resource, field: Option<&str>, message: &str) -> RpcError {
    let (reason, hint) = match resource {
        Resource::Tenant => ("TENANT_NOT_FOUND", None),
        Resource::Package => ("PACKAGE_NOT_FOUND", None),
        Resource::ApiKey => ("API_KEY_NOT_FOUND", None),
        Resource::Segment => {
            ("SEGMENT_NOT_FOUND", Some("Use ListSegments to find available segments for this tenant."))
        }
    };
    let join = |parts: [Option<&str>; 2], separator| parts.into_iter().flatten().collect::<Vec<_>>().join(separator);
    let message = join([Some(message), hint], ". ");
    let description = join([field, hint], ": ");
    let mut details = error_info(reason);
    details.set_resource_info(resource_type(resource), "", "", description);
    RpcError { code: Code::NotFound, message, details }
}

/// Has no `RetryInfo`: waiting does not help.
fn quota_exceeded(tenant_id: TenantId, resource: Resource, message: &str) -> ErrorDetails {
    let mut details = error_info("QUOTA_EXCEEDED");
    let verb = if resource == Resource::ApiKey { "Revoke" } else { "Delete" };
    let description = format!("{message}. {verb} {resource}s that the tenant no longer needs.");
    details.add_quota_failure_violation(format!("tenant:{tenant_id}"), description);
    details
}

/// Has no `RetryInfo`: the caller has to read the resource again.
fn etag_mismatch(resource: Resource) -> ErrorDetails {
    let metadata = [("resource_type".to_owned(), resource_type(resource).to_owned())];
    ErrorDetails::with_error_info("ETAG_MISMATCH", DOMAIN, HashMap::from(metadata))
}

fn failed_precondition(precondition: Precondition, message: &str) -> ErrorDetails {
    let (reason, subject) = match precondition {
        Precondition::LastPackage => ("LAST_PACKAGE", "package"),
        Precondition::DefaultSegment => ("DEFAULT_SEGMENT", "segment"),
        Precondition::RequestIdReused => ("REQUEST_ID_REUSED", "request_id"),
        Precondition::SegmentNotEmpty => ("SEGMENT_NOT_EMPTY", "segment"),
        Precondition::ExternalIdSet => ("EXTERNAL_ID_SET", "external_id"),
        Precondition::TenantNotDeleted => ("TENANT_NOT_DELETED", "tenant_id"),
        Precondition::ApiKeyEnded => ("API_KEY_ENDED", "public_key"),
    };
    let mut details = error_info(reason);
    details.add_precondition_failure_violation(reason, subject, message);
    details
}

const fn resource_type(resource: Resource) -> &'static str {
    match resource {
        Resource::Tenant => "turnkey.v1.Tenant",
        Resource::Segment => "turnkey.v1.Segment",
        Resource::Package => "turnkey.v1.Package",
        Resource::ApiKey => "turnkey.v1.ApiKey",
    }
}

/// Returns the first violation of each field, as many as fit, and a last one that counts the omitted ones.
fn truncated_violations(violations: &Violations) -> Vec<FieldViolation> {
    // Room for the rest of the status: its message, ErrorInfo and their framing.
    const RESERVE_BYTES: usize = 512;
    let mut seen = std::collections::HashSet::new();
    let distinct: Vec<&Violation> =
        violations.as_slice().iter().filter(|violation| seen.insert(violation.field.as_str())).collect();

    let mut bytes = RESERVE_BYTES;
    let fits = |violation: &FieldViolation| {
        let encoded: pb::bad_request::FieldViolation = violation.clone().into();
        bytes += encoded.encoded_len() + 4;
        bytes <= MAX_DETAILS_BYTES
    };
    let mut kept: Vec<FieldViolation> =
        distinct.iter().map(|violation| field_violation(violation)).take(MAX_VIOLATIONS).take_while(fits).collect();
    if kept.len() < distinct.len() {
        kept.truncate(MAX_VIOLATIONS - 1);
        let more = distinct.len() - kept.len();
        kept.push(FieldViolation::new(TRUNCATION_FIELD, format!("and {more} more")));
    }
    kept
}

fn field_violation(violation: &Violation) -> FieldViolation {
    FieldViolation {
        reason: violation.invalid.reason.to_string(),
        ..FieldViolation::new(&violation.field, violation.invalid.description.as_ref())
    }
}

#[cfg(test)]
mod tests;
