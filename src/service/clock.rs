//! The time, handed in.

use std::{fmt, sync::Arc};

use time::OffsetDateTime;

/// Tells the time; a test hands in one that it can move.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> OffsetDateTime + Send + Sync>);

impl Clock {
    pub fn new(now: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where time comes from")]
    pub fn system() -> Self {
        Self::new(OffsetDateTime::now_utc)
    }

    /// In whole microseconds, as Postgres keeps it: what an answer says now and what is read later are the same.
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
