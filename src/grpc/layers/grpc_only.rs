//! Refuses requests that are not gRPC, as its specification requires ("gRPC over HTTP2", Requests). A browser sends a
//! form to another site without asking, with the user's client certificate; it cannot do so with gRPC's content type.

use std::future::ready;

use futures_util::future::Either;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::body::Body;

use super::middleware::{InnerOrOwnFuture, InnerService, Middleware};

#[derive(Debug, Clone, Copy)]
pub struct GrpcOnly;

impl Middleware for GrpcOnly {
    type Future<S: InnerService> = InnerOrOwnFuture<S>;

    fn call<S: InnerService>(&self, inner: &mut S, request: Request<Body>) -> InnerOrOwnFuture<S> {
        let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
        let mut response = Response::new(Body::empty());
        if request.method() != Method::POST {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        } else if content_type.starts_with(b"application/grpc") {
            return Either::Left(inner.call(request));
        } else {
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        }
        Either::Right(Box::pin(ready(Ok(response))))
    }
}
