//! The only place that makes a `Status`: what a caller sees of a failure.
//!
//! Every one carries `google.rpc.ErrorInfo` with a stable reason, and the detail that belongs to its kind. Causes stay
//! inside: they go to the log, once, here.

use std::{collections::HashMap, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _, pb};

use super::layers::call_context::TraceId;
use crate::{
    domain::{Violation, Violations},
    error::{Error, ErrorChain, Precondition, Resource, UniqueField},
};

const DOMAIN: &str = "turnkey";
/// Details travel in a trailer, and clients refuse trailers above 8 KiB; base64 makes these 6 KiB just that.
const MAX_DETAILS_BYTES: usize = 6 * 1024;
const MAX_VIOLATIONS: usize = 50;
/// The field of the violation that counts those left out.
const TRUNCATION_FIELD: &str = "…";
const RETRY_OVERLOADED: Duration = Duration::from_millis(200);
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(1);
const RETRY_CONFLICT: Duration = Duration::from_millis(50);

/// A failure as callers see it, on its own or within the answer to a batch.
pub struct RpcError {
    code: Code,
    pub message: String,
    details: ErrorDetails,
}

impl RpcError {
    pub const fn code_name(&self) -> &'static str {
        code_name(self.code)
    }

    pub fn reason(&self) -> &str {
        self.details.error_info().map_or("", |info| info.reason.as_str())
    }

    pub fn violations(&self) -> impl Iterator<Item = &FieldViolation> {
        self.details.bad_request().into_iter().flat_map(|request| &request.field_violations)
    }
}

/// As the specification of gRPC spells it.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

pub fn from_error(error: Error, trace_id: TraceId) -> Status {
    let mut failure = describe(error);
    if failure.code == Code::Internal {
        failure.message = format!("{}; report it with the trace id {trace_id}", failure.message);
    }
    Status::with_error_details(failure.code, failure.message, failure.details)
}

pub fn describe(error: Error) -> RpcError {
    match error {
        Error::InvalidRequest(violations) => invalid_request(&violations),
        Error::AlreadyExists { field, value } => already_exists(field, value),
        Error::NotFound { resource, field } => not_found(resource, field.as_deref()),
        Error::FailedPrecondition(rule) => refused(rule),
        Error::Unauthenticated => failure(Code::Unauthenticated, "no valid credential", error_info("UNAUTHENTICATED")),
        Error::PermissionDenied => {
            failure(Code::PermissionDenied, "not this caller's to do", error_info("PERMISSION_DENIED"))
        }
        // gRPC says so itself where nobody is asked who they are, and says no more than that.
        Error::Unimplemented => failure(Code::Unimplemented, "", ErrorDetails::new()),
        Error::Overloaded => retry_later(Code::ResourceExhausted, "OVERLOADED", "too much at once", RETRY_OVERLOADED),
        Error::RateLimited { retry_after } => {
            retry_later(Code::ResourceExhausted, "OVERLOADED", "called too often", retry_after)
        }
        Error::DatabaseUnavailable(cause) => {
            tracing::warn!(cause = %ErrorChain(&*cause), "The database is unavailable");
            let message = "the database is unavailable";
            retry_later(Code::Unavailable, "DATABASE_UNAVAILABLE", message, RETRY_UNAVAILABLE)
        }
        Error::DeadlineExceeded => {
            failure(Code::DeadlineExceeded, "the deadline has passed", error_info("DEADLINE_EXCEEDED"))
        }
        Error::Conflict => retry_later(Code::Aborted, "CONFLICT", "lost a race after retries", RETRY_CONFLICT),
        Error::Internal(cause) => {
            tracing::error!(cause = %ErrorChain(&*cause), "A call failed by a bug");
            failure(Code::Internal, "internal error", error_info("INTERNAL"))
        }
    }
}

fn failure(code: Code, message: impl Into<String>, details: ErrorDetails) -> RpcError {
    RpcError { code, message: message.into(), details }
}

fn error_info(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new())
}

fn retry_later(code: Code, reason: &str, message: &str, delay: Duration) -> RpcError {
    let mut details = error_info(reason);
    details.set_retry_info(Some(delay));
    failure(code, message, details)
}

fn already_exists(field: UniqueField, value: Option<String>) -> RpcError {
    let (reason, resource, message, description) = match field {
        UniqueField::TenantSlug => ("SLUG_TAKEN", Resource::Tenant, "the slug is taken", "A tenant has this slug."),
        UniqueField::SegmentSlug => {
            ("SEGMENT_SLUG_TAKEN", Resource::Segment, "the slug is taken", "Another segment has this slug.")
        }
        UniqueField::PackageSlug => {
            ("PACKAGE_SLUG_TAKEN", Resource::Package, "the slug is taken", "Another package has this slug.")
        }
        UniqueField::OwnerEmail => {
            ("EMAIL_TAKEN", Resource::Tenant, "the e-mail address is taken", "A tenant's owner has this address.")
        }
    };
    let mut details = error_info(reason);
    details.set_resource_info(resource_type(resource), value.unwrap_or_default(), "", description);
    failure(Code::AlreadyExists, message, details)
}

/// Names the kind of thing and never the id: what belongs to another tenant and what does not exist must read alike.
fn not_found(resource: Resource, field: Option<&str>) -> RpcError {
    let (reason, message, hint) = match resource {
        Resource::Tenant => ("TENANT_NOT_FOUND", "no such tenant", ""),
        Resource::Package => ("PACKAGE_NOT_FOUND", "no such package", ""),
        Resource::ApiKey => ("API_KEY_NOT_FOUND", "no such API key", ""),
        Resource::Segment => {
            ("SEGMENT_NOT_FOUND", "no such segment", "Use ListSegments to find available segments for this tenant.")
        }
    };
    let mut details = error_info(reason);
    let description = match (field, hint) {
        (Some(field), "") => field.to_owned(),
        (Some(field), hint) => format!("{field}: {hint}"),
        (None, hint) => hint.to_owned(),
    };
    details.set_resource_info(resource_type(resource), "", "", description);
    let message = if hint.is_empty() { message.to_owned() } else { format!("{message}. {hint}") };
    failure(Code::NotFound, message, details)
}

fn refused(rule: Precondition) -> RpcError {
    let (reason, subject, message) = match rule {
        Precondition::LastPackage => ("LAST_PACKAGE", "package", "the last package of a tenant stays"),
        Precondition::DefaultSegment => ("DEFAULT_SEGMENT", "segment", "the General segment stays, and keeps its slug"),
        Precondition::RequestIdReused => {
            ("REQUEST_ID_REUSED", "request_id", "this request_id was used with a different request")
        }
        Precondition::SegmentNotEmpty => ("SEGMENT_NOT_EMPTY", "segment", "a segment with packages stays"),
    };
    let mut details = error_info(reason);
    details.add_precondition_failure_violation(reason, subject, message);
    failure(Code::FailedPrecondition, message, details)
}

const fn resource_type(resource: Resource) -> &'static str {
    match resource {
        Resource::Tenant => "turnkey.v1.Tenant",
        Resource::Segment => "turnkey.v1.Segment",
        Resource::Package => "turnkey.v1.Package",
        Resource::ApiKey => "turnkey.v1.ApiKey",
    }
}

fn invalid_request(violations: &Violations) -> RpcError {
    let mut details = error_info("INVALID_REQUEST");
    details.set_bad_request(truncated_violations(violations));
    let message = match violations.as_slice() {
        [only] => format!("{} {}", only.field, only.invalid.description),
        all => format!("{} fields are missing or bad", all.len()),
    };
    failure(Code::InvalidArgument, message, details)
}

/// The first violation of each field, as many as fit, and one more that counts the rest.
fn truncated_violations(violations: &Violations) -> Vec<FieldViolation> {
    // What the status has beside the violations: its message, ErrorInfo and the frames around them.
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
        kept.push(FieldViolation {
            reason: String::new(),
            ..FieldViolation::new(TRUNCATION_FIELD, format!("and {more} more"))
        });
    }
    kept
}

fn field_violation(violation: &Violation) -> FieldViolation {
    FieldViolation {
        reason: violation.invalid.reason.as_str().to_owned(),
        ..FieldViolation::new(&violation.field, violation.invalid.description.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{InvalidValue, Reason};

    fn violations(count: usize, field_length: usize) -> Violations {
        let mut violations = Violations::default();
        for number in 0..count {
            let field = format!("{number:0>field_length$}");
            violations.add(field, InvalidValue::new(Reason::TooShort, "must have at least 3 characters"));
        }
        violations
    }

    fn answered(violations: Violations) -> (usize, Vec<FieldViolation>) {
        let status = from_error(violations.into(), TraceId::default());
        let violations = status.get_details_bad_request().unwrap().field_violations;
        (status.details().len(), violations)
    }

    #[test]
    fn fifty_violations_are_all_told() {
        let (_, told) = answered(violations(50, 4));
        assert_eq!(told.len(), 50);
        assert!(told.iter().all(|violation| violation.field != TRUNCATION_FIELD));
    }

    #[test]
    fn the_fifty_first_is_counted() {
        let (_, told) = answered(violations(53, 4));
        assert_eq!(told.len(), 50);
        assert_eq!((told[49].field.as_str(), told[49].description.as_str()), (TRUNCATION_FIELD, "and 4 more"));
    }

    #[test]
    fn details_never_outgrow_what_a_client_accepts() {
        let (bytes, told) = answered(violations(500, 300));
        assert!(bytes <= MAX_DETAILS_BYTES, "{bytes}");
        assert_eq!(told.last().unwrap().description, format!("and {} more", 500 - (told.len() - 1)));
    }

    #[test]
    fn the_message_says_what_is_wrong_where_it_is_one_thing_and_else_how_many() {
        let message = |count| from_error(violations(count, 4).into(), TraceId::default()).message().to_owned();
        assert_eq!(message(1), "0000 must have at least 3 characters");
        assert_eq!(message(53), "53 fields are missing or bad");
    }

    #[test]
    fn a_field_is_named_once() {
        let mut twice = violations(1, 4);
        twice.add("0000", InvalidValue::missing());
        assert_eq!(answered(twice).1.len(), 1);
    }

    #[test]
    fn a_bug_shows_nothing_but_its_trace_id() {
        let status = from_error(Error::internal("relation \"tenants\" is on fire"), TraceId::default());
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message(), "internal error; report it with the trace id 00000000000000000000000000000000");
        assert!(!String::from_utf8_lossy(status.details()).contains("fire"));
    }
}
