//! Identifies and authorizes the caller before the request is decoded. A layer and not a tonic interceptor, which would
//! be synchronous: a tenant key is looked up in the database. The decision itself is in `auth`.

use std::sync::Arc;

use futures_util::future::Either;
use http::{Extensions, HeaderMap, Request};
use tonic::body::Body;

use super::{
    call_context::{CallContext, trace_id},
    middleware::{InnerOrOwnFuture, InnerService, Middleware, take_ready},
};
use crate::{
    domain::Caller,
    error::{Error, Result},
    grpc::{
        auth::{WATCH_EVENTS, authorize},
        authenticator::{Authenticator, HeldCredential},
        connection::Connection,
        status,
    },
};

/// The name of the authenticated caller, as an extension of the response.
#[derive(Debug, Clone)]
pub struct CallerName(pub Arc<str>);

/// The caller of a request that was authenticated before the layers, as an extension of the request.
#[derive(Debug, Clone)]
pub struct AuthenticatedCaller(pub Caller);

/// Without an authenticator, every caller is anonymous and may call every RPC.
impl Middleware for Option<Authenticator> {
    type Future<S: InnerService> = InnerOrOwnFuture<S>;

    fn call<S: InnerService>(&self, inner: &mut S, mut request: Request<Body>) -> InnerOrOwnFuture<S> {
        if self.is_none() && request.extensions().get::<AuthenticatedCaller>().is_none() {
            tracing::Span::current().record("turnkey.caller", Caller::ANONYMOUS);
            request.extensions_mut().get_or_insert_default::<CallContext>().caller = Some(Caller::anonymous());
            return Either::Left(inner.call(request));
        }
        let authenticator = self.clone();
        let mut inner = take_ready(inner);
        Either::Right(Box::pin(async move {
            let trace_id = trace_id(&request);
            let (path, headers, extensions) = (request.uri().path(), request.headers(), request.extensions());
            let caller = match identify(authenticator.as_ref(), path, headers, extensions).await {
                Ok(caller) => caller,
                Err(error) => return Ok(status::from_error(error, trace_id).into_http()),
            };
            tracing::Span::current().record("turnkey.caller", &**caller.name());
            let name = CallerName(Arc::clone(caller.name()));
            let mut response = match authorize(&caller, request.uri().path()) {
                Ok(()) => {
                    hold_credential(authenticator, &caller, &mut request);
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

/// Keeps the credential of a stream that must end with it.
fn hold_credential(authenticator: Option<Authenticator>, caller: &Caller, request: &mut Request<Body>) {
    if request.uri().path() != WATCH_EVENTS {
        return;
    }
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    if let (Some(authenticator), Some(connection)) = (authenticator, connection) {
        let held = HeldCredential::new(authenticator, caller.clone(), request.headers(), connection);
        request.extensions_mut().insert(held);
    }
}

async fn identify(
    authenticator: Option<&Authenticator>,
    path: &str,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Caller> {
    if let Some(AuthenticatedCaller(caller)) = extensions.get() {
        return Ok(caller.clone());
    }
    match (authenticator, extensions.get::<Arc<Connection>>()) {
        (Some(authenticator), Some(connection)) => authenticator.authenticate(path, headers, connection).await,
        _ => Err(Error::internal("the call has no connection")),
    }
}
