//! What the layers have in common: each is a [`Middleware`], which [`MiddlewareLayer`] makes usable for tower.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either};
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

/// The service that a layer wraps: the next layer, or the routes.
pub trait InnerService:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> InnerService for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// A layer's own future, on the heap. It may call the inner service.
pub type CallFuture = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Left: the future of the inner service itself, without an allocation.
pub type InnerOrOwnFuture<S> = Either<<S as Service<Request<Body>>>::Future, CallFuture>;

/// Returns the instance that `poll_ready` reserved, for a future that calls it, and leaves a clone.
pub fn take_ready<S: InnerService>(inner: &mut S) -> S {
    let clone = inner.clone();
    std::mem::replace(inner, clone)
}

pub trait Middleware: Clone {
    /// [`CallFuture`], or [`InnerOrOwnFuture`] if the layer often returns the inner future as it is.
    type Future<S: InnerService>: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static;

    /// Calls `inner`, which is ready for one call, or returns a response in its place.
    fn call<S: InnerService>(&self, inner: &mut S, request: Request<Body>) -> Self::Future<S>;
}

#[derive(Debug, Clone)]
pub struct MiddlewareLayer<M>(pub M);

impl<M: Middleware, S> Layer<S> for MiddlewareLayer<M> {
    type Service = MiddlewareService<M, S>;

    fn layer(&self, inner: S) -> Self::Service {
        MiddlewareService { middleware: self.0.clone(), inner }
    }
}

#[derive(Debug, Clone)]
pub struct MiddlewareService<M, S> {
    middleware: M,
    inner: S,
}

impl<M: Middleware, S: InnerService> Service<Request<Body>> for MiddlewareService<M, S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = M::Future<S>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> M::Future<S> {
        self.middleware.call(&mut self.inner, request)
    }
}
