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
    domain::Caller,
    grpc::{auth::Authenticator, status},
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
            let (trace_id, permit) = (context.trace_id, context.permit.clone());
            let sans = certificate_sans(&request);
            let (path, headers) = (request.uri().path(), request.headers());
            match authenticator.authenticate(path, headers, &sans, permit).await {
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

/// Returns the DNS names (in lower case) and URIs of the client's verified certificate, if it presented one.
fn certificate_sans<B>(request: &Request<B>) -> Vec<String> {
    let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let certificates = info.and_then(TlsConnectInfo::peer_certs);
    let own = certificates.as_deref().and_then(|certificates| certificates.first());
    let Some(Ok(certificate)) = own.map(webpki::EndEntityCert::try_from) else { return Vec::new() };
    let dns_names = certificate.valid_dns_names().map(str::to_ascii_lowercase);
    dns_names.chain(certificate.valid_uri_names().map(str::to_owned)).collect()
}
