//! Limits the calls per second of each caller. Off unless a limit is configured. Inside `authentication`, which
//! identifies the caller; health and reflection are exempt.

use std::{
    future::{Ready, ready},
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::call_context::CallContext;
use crate::{
    domain::Caller,
    error::{Error, Result},
    grpc::{auth::is_public, status},
};

type KeyedLimiter = RateLimiter<String, HashMapStateStore<String>, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

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
            .check_key(&caller.name().to_owned())
            .map_err(|until| Error::RateLimited { retry_after: until.wait_time_from(MonotonicClock.now()) })
    }

    /// Forgets callers whose limit is full again. Call it periodically: every tenant with a key is a caller.
    pub fn evict_idle(&self) {
        self.0.retain_recent();
        self.0.shrink_to_fit();
    }
}

#[derive(Debug, Clone)]
pub struct RateLimitLayer(Option<CallerRateLimiter>);

impl RateLimitLayer {
    pub const fn new(limiter: Option<CallerRateLimiter>) -> Self {
        Self(limiter)
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitService { inner, limiter: self.0.clone() }
    }
}

#[derive(Debug, Clone)]
pub struct RateLimitService<S> {
    inner: S,
    limiter: Option<CallerRateLimiter>,
}

impl<S> Service<Request<Body>> for RateLimitService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<std::result::Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(limiter) = self.limiter.as_ref().filter(|_| !is_public(request.uri().path())) {
            let context = request.extensions_mut().get_or_insert_default::<CallContext>();
            if let Err(error) = limiter.check(&context.caller) {
                return Either::Right(ready(Ok(status::from_error(error, context.trace_id).into_http())));
            }
        }
        Either::Left(self.inner.call(request))
    }
}
