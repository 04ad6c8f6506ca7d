//! Limits the calls in progress over all connections. Calls beyond the limit fail at once instead of waiting. Work that
//! continues after its client has disconnected counts too. Health is exempt, so that a busy server is not considered dead.

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

/// One of the calls in progress, until its last clone is dropped.
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
        let context = request.extensions_mut().get_or_insert_default::<CallContext>();
        let Ok(permit) = Arc::clone(&self.semaphore).try_acquire_owned() else {
            let response = status::from_error(Error::Overloaded, context.trace_id).into_http();
            return Box::pin(std::future::ready(Ok(response)));
        };
        context.permit = Some(Arc::new(permit));
        Box::pin(self.inner.call(request))
    }
}
