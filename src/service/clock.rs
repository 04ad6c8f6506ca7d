//! The wall clock of the service, as a parameter. Durations and timeouts use monotonic time instead.

use std::{fmt, sync::Arc};

use time::OffsetDateTime;

/// Returns the current time. Tests pass a clock that they can advance.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> OffsetDateTime + Send + Sync>);

impl Clock {
    pub fn new(now: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    #[expect(clippy::disallowed_methods, reason = "the only place that reads the system clock")]
    pub fn system() -> Self {
        Self::new(OffsetDateTime::now_utc)
    }

    /// Returns the current time in whole microseconds, the precision of Postgres, so that a response has the same time
    /// as a later read.
    pub fn now(&self) -> OffsetDateTime {
        let now = (self.0)();
        now.replace_nanosecond(now.microsecond() * 1_000).unwrap_or(now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_in_whole_microseconds() {
        let time = |nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap();
        let clock = Clock::new(move || time(1_767_323_045_123_456_789));
        assert_eq!(clock.now(), time(1_767_323_045_123_456_000));
    }
}
