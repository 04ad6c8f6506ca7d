//! Identifies and authorizes the caller before the request is decoded. A layer and not a tonic interceptor, which would be
//! synchronous: a tenant key is looked up in the database. The decision itself is in `auth`.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};

use super::call_context::CallContext;
use crate::{
    domain::Caller,
    grpc::{auth::Authenticator, status},
};

/// Without an authenticator, every caller is anonymous and may call every RPC.
#[derive(Debug, Clone)]
pub struct AuthenticationLayer(Option<Authenticator>);

impl AuthenticationLayer {
    pub const fn new(authenticator: Option<Authenticator>) -> Self {
        Self(authenticator)
    }
}

impl<S> Layer<S> for AuthenticationLayer {
    type Service = AuthenticationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthenticationService { inner, authenticator: self.0.clone() }
    }
}

#[derive(Debug, Clone)]
pub struct AuthenticationService<S> {
    inner: S,
    authenticator: Option<Authenticator>,
}

impl<S> Service<Request<Body>> for AuthenticationService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
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
        let Some(authenticator) = self.authenticator.clone() else {
            tracing::Span::current().record("turnkey.caller", Caller::ANONYMOUS);
            return Box::pin(self.inner.call(request));
        };
        // `poll_ready` reserved the current instance, so the future takes it and leaves a clone.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let context = request.extensions_mut().get_or_insert_default::<CallContext>();
            let (trace_id, permit) = (context.trace_id, context.permit.clone());
            let sans = certificate_sans(&request);
            let (path, headers) = (request.uri().path(), request.headers());
            match authenticator.authenticate(path, headers, &sans, permit).await {
                Ok(caller) => {
                    tracing::Span::current().record("turnkey.caller", caller.name());
                    request.extensions_mut().get_or_insert_default::<CallContext>().caller = caller;
                    inner.call(request).await
                }
                Err(error) => Ok(status::from_error(error, trace_id).into_http()),
            }
        })
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
