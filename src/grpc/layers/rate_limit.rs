//! Limits the calls per second of each caller. Off unless a limit is configured. Inside `authentication`, which
//! identifies the caller; health and reflection are exempt.

use std::{future::ready, num::NonZeroU32, sync::Arc};

use futures_util::future::Either;
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};
use http::Request;
use tonic::body::Body;

use super::{
    call_context::CallContext,
    middleware::{InnerOrOwnFuture, InnerService, Middleware},
};
use crate::{
    domain::Caller,
    error::{Error, Result},
    grpc::{auth::is_public, status},
};

type KeyedLimiter =
    RateLimiter<Arc<str>, HashMapStateStore<Arc<str>>, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// One limit for each caller, by its name. Without authentication, all calls share the limit of the anonymous caller.
/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallerRateLimiter(Arc<KeyedLimiter>);

impl CallerRateLimiter {
    /// The burst size is one second's worth of calls.
    pub fn new(calls_per_second: NonZeroU32) -> Self {
        let quota = Quota::per_second(calls_per_second);
        Self(Arc::new(RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock)))
    }

    /// # Errors
    /// [`Error::RateLimited`], with the time until the next call is permitted.
    fn check(&self, caller: &Caller) -> Result<()> {
        self.0
            .check_key(caller.name())
            .map_err(|until| Error::RateLimited { retry_after: until.wait_time_from(MonotonicClock.now()) })
    }

    /// Forgets callers whose limit is full again. Call it periodically: every tenant with a key is a caller.
    pub fn evict_idle(&self) {
        self.0.retain_recent();
        self.0.shrink_to_fit();
    }
}

impl Middleware for Option<CallerRateLimiter> {
    type Future<S: InnerService> = InnerOrOwnFuture<S>;

    fn call<S: InnerService>(&self, inner: &mut S, mut request: Request<Body>) -> InnerOrOwnFuture<S> {
        if let Some(limiter) = self.as_ref().filter(|_| !is_public(request.uri().path())) {
            let context = request.extensions_mut().get_or_insert_default::<CallContext>();
            if let Some(Err(error)) = context.caller.as_ref().map(|caller| limiter.check(caller)) {
                let response = status::from_error(error, context.trace_id).into_http();
                return Either::Right(Box::pin(ready(Ok(response))));
            }
        }
        Either::Left(inner.call(request))
    }
}
