//! How often one caller may call, so that none takes what all share. Off unless it is set.

use std::{num::NonZeroU32, sync::Arc};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

use crate::{
    domain::Caller,
    error::{Error, Result},
};

type ByName = RateLimiter<String, HashMapStateStore<String>, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// Counts by the names of callers. Where callers need no credential they all are one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallerRateLimiter(Arc<ByName>);

impl CallerRateLimiter {
    /// A second's worth of calls may come at once.
    pub fn new(calls_per_second: NonZeroU32) -> Self {
        let quota = Quota::per_second(calls_per_second);
        Self(Arc::new(RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock)))
    }

    /// # Errors
    /// [`Error::RateLimited`], with the time after which the next call is let in.
    pub fn admit(&self, caller: &Caller) -> Result<()> {
        self.0
            .check_key(&caller.name().to_owned())
            .map_err(|until| Error::RateLimited { retry_after: until.wait_time_from(MonotonicClock.now()) })
    }

    /// Forgets those who have not called lately. To be called now and then: every tenant with a key may call.
    pub fn evict_idle(&self) {
        self.0.retain_recent();
        self.0.shrink_to_fit();
    }
}
