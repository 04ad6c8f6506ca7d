//! The error of a call: gRPC's code, and the details that the server adds (`google.rpc.ErrorInfo`, `BadRequest` and
//! `RetryInfo`).

use std::{fmt, num::ParseIntError, time::Duration};

use strum::{Display, EnumString};
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt as _;

const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Why a call failed. `Display` shows the code, the reason and the message; it shows no part of the request.
#[derive(Debug, Clone)]
pub struct Error(Status);

/// The stable reason of an error. Programs decide by it, and not by the message.
#[derive(Debug, Clone, PartialEq, Eq, EnumString, Display)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum Reason {
    ApiKeyEnded,
    ApiKeyNotFound,
    Cancelled,
    Conflict,
    ConnectionClosing,
    CursorExpired,
    DatabaseUnavailable,
    DeadlineExceeded,
    DefaultSegment,
    EmailTaken,
    EtagMismatch,
    ExternalIdSet,
    ExternalIdTaken,
    Internal,
    InvalidRequest,
    LastPackage,
    Overloaded,
    PackageNotFound,
    PackageSlugTaken,
    PermissionDenied,
    QuotaExceeded,
    RequestIdReused,
    SegmentNotEmpty,
    SegmentNotFound,
    SegmentSlugTaken,
    SlugTaken,
    TenantNotDeleted,
    TenantNotFound,
    TooManyAttempts,
    Unauthenticated,
    /// One that this version of the crate does not know.
    #[strum(default)]
    Other(String),
}

/// A missing or invalid field of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, such as `packages[3].name`. `…` in the last one of many, which counts the omitted ones.
    pub field: String,
    pub reason: ViolationReason,
    pub description: String,
}

/// Why a field is invalid.
#[derive(Debug, Clone, PartialEq, Eq, EnumString, Display)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum ViolationReason {
    BadFormat,
    MissingField,
    OutOfRange,
    Reserved,
    TooLong,
    TooShort,
    WeakPassword,
    /// One that this version of the crate does not know, or empty in the violation that counts the omitted ones.
    #[strum(default)]
    Other(String),
}

impl Error {
    pub(crate) fn deadline_exceeded() -> Self {
        Self(Status::deadline_exceeded("the deadline was exceeded"))
    }

    pub fn code(&self) -> Code {
        self.0.code()
    }

    pub fn message(&self) -> &str {
        self.0.message()
    }

    /// `None` if the error is not the service's: the server is unreachable, the message is too large, or a proxy
    /// refused the call.
    pub fn reason(&self) -> Option<Reason> {
        let info = self.0.get_details_error_info().filter(|info| info.domain == "turnkey")?;
        // Every text has a value.
        info.reason.parse().ok()
    }

    /// Every missing or invalid field, if the reason is [`Reason::InvalidRequest`].
    pub fn violations(&self) -> Vec<Violation> {
        let violations = self.0.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
        let violation = |violation: tonic_types::FieldViolation| Violation {
            field: violation.field,
            reason: violation.reason.parse().unwrap_or(ViolationReason::Other(violation.reason)),
            description: violation.description,
        };
        violations.into_iter().map(violation).collect()
    }

    /// How long the server asks to wait before a retry.
    pub fn retry_delay(&self) -> Option<Duration> {
        let in_details = self.0.get_details_retry_info().and_then(|info| info.retry_delay);
        in_details.or_else(|| self.pushback_ms()?.ok().map(Duration::from_millis))
    }

    /// Whether a retry of the same call can succeed.
    pub fn is_retryable(&self) -> bool {
        if self.forbids_retries() {
            return false;
        }
        match self.code() {
            Code::Unavailable | Code::DeadlineExceeded => true,
            // A changed etag is final, and so is a message that is too large.
            Code::Aborted | Code::ResourceExhausted => self.retry_delay().is_some(),
            _ => self.is_broken_connection(),
        }
    }

    /// Whether the server certainly did nothing.
    pub(crate) fn is_without_effect(&self) -> bool {
        matches!(self.reason(), Some(Reason::Conflict | Reason::Overloaded))
    }

    /// A negative pushback means: do not retry (gRFC A6).
    fn forbids_retries(&self) -> bool {
        self.pushback_ms().is_some_and(|pushback| pushback.is_err())
    }

    /// The milliseconds of the trailer that stock clients obey, if it is there and not negative.
    fn pushback_ms(&self) -> Option<Result<u64, ParseIntError>> {
        self.0.metadata().get(RETRY_PUSHBACK).map(|value| value.to_str().unwrap_or_default().parse())
    }

    /// Whether this client created the status, because the connection broke during the call.
    fn is_broken_connection(&self) -> bool {
        matches!(self.code(), Code::Unknown | Code::Cancelled | Code::Internal)
            && std::error::Error::source(&self.0).is_some()
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // The channel reports its own timeout as CANCELLED.
        let causes = std::iter::successors(std::error::Error::source(&status), |cause| cause.source());
        if causes.into_iter().any(<dyn std::error::Error>::is::<TimeoutExpired>) {
            Self::deadline_exceeded()
        } else {
            Self(status)
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(code_name(self.code()))?;
        if let Some(reason) = self.reason() {
            write!(f, " / {reason}")?;
        }
        if self.message().is_empty() { Ok(()) } else { write!(f, ": {}", self.message()) }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

/// The code's name in the gRPC specification, such as `NOT_FOUND`.
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::metadata::MetadataValue;
    use tonic_types::ErrorDetails;

    use super::*;

    fn error(code: Code, reason: &str, retry_delay: Option<Duration>) -> Error {
        let mut details = ErrorDetails::with_error_info(reason, "turnkey", HashMap::new());
        if let Some(delay) = retry_delay {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code, "why", details).into()
    }

    #[test]
    fn known_reasons_are_values_and_others_keep_their_text() {
        let reason = |text: &str| error(Code::NotFound, text, None).reason();
        assert_eq!(reason("TENANT_NOT_FOUND"), Some(Reason::TenantNotFound));
        assert_eq!(reason("LATER_ADDED"), Some(Reason::Other("LATER_ADDED".to_owned())));
        assert_eq!(reason("LATER_ADDED").unwrap_or(Reason::Internal).to_string(), "LATER_ADDED");
        assert_eq!(Error::from(Status::unavailable("")).reason(), None);
    }

    #[test]
    fn an_error_shows_code_reason_and_message() {
        assert_eq!(error(Code::NotFound, "TENANT_NOT_FOUND", None).to_string(), "NOT_FOUND / TENANT_NOT_FOUND: why");
        assert_eq!(Error::from(Status::unavailable("")).to_string(), "UNAVAILABLE");
    }

    #[test]
    fn an_error_is_retryable_where_the_server_says_so_or_the_outcome_is_unknown() {
        let delay = Some(Duration::from_millis(50));
        assert!(error(Code::Aborted, "CONFLICT", delay).is_retryable());
        assert!(error(Code::ResourceExhausted, "OVERLOADED", delay).is_retryable());
        assert!(error(Code::Unavailable, "DATABASE_UNAVAILABLE", delay).is_retryable());
        for status in [Status::unavailable(""), Status::deadline_exceeded("")] {
            assert!(Error::from(status).is_retryable());
        }
        assert!(!error(Code::Aborted, "ETAG_MISMATCH", None).is_retryable());
        assert!(!error(Code::ResourceExhausted, "QUOTA_EXCEEDED", None).is_retryable());
        for status in [Status::resource_exhausted("too large"), Status::internal(""), Status::unknown("")] {
            assert!(!Error::from(status).is_retryable());
        }
    }

    #[test]
    fn a_negative_pushback_forbids_retries_and_another_one_is_the_delay_where_there_is_no_other() {
        let with_pushback = |mut status: Status, pushback: &'static str| {
            status.metadata_mut().insert(RETRY_PUSHBACK, MetadataValue::from_static(pushback));
            Error::from(status)
        };
        let minute = Some(Duration::from_mins(1));
        let status = error(Code::ResourceExhausted, "TOO_MANY_ATTEMPTS", minute).0;
        assert!(Error::from(status.clone()).is_retryable());
        let forbidden = with_pushback(status, "-1");
        assert_eq!((forbidden.is_retryable(), forbidden.retry_delay()), (false, minute));
        let without_details = with_pushback(Status::unavailable(""), "250");
        assert_eq!(without_details.retry_delay(), Some(Duration::from_millis(250)));
    }
}
