//! Creates a tenant so that it is there exactly once and its secret is not lost, whatever happens on the way:
//!
//!     cargo run --example create_tenant -- http://127.0.0.1:50051 bella-weddings "Bella Weddings"
//!
//! One `request_id` for all attempts, a deadline for each, a growing and uneven pause between them. In a real caller the
//! id is kept (next to the order it is for, say) before the first attempt, so that even a crash of the caller costs
//! nothing; it is a secret for 24 hours. Here it can be given as `REQUEST_ID`.

use std::{error::Error, time::Duration};

use tonic::{Code, Request, Status, transport::Endpoint};
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{
    CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, tenant_provisioning_client::TenantProvisioningClient,
};

const ATTEMPTS: u32 = 10;
const DEADLINE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, slug, name] = &arguments[..] else { return Err("say URL SLUG NAME".into()) };
    let request_id = std::env::var("REQUEST_ID").unwrap_or_else(|_unset| uuid::Uuid::new_v4().to_string());

    // Connects when it is first used, and again after every failure.
    let channel = Endpoint::from_shared(url.clone())?.connect_lazy();
    let mut client = TenantProvisioningClient::new(channel);
    let wish = CreateFullyProvisionedRequest {
        slug: slug.clone(),
        name: name.clone(),
        request_id: Some(request_id),
        ..CreateFullyProvisionedRequest::default()
    };
    let made = create(&mut client, &wish).await?;
    let tenant = made.tenant.unwrap_or_default();
    println!("tenant {} id {} replayed {}", tenant.slug, tenant.id, made.replayed);
    // Store made.secret_key now, where secrets are kept. It is not shown again.
    println!("secret received {}", !made.secret_key.is_empty());
    Ok(())
}

async fn create(
    client: &mut TenantProvisioningClient<tonic::transport::Channel>,
    wish: &CreateFullyProvisionedRequest,
) -> Result<CreateFullyProvisionedResponse, Status> {
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        let mut request = Request::new(wish.clone());
        request.set_timeout(DEADLINE);
        match client.create_fully_provisioned(request).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if attempt < ATTEMPTS && may_pass(&status) => {
                let asked = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
                eprintln!("attempt {attempt}: {}", status.code());
                tokio::time::sleep(pause.max(asked).mul_f64(rand::random_range(0.5..1.5))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                attempt += 1;
            }
            Err(status) => return Err(status),
        }
    }
}

/// With a request id, a call whose fate is unknown can be repeated too.
fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted | Code::Unknown
    )
}
