//! Lets callers in, or not, before their request is looked at: by who they are, and by how often they call. Asynchronous,
//! as an interceptor could not be: a tenant's key is looked up.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use tonic::{
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};

use super::{call_context::CallContext, concurrency_limit::CallPermit};
use crate::{
    domain::Caller,
    error::Error,
    grpc::{
        CallerRateLimiter,
        auth::{Authenticator, is_public},
        status,
    },
};

#[derive(Debug, Clone)]
pub struct AuthenticationLayer {
    /// Without one everyone may call.
    pub authenticator: Option<Authenticator>,
    /// Without one as often as they like.
    pub rate_limiter: Option<CallerRateLimiter>,
}

impl AuthenticationLayer {
    async fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        sans: &[String],
        permit: Option<CallPermit>,
    ) -> Result<Caller, Error> {
        let caller = match &self.authenticator {
            Some(authenticator) => authenticator.admit(path, headers, sans, permit).await?,
            None => Caller::anonymous(),
        };
        match &self.rate_limiter {
            Some(rate) if !is_public(path) => rate.admit(&caller)?,
            _ => {}
        }
        Ok(caller)
    }
}

impl<S> Layer<S> for AuthenticationLayer {
    type Service = AuthenticationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthenticationService { inner, layer: self.clone() }
    }
}

#[derive(Debug, Clone)]
pub struct AuthenticationService<S> {
    inner: S,
    layer: AuthenticationLayer,
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
        let layer = self.layer.clone();
        if layer.authenticator.is_none() && layer.rate_limiter.is_none() {
            tracing::Span::current().record("turnkey.caller", Caller::ANONYMOUS);
            return Box::pin(self.inner.call(request));
        }
        // The one that was polled ready is the one to be called; the clone waits for its turn.
        let waiting = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, waiting);
        Box::pin(async move {
            let mut context = request.extensions().get::<CallContext>().cloned().unwrap_or_default();
            let sans = certificate_sans(&request);
            match layer.admit(request.uri().path(), request.headers(), &sans, context.permit.clone()).await {
                Ok(caller) => {
                    tracing::Span::current().record("turnkey.caller", caller.name());
                    context.caller = caller;
                    request.extensions_mut().insert(context);
                    inner.call(request).await
                }
                Err(error) => Ok(status::from_error(error, context.trace_id).into_http()),
            }
        })
    }
}

/// The DNS names, in lower case, and URIs of the certificate that the caller proved to be theirs, if they have one.
fn certificate_sans<B>(request: &Request<B>) -> Vec<String> {
    let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let certificates = info.and_then(TlsConnectInfo::peer_certs);
    let own = certificates.as_deref().and_then(|certificates| certificates.first());
    let Some(Ok(certificate)) = own.map(webpki::EndEntityCert::try_from) else { return Vec::new() };
    let dns_names = certificate.valid_dns_names().map(str::to_ascii_lowercase);
    dns_names.chain(certificate.valid_uri_names().map(str::to_owned)).collect()
}
