//! One bound on all calls at work, whatever connections they come by: beyond it a caller hears at once to come back later,
//! instead of waiting with everybody else. Work that goes on when its caller has hung up counts too. Health stays outside,
//! or a busy server would be taken for a dead one.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tower::{Layer, Service};

use super::call_context::CallContext;
use crate::{error::Error, grpc::status};

const HEALTH: &str = "/grpc.health.v1.Health/";

/// A place among the calls at work, for as long as anyone holds a copy.
pub type CallPermit = Arc<OwnedSemaphorePermit>;

#[derive(Debug, Clone)]
pub struct ConcurrencyLimitLayer(Arc<Semaphore>);

impl ConcurrencyLimitLayer {
    pub fn new(max_concurrent_calls: usize) -> Self {
        Self(Arc::new(Semaphore::new(max_concurrent_calls)))
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = ConcurrencyLimitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ConcurrencyLimitService { inner, semaphore: Arc::clone(&self.0) }
    }
}

#[derive(Debug, Clone)]
pub struct ConcurrencyLimitService<S> {
    inner: S,
    semaphore: Arc<Semaphore>,
}

impl<S> Service<Request<Body>> for ConcurrencyLimitService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path().starts_with(HEALTH) {
            return Box::pin(self.inner.call(request));
        }
        let Ok(permit) = Arc::clone(&self.semaphore).try_acquire_owned() else {
            let trace_id =
                request.extensions().get::<CallContext>().map(|context| context.trace_id).unwrap_or_default();
            return Box::pin(async move { Ok(status::from_error(Error::Overloaded, trace_id).into_http()) });
        };
        request.extensions_mut().get_or_insert_default::<CallContext>().permit = Some(Arc::new(permit));
        Box::pin(self.inner.call(request))
    }
}
