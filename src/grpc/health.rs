//! A client of `grpc.health.v1.Health`, for `turnkey healthcheck`. The server of it is in `server::health`.

use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// How a server with TLS is verified.
#[derive(Debug)]
pub struct Tls {
    /// The CAs to trust, PEM; `None` for those of the system.
    pub ca: Option<Vec<u8>>,
    /// The name or IP address that the server's certificate must have.
    pub server_name: String,
}

/// Whether the server at this address (`host:port`) is SERVING. Without `tls`, the connection is plaintext.
pub async fn is_serving(address: &str, tls: Option<Tls>) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
        .connect_timeout(HEALTHCHECK_TIMEOUT)
        .timeout(HEALTHCHECK_TIMEOUT);
    if let Some(Tls { ca, server_name }) = tls {
        let config = ClientTlsConfig::new().domain_name(server_name);
        endpoint = endpoint.tls_config(match ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(ca)),
            None => config.with_native_roots(),
        })?;
    }
    let mut client = HealthClient::new(endpoint.connect().await?);
    let response = client.check(HealthCheckRequest { service: String::new() }).await?.into_inner();
    Ok(response.status() == ServingStatus::Serving)
}
