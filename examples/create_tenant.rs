//! Creates a tenant exactly once and receives its secret key, even if responses are lost:
//!
//!     cargo run --example create_tenant -- http://127.0.0.1:50051 bella-weddings "Bella Weddings"
//!
//! All attempts use the same `request_id`. Each attempt has a deadline, and the backoff between attempts grows
//! exponentially with jitter. A real caller stores the `request_id` before the first attempt (for example, next to the
//! order that the tenant belongs to), so that it can retry even after its own crash. The `request_id` is a secret for 24
//! hours. This example reads it from `REQUEST_ID`, or generates one.

use std::{error::Error, time::Duration};

use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{
    CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, tenant_provisioning_client::TenantProvisioningClient,
};

const MAX_ATTEMPTS: u32 = 10;
const DEADLINE: Duration = Duration::from_secs(5);
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, slug, name] = &arguments[..] else { return Err("usage: create_tenant URL SLUG NAME".into()) };
    let request_id = std::env::var("REQUEST_ID").unwrap_or_else(|_unset| uuid::Uuid::new_v4().to_string());

    // Connects at the first call, and again after every failure.
    let channel = Endpoint::from_shared(url.clone())?.connect_lazy();
    let request = CreateFullyProvisionedRequest {
        slug: slug.clone(),
        name: name.clone(),
        request_id: Some(request_id),
        ..CreateFullyProvisionedRequest::default()
    };
    let response = create(&mut TenantProvisioningClient::new(channel), &request).await?;
    let tenant = response.tenant.unwrap_or_default();
    println!("tenant {} id {} replayed {}", tenant.slug, tenant.id, response.replayed);
    // A real caller stores response.secret_key in its secret store now: after 24 hours, no call returns it again.
    println!("secret received {}", !response.secret_key.is_empty());
    Ok(())
}

async fn create(
    client: &mut TenantProvisioningClient<Channel>,
    message: &CreateFullyProvisionedRequest,
) -> Result<CreateFullyProvisionedResponse, Status> {
    let mut backoff = INITIAL_BACKOFF;
    let mut attempt = 1;
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(DEADLINE);
        let status = match client.create_fully_provisioned(request).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        let retry_delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        if attempt == MAX_ATTEMPTS || !is_retryable(status.code(), retry_delay) {
            return Err(status);
        }
        eprintln!("attempt {attempt}: {}", status.code());
        // Jitter keeps clients from retrying in step. The server's delay is a minimum.
        let jittered = backoff.mul_f64(rand::random_range(0.5..1.5));
        tokio::time::sleep(jittered.max(retry_delay.unwrap_or_default())).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
        attempt += 1;
    }
}

/// With a request id, a call can be retried even if its outcome is unknown. `RESOURCE_EXHAUSTED` without a delay means that
/// the message is too large, which no retry changes.
fn is_retryable(code: Code, retry_delay: Option<Duration>) -> bool {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Unknown => true,
        Code::ResourceExhausted => retry_delay.is_some(),
        _ => false,
    }
}
