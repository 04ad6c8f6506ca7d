//! What a client sees of each kind of error.

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

/// The number of bytes of the details, and the violations in them.
fn details(violations: Violations) -> (usize, Vec<FieldViolation>) {
    let status = from_error(violations.into(), TraceId::INVALID);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    (status.details().len(), violations)
}

#[test]
fn fifty_violations_are_all_returned() {
    let (_, returned) = details(violations(50, 4));
    assert_eq!(returned.len(), 50);
    assert!(returned.iter().all(|violation| violation.field != TRUNCATION_FIELD));
    assert_eq!(returned[0].reason, "TOO_SHORT");
}

#[test]
fn violations_after_the_forty_ninth_are_counted_if_there_are_more_than_fifty() {
    let (_, returned) = details(violations(53, 4));
    assert_eq!(returned.len(), 50);
    assert_eq!((returned[49].field.as_str(), returned[49].description.as_str()), (TRUNCATION_FIELD, "and 4 more"));
}

#[test]
fn details_never_exceed_the_size_that_clients_accept() {
    let (bytes, returned) = details(violations(500, 300));
    assert!(bytes <= MAX_DETAILS_BYTES, "{bytes}");
    assert_eq!(returned.last().unwrap().description, format!("and {} more", 500 - (returned.len() - 1)));
}

#[test]
fn the_message_describes_a_single_violation_and_counts_several() {
    let message = |count| from_error(violations(count, 4).into(), TraceId::INVALID).message().to_owned();
    assert_eq!(message(1), "0000 must have at least 3 characters");
    assert_eq!(message(53), "53 fields are missing or invalid");
}

#[test]
fn each_field_has_one_violation() {
    let mut twice = violations(1, 4);
    twice.add("0000", InvalidValue::missing());
    assert_eq!(details(twice).1.len(), 1);
}

/// An error of every kind.
fn every_kind() -> Vec<Error> {
    let retry_after = Duration::from_millis(1_500);
    let limit = std::num::NonZeroU32::MIN;
    let resources = [Resource::Tenant, Resource::Segment, Resource::Package, Resource::ApiKey];
    let mut errors = vec![
        violations(1, 4).into(),
        Error::already_exists(UniqueField::TenantSlug, Some("bella")),
        Error::already_exists(UniqueField::SegmentSlug, Some("bella")),
        Error::already_exists(UniqueField::PackageSlug, Some("bella")),
        Error::already_exists(UniqueField::OwnerEmail, None),
        Precondition::LastPackage.into(),
        Precondition::DefaultSegment.into(),
        Precondition::SegmentNotEmpty.into(),
        Precondition::RequestIdReused.into(),
        Precondition::TenantNotDeleted.into(),
        Precondition::ApiKeyEnded.into(),
        Error::Unauthenticated,
        Error::PermissionDenied,
        Error::Unimplemented,
        Error::UnsupportedEncoding(String::new()),
        Error::Overloaded,
        Error::MalformedMessage(String::new()),
        Error::MessageTooLarge { max_bytes: 1 },
        Error::TooManyNestedMessages,
        Error::RateLimited { retry_after },
        Error::TooManyAttempts { retry_after },
        Error::QuotaExceeded { tenant_id: TenantId::from_uuid(uuid::Uuid::nil()), resource: Resource::Package, limit },
        Error::DatabaseUnavailable(std::sync::Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("away"))),
        Error::CursorExpired,
        Error::ConnectionClosing,
        Error::DeadlineExceeded,
        Error::Cancelled,
        Error::Conflict,
        Error::internal("a bug"),
    ];
    errors.extend(resources.map(Error::not_found));
    errors
}

#[test]
fn the_client_knows_every_reason() {
    for error in every_kind() {
        let name = format!("{error:?}");
        let status = from_error(error, TraceId::INVALID);
        let has_reason = status.get_details_error_info().is_some();
        let known = turnkey_client::Error::from(status).reason();
        assert_eq!(known.is_some(), has_reason, "{name}");
        assert!(!matches!(known, Some(turnkey_client::Reason::Other(_))), "{name}");
    }
}

fn pushback(status: &Status) -> Option<&str> {
    status.metadata().get(RETRY_PUSHBACK).map(|value| value.to_str().unwrap())
}

#[test]
fn every_kind_of_error_has_the_trailer_that_stock_clients_obey_exactly_if_it_has_a_retry_delay() {
    let mut retryable = Vec::new();
    for error in every_kind() {
        let name = format!("{error:?}");
        let status = from_error(error, TraceId::INVALID);
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(delay.is_some(), pushback(&status).is_some(), "{name}");
        if let Some(delay) = delay {
            let reason = status.get_details_error_info().unwrap().reason;
            retryable.push((reason, delay.as_millis(), pushback(&status).unwrap().to_owned()));
        }
    }
    let expected = [
        ("OVERLOADED", 200, "200"),
        ("OVERLOADED", 1_500, "1500"),
        // A long wait that a client must not spend in a retry.
        ("TOO_MANY_ATTEMPTS", 1_500, "-1"),
        ("DATABASE_UNAVAILABLE", 1_000, "1000"),
        ("CONNECTION_CLOSING", 50, "50"),
        ("CONFLICT", 50, "50"),
    ];
    assert_eq!(retryable, expected.map(|(reason, delay, trailer)| (reason.to_owned(), delay, trailer.to_owned())));
}

#[test]
fn the_trailer_of_a_fraction_of_a_millisecond_is_rounded_up() {
    let status = from_error(Error::RateLimited { retry_after: Duration::from_micros(1_001) }, TraceId::INVALID);
    assert_eq!(pushback(&status), Some("2"));
}

#[test]
fn an_internal_error_shows_its_trace_id_and_not_its_cause() {
    let status = from_error(Error::internal("relation \"tenants\" is on fire"), TraceId::INVALID);
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(status.message(), "internal error; report it with the trace id 00000000000000000000000000000000");
    assert!(!String::from_utf8_lossy(status.details()).contains("fire"));
}
