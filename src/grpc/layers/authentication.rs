//! Identifies and authorizes the caller before the request is decoded. A layer and not a tonic interceptor, which would be
//! synchronous: a tenant key is looked up in the database. The decision itself is in `auth`.

use std::sync::Arc;

use futures_util::future::Either;
use http::Request;
use tonic::body::Body;

use super::{
    call_context::CallContext,
    middleware::{CallFuture, InnerService, Middleware},
};
use crate::{
    domain::Caller,
    error::Error,
    grpc::{
        auth::{Authenticator, authorize},
        connection::Connection,
        status,
    },
    telemetry::trace::TraceId,
};

/// The name of the authenticated caller, as an extension of the response.
#[derive(Debug, Clone)]
pub struct CallerName(pub String);

/// Without an authenticator, every caller is anonymous and may call every RPC.
impl Middleware for Option<Authenticator> {
    fn call<S: InnerService>(&self, inner: &mut S, mut request: Request<Body>) -> CallFuture<S> {
        let Some(authenticator) = self.clone() else {
            tracing::Span::current().record("turnkey.caller", Caller::ANONYMOUS);
            request.extensions_mut().get_or_insert_default::<CallContext>().caller = Some(Caller::anonymous());
            return Either::Left(inner.call(request));
        };
        // `poll_ready` reserved the current instance, so the future takes it and leaves a clone.
        let clone = inner.clone();
        let mut inner = std::mem::replace(inner, clone);
        Either::Right(Box::pin(async move {
            let context = request.extensions().get::<CallContext>();
            let trace_id = context.map_or(TraceId::INVALID, |context| context.trace_id);
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
            tracing::Span::current().record("turnkey.caller", caller.name());
            let name = CallerName(caller.name().to_owned());
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
