//! A client of `grpc.health.v1.Health`, for `turnkey healthcheck`. The server of it is in `server::health`.

use std::time::Duration;

use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether the server at this address (`host:port`) is SERVING.
pub async fn is_serving(address: &str) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(HEALTHCHECK_TIMEOUT)
        .timeout(HEALTHCHECK_TIMEOUT);
    let mut client = HealthClient::new(endpoint.connect().await?);
    let response = client.check(HealthCheckRequest { service: String::new() }).await?.into_inner();
    Ok(response.status() == ServingStatus::Serving)
}
