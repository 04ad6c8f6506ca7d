//! Limits the calls in progress over all connections. Calls beyond the limit fail at once instead of waiting. Work that
//! continues after its client has disconnected counts too. Health is exempt, so that a busy server is not considered dead.

use std::{future::ready, sync::Arc};

use futures_util::future::Either;
use http::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;

use super::{
    call_context::CallContext,
    middleware::{CallFuture, InnerService, Middleware},
};
use crate::{error::Error, grpc::status};

const HEALTH: &str = "/grpc.health.v1.Health/";

/// One of the calls in progress, until its last clone is dropped.
pub type CallPermit = Arc<OwnedSemaphorePermit>;

#[derive(Debug, Clone)]
pub struct ConcurrencyLimit(Arc<Semaphore>);

impl ConcurrencyLimit {
    pub fn new(max_concurrent_calls: usize) -> Self {
        Self(Arc::new(Semaphore::new(max_concurrent_calls)))
    }
}

impl Middleware for ConcurrencyLimit {
    fn call<S: InnerService>(&self, inner: &mut S, mut request: Request<Body>) -> CallFuture<S> {
        if request.uri().path().starts_with(HEALTH) {
            return Either::Left(inner.call(request));
        }
        let context = request.extensions_mut().get_or_insert_default::<CallContext>();
        let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() else {
            let response = status::from_error(Error::Overloaded, context.trace_id).into_http();
            return Either::Right(Box::pin(ready(Ok(response))));
        };
        context.permit = Some(Arc::new(permit));
        Either::Left(inner.call(request))
    }
}
