//! Identifies and authorizes the caller before the request is decoded. A layer and not a tonic interceptor, which would be
//! synchronous: a tenant key is looked up in the database. The decision itself is in `auth`.

use std::sync::Arc;

use futures_util::future::Either;
use http::Request;
use tonic::body::Body;

use super::{
    call_context::{CallContext, trace_id},
    middleware::{CallFuture, InnerService, Middleware, take_ready},
};
use crate::{
    domain::Caller,
    error::Error,
    grpc::{
        auth::{Authenticator, authorize},
        connection::Connection,
        status,
    },
};

/// The name of the authenticated caller, as an extension of the response.
#[derive(Debug, Clone)]
pub struct CallerName(pub Arc<str>);

/// Without an authenticator, every caller is anonymous and may call every RPC.
impl Middleware for Option<Authenticator> {
    fn call<S: InnerService>(&self, inner: &mut S, mut request: Request<Body>) -> CallFuture<S> {
        let Some(authenticator) = self.clone() else {
            tracing::Span::current().record("turnkey.caller", Caller::ANONYMOUS);
            request.extensions_mut().get_or_insert_default::<CallContext>().caller = Some(Caller::anonymous());
            return Either::Left(inner.call(request));
        };
        let mut inner = take_ready(inner);
        Either::Right(Box::pin(async move {
            let trace_id = trace_id(&request);
            let result = match request.extensions().get::<Arc<Connection>>() {
                Some(connection) => {
                    authenticator.authenticate(request.uri().path(), request.headers(), connection).await
                }
                None => Err(Error::internal("the call has no connection")),
            };
            let caller = match result {
                Ok(caller) => caller,
                Err(error) => return Ok(status::from_error(error, trace_id).into_http()),
            };
            tracing::Span::current().record("turnkey.caller", &**caller.name());
            let name = CallerName(Arc::clone(caller.name()));
            let mut response = match authorize(&caller, request.uri().path()) {
                Ok(()) => {
                    request.extensions_mut().get_or_insert_default::<CallContext>().caller = Some(caller);
                    inner.call(request).await?
                }
                Err(error) => status::from_error(error, trace_id).into_http(),
            };
            response.extensions_mut().insert(name);
            Ok(response)
        }))
    }
}
