//! The one error that crosses layers.
//!
//! It says what happened in the words of the business; `grpc::status` alone turns it into what a caller sees.

use std::{fmt, sync::Arc, time::Duration};

use crate::domain::Violations;

pub type Result<T> = std::result::Result<T, Error>;
/// Shared, for one failure can be the answer to several calls.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Every missing or bad field of the request.
    #[error("the request has {} bad field(s)", .0.as_slice().len())]
    InvalidRequest(Violations),
    /// `value` is the slug; an e-mail address is left out, because it is personal data.
    #[error("{field:?} already exists")]
    AlreadyExists { field: UniqueField, value: Option<String> },
    /// `field` is the path of the field that named the resource, if the request has several such fields.
    #[error("no such {resource:?}")]
    NotFound { resource: Resource, field: Option<String> },
    /// No credential, or a bad one.
    #[error("not known who calls")]
    Unauthenticated,
    #[error("not this caller's to do")]
    PermissionDenied,
    /// There is no such RPC.
    #[error("no such RPC")]
    Unimplemented,
    #[error("refused by rule {0:?}")]
    FailedPrecondition(Precondition),
    /// More work waits than is useful; the caller should come back.
    #[error("too much at once")]
    Overloaded,
    /// This caller calls oftener than it may; `wait` is the time until it may again.
    #[error("called too often")]
    RateLimited { retry_after: Duration },
    /// The database is away, read-only or too slow.
    #[error("the database is unavailable")]
    DatabaseUnavailable(#[source] Source),
    /// The caller's deadline had passed before the work began.
    #[error("the deadline has passed")]
    DeadlineExceeded,
    /// Others were faster, again and again.
    #[error("lost a race after retries")]
    Conflict,
    /// A bug. The cause goes to the log and nowhere else.
    #[error("internal error")]
    Internal(#[source] Source),
}

/// The kinds of things a caller can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Tenant,
    Segment,
    Package,
    ApiKey,
}

/// What can be had by one alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueField {
    TenantSlug,
    SegmentSlug,
    PackageSlug,
    OwnerEmail,
}

/// Rules of state that a call would break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    LastPackage,
    DefaultSegment,
    SegmentNotEmpty,
    RequestIdReused,
}

impl Error {
    pub const fn not_found(resource: Resource) -> Self {
        Self::NotFound { resource, field: None }
    }

    pub fn already_exists(field: UniqueField, value: Option<&str>) -> Self {
        Self::AlreadyExists { field, value: value.map(str::to_owned) }
    }

    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(Source::from(cause.into()))
    }
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Self::InvalidRequest(violations)
    }
}

/// An error with its causes, on one line.
pub struct ErrorChain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some errors say their cause themselves.
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            source = cause.source();
        }
        Ok(())
    }
}
