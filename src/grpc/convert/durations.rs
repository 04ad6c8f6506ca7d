//! Durations of requests.

use std::ops::RangeInclusive;

use prost_types::Duration as PbDuration;
use time::Duration;

use crate::domain::{InvalidValue, Reason};

/// # Errors
/// `BAD_FORMAT` if the message is not a valid duration; `OUT_OF_RANGE` with this description.
pub fn parse(
    message: PbDuration,
    permitted: &RangeInclusive<Duration>,
    out_of_range: &'static str,
) -> Result<Duration, InvalidValue> {
    let (seconds, nanos) = (message.seconds, message.nanos);
    let is_normal =
        nanos.unsigned_abs() < 1_000_000_000 && (seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0));
    if !is_normal {
        return Err(InvalidValue::new(
            Reason::BadFormat,
            "must be a duration whose seconds and nanos have the same sign, with nanos below 1,000,000,000",
        ));
    }
    let duration = Duration::new(seconds, nanos);
    if !permitted.contains(&duration) {
        return Err(InvalidValue::new(Reason::OutOfRange, out_of_range));
    }
    Ok(duration)
}
