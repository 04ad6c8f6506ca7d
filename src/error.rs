//! The error type that crosses layers.
//!
//! It says what failed in terms of the domain. `grpc::status` alone maps it to gRPC codes, reasons and details.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use crate::domain::{TenantId, Violations};

pub type Result<T> = std::result::Result<T, Error>;
/// A cause. It is shared, because one failure can fail several calls.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// The messages are shown to clients; causes are only logged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Every missing or invalid field of the request.
    #[error("{0}")]
    InvalidRequest(Violations),
    /// `value` is the slug or the external id; an e-mail address is left out, because it is personal data.
    #[error("the {field} already exists")]
    AlreadyExists { field: UniqueField, value: Option<String> },
    /// `field` is the path of the field that named the resource, if the request has several such fields.
    #[error("no such {resource}")]
    NotFound { resource: Resource, field: Option<String> },
    #[error("missing or invalid credentials")]
    Unauthenticated,
    /// The caller has no role that permits the RPC, or it is a tenant key and the tenant is another one.
    #[error("the caller's role or tenant does not permit this call")]
    PermissionDenied,
    #[error("no such RPC")]
    Unimplemented,
    /// The message of the request is compressed or encoded in a form that the server does not read.
    #[error("{0}")]
    UnsupportedEncoding(String),
    #[error("{0}")]
    FailedPrecondition(Precondition),
    /// A queue or pool is full.
    #[error("the server is overloaded")]
    Overloaded,
    /// The message of the request cannot be read. The text says why, without a value from the message.
    #[error("{0}")]
    MalformedMessage(String),
    /// The message of the request is larger than its RPC permits.
    #[error("the message is larger than {max_bytes} bytes")]
    MessageTooLarge { max_bytes: usize },
    /// The message would take too much memory once decoded.
    #[error("the message contains too many nested messages")]
    TooManyNestedMessages,
    /// The caller exceeded its rate limit; its next call is permitted after `retry_after`.
    #[error("too many calls by this caller")]
    RateLimited { retry_after: Duration },
    /// Too many wrong passwords were entered. No password is compared until `retry_after` is over.
    #[error("too many wrong passwords")]
    TooManyAttempts { retry_after: Duration },
    /// The tenant has, or would have, more of these resources than its quota. A retry does not help.
    #[error("a tenant can have at most {limit} {resource}s")]
    QuotaExceeded { tenant_id: TenantId, resource: Resource, limit: NonZeroU32 },
    /// The resource does not have the etag of the request, or does not exist. Nothing was changed.
    #[error("the {0} was changed since it was read, or does not exist; read it again")]
    EtagMismatch(Resource),
    /// The database is unreachable, read-only, not migrated or too slow.
    #[error("the database is unavailable")]
    DatabaseUnavailable(#[source] Source),
    /// The events after the cursor have been deleted, or it is of another history.
    #[error("the cursor is too old or from another history; list everything again and watch from there")]
    CursorExpired,
    /// The server stops, or the connection has reached its maximum age.
    #[error("the server closes this connection; call again")]
    ConnectionClosing,
    #[error("the deadline was exceeded")]
    DeadlineExceeded,
    /// The caller disconnected or reset the call.
    #[error("the caller cancelled the call")]
    Cancelled,
    /// Every attempt conflicted with a concurrent call.
    #[error("conflicts with concurrent calls persisted after several attempts")]
    Conflict,
    /// A bug. The cause is logged and never sent to a client.
    #[error("internal error")]
    Internal(#[source] Source),
}

/// The kinds of resources that a request can refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Resource {
    Tenant,
    Segment,
    Package,
    #[strum(to_string = "API key")]
    ApiKey,
}

/// A field whose value must be unique: among all tenants, or among the segments or packages of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub enum UniqueField {
    #[strum(to_string = "slug")]
    TenantSlug,
    #[strum(to_string = "slug")]
    SegmentSlug,
    #[strum(to_string = "slug")]
    PackageSlug,
    #[strum(to_string = "e-mail address")]
    OwnerEmail,
    #[strum(to_string = "external_id")]
    TenantExternalId,
    #[strum(to_string = "external_id")]
    SegmentExternalId,
    #[strum(to_string = "external_id")]
    PackageExternalId,
}

/// A precondition that the stored state does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub enum Precondition {
    #[strum(to_string = "cannot delete a tenant's last package")]
    LastPackage,
    #[strum(to_string = "the General segment cannot be deleted or renamed")]
    DefaultSegment,
    #[strum(to_string = "cannot delete a segment that has packages")]
    SegmentNotEmpty,
    #[strum(to_string = "the request_id was already used for a different request")]
    RequestIdReused,
    #[strum(to_string = "the external_id is already set and cannot be changed")]
    ExternalIdSet,
    #[strum(to_string = "only a deleted tenant can be purged; call DeleteTenant first")]
    TenantNotDeleted,
    #[strum(to_string = "the API key is expired, revoked or already replaced; create a new one instead")]
    ApiKeyEnded,
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

impl From<Precondition> for Error {
    fn from(precondition: Precondition) -> Self {
        Self::FailedPrecondition(precondition)
    }
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Self::InvalidRequest(violations)
    }
}

/// Displays an error and its causes on one line.
pub struct ErrorChain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut message = self.0.to_string();
        f.write_str(&message)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // The message of some errors already ends with their cause.
            if !message.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            message = text;
            source = cause.source();
        }
        Ok(())
    }
}
