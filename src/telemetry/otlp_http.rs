//! The HTTP client of OTLP over HTTP.
//!
//! The SDK exports on threads of its own. hyper needs the runtime, so each request is a task of it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, hyper::HyperClient};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::runtime::Handle;

#[derive(Debug)]
pub(super) struct OtlpHttpClient {
    runtime: Handle,
    client: HyperClient<HttpsConnector<HttpConnector>>,
}

impl OtlpHttpClient {
    /// It must be called within a runtime. `timeout` is that of one request.
    pub fn new(timeout: Duration) -> Result<Self, rustls::Error> {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls()?).https_or_http().enable_http1().build();
        Ok(Self { runtime: Handle::current(), client: HyperClient::new(connector, timeout, None) })
    }
}

#[async_trait]
impl HttpClient for OtlpHttpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

/// Trusts the system's CAs. A system without them can still export to `http://`.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}
