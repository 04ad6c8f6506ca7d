//! Identifies and authorizes the caller before the request is decoded. A layer and not a tonic interceptor, which would be
//! synchronous: a tenant key is looked up in the database. The decision itself is in `auth`.

use futures_util::future::Either;
use http::Request;
use tonic::{
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use super::{
    call_context::CallContext,
    middleware::{CallFuture, InnerService, Middleware},
};
use crate::{
    domain::{Caller, service_credentials::San},
    grpc::{
        auth::{Authenticator, certificate_sans},
        status,
    },
};

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
            let context = request.extensions_mut().get_or_insert_default::<CallContext>();
            let trace_id = context.trace_id;
            let sans = peer_sans(&request);
            let (path, headers) = (request.uri().path(), request.headers());
            match authenticator.authenticate(path, headers, &sans).await {
                Ok(caller) => {
                    tracing::Span::current().record("turnkey.caller", caller.name());
                    request.extensions_mut().get_or_insert_default::<CallContext>().caller = Some(caller);
                    inner.call(request).await
                }
                Err(error) => Ok(status::from_error(error, trace_id).into_http()),
            }
        }))
    }
}

/// Returns the names in the client's verified certificate, if it presented one.
fn peer_sans<B>(request: &Request<B>) -> Vec<San> {
    let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let certificates = info.and_then(TlsConnectInfo::peer_certs);
    certificates.as_deref().and_then(|certificates| certificates.first()).map(certificate_sans).unwrap_or_default()
}
