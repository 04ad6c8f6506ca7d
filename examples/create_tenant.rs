//! Creates a tenant exactly once and receives its secret key, even if responses are lost:
//!
//!     cargo run --example create_tenant -- http://127.0.0.1:50051 bella-weddings "Bella Weddings"
//!
//! The client repeats the call with the same `request_id` until it succeeds. A real caller stores the `request_id`
//! before the first attempt (for example, next to the order that the tenant belongs to), so that it can retry even
//! after its own crash. The `request_id` is a secret for 24 hours. This example reads it from `REQUEST_ID`, or
//! generates one.

use std::error::Error;

use turnkey_client::{Connector, pb::CreateFullyProvisionedRequest};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Shows the attempts that failed.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, slug, name] = &arguments[..] else { return Err("usage: create_tenant URL SLUG NAME".into()) };
    let request_id = std::env::var("REQUEST_ID").unwrap_or_else(|_unset| uuid::Uuid::new_v4().to_string());

    // Connects at the first call, and again after every failure.
    let client = Connector::new(url)?.connect_lazy()?;
    let request = CreateFullyProvisionedRequest {
        slug: slug.clone(),
        name: name.clone(),
        request_id: Some(request_id),
        ..CreateFullyProvisionedRequest::default()
    };
    let response = client.send(request).await?;
    let tenant = response.tenant.unwrap_or_default();
    println!("tenant {} id {} replayed {}", tenant.slug, tenant.id, response.replayed);
    // A real caller stores response.secret_key in its secret store now: after 24 hours, no call returns it again.
    println!("secret received {}", !response.secret_key.is_empty());
    Ok(())
}
