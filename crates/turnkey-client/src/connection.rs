//! Connections to a server, and the credential of their calls.

use std::{fmt, time::Duration};

use http::{Uri, uri::Scheme};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use crate::{Client, RetryPolicy};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that does not acknowledge a PING is gone, and the next call connects again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    #[error("the URL must begin with http:// or https://, and have a host and no user name")]
    Url,
    #[error("the token contains characters that a header cannot")]
    Token,
    #[error("the TLS settings cannot be used")]
    Tls(#[source] tonic::transport::Error),
    #[error("cannot reach the server")]
    Unreachable(#[source] tonic::transport::Error),
}

/// Settings of a connection.
#[derive(Clone)]
#[must_use]
pub struct Connector {
    url: Uri,
    token: Option<String>,
    tls: ClientTlsConfig,
    has_ca: bool,
    connect_timeout: Duration,
    retry: RetryPolicy,
}

/// Adds the credential to each call.
#[derive(Clone, Debug, Default)]
pub struct Authorization(Option<MetadataValue<Ascii>>);

impl Connector {
    /// A URL such as `http://127.0.0.1:50051`, in plaintext, or `https://turnkey.example.com`.
    pub fn new(url: &str) -> Result<Self, ConnectError> {
        let url: Uri = url.parse().map_err(|_invalid| ConnectError::Url)?;
        let is_known = url.scheme().is_some_and(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
        let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if !is_known || has_user || url.host().is_none_or(str::is_empty) {
            return Err(ConnectError::Url);
        }
        let (tls, retry) = (ClientTlsConfig::new(), RetryPolicy::default());
        Ok(Self { url, token: None, tls, has_ca: false, connect_timeout: CONNECT_TIMEOUT, retry })
    }

    /// A service token or a tenant's secret key.
    pub fn token(self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// Trusts these CAs (PEM) instead of the system's.
    pub fn ca_certificates(self, pem: impl AsRef<[u8]>) -> Self {
        Self { tls: self.tls.ca_certificate(Certificate::from_pem(pem)), has_ca: true, ..self }
    }

    /// The name that the server's certificate must have, instead of the host of the URL.
    pub fn server_name(self, name: impl Into<String>) -> Self {
        Self { tls: self.tls.domain_name(name), ..self }
    }

    /// The certificate chain and the private key (PEM) of this client.
    pub fn client_certificate(self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Self { tls: self.tls.identity(Identity::from_pem(chain, key)), ..self }
    }

    /// 5 s unless set.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// How calls are repeated.
    pub fn retry(self, retry: RetryPolicy) -> Self {
        Self { retry, ..self }
    }

    /// Connects now, so that a wrong address or certificate is an error here.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let (endpoint, authorization) = (self.endpoint()?, self.authorization()?);
        let channel = endpoint.connect().await.map_err(ConnectError::Unreachable)?;
        Ok(Client::new(channel, authorization, self.retry))
    }

    /// Connects at the first call. Must be called within a Tokio runtime.
    pub fn connect_lazy(self) -> Result<Client, ConnectError> {
        let (endpoint, authorization) = (self.endpoint()?, self.authorization()?);
        Ok(Client::new(endpoint.connect_lazy(), authorization, self.retry))
    }

    fn endpoint(&self) -> Result<Endpoint, ConnectError> {
        let endpoint = Endpoint::from(self.url.clone())
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        if self.url.scheme() == Some(&Scheme::HTTP) {
            return Ok(endpoint);
        }
        let tls = self.tls.clone();
        endpoint.tls_config(if self.has_ca { tls } else { tls.with_native_roots() }).map_err(ConnectError::Tls)
    }

    fn authorization(&self) -> Result<Authorization, ConnectError> {
        let Some(token) = &self.token else { return Ok(Authorization(None)) };
        let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_invalid| ConnectError::Token)?;
        // Debug output then omits it.
        value.set_sensitive(true);
        Ok(Authorization(Some(value)))
    }
}

/// Shows neither the token nor the private key.
impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("url", &self.url).field("retry", &self.retry).finish_non_exhaustive()
    }
}

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_known_scheme_and_a_host() {
        for url in ["http://127.0.0.1:50051", "HTTPS://turnkey.example.com", "https://[::1]:443/"] {
            assert!(Connector::new(url).is_ok(), "{url}");
        }
        for url in
            ["", "turnkey.example.com", "grpc://localhost:1", "https://", "https://:443", "https://a:b@localhost"]
        {
            assert!(matches!(Connector::new(url), Err(ConnectError::Url)), "{url}");
        }
    }

    #[test]
    fn debug_output_omits_the_token() -> Result<(), ConnectError> {
        let connector = Connector::new("http://127.0.0.1:1")?.token("svc_booking_secret");
        assert!(!format!("{connector:?} {:?}", connector.authorization()?).contains("secret"));
        assert!(matches!(connector.token("svc\n").authorization(), Err(ConnectError::Token)));
        Ok(())
    }
}
