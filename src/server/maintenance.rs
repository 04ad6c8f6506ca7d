//! What a server does periodically beside serving calls.

use std::{sync::Arc, time::Duration};

use crate::{error::ErrorChain, grpc::layers::rate_limit::CallerRateLimiter, service::TenantService};

const MAINTENANCE_INTERVAL: Duration = Duration::from_mins(1);
/// How long the use of a key waits to be stored, with those of others.
const KEY_USE_INTERVAL: Duration = Duration::from_secs(5);

/// Deletes expired idempotency records, events and password attempts, forgets idle callers and closes idle connections,
/// every minute.
pub async fn run(tenants: Arc<TenantService>, rate_limiter: Option<CallerRateLimiter>) {
    loop {
        tokio::time::sleep(MAINTENANCE_INTERVAL).await;
        rate_limiter.iter().for_each(CallerRateLimiter::evict_idle);
        tenants.close_idle_connections();
        if let Err(error) = tenants.delete_expired_idempotency_records().await {
            tracing::warn!(cause = %ErrorChain(&error), "Cannot delete expired idempotency records; trying again later");
        }
        if let Err(error) = tenants.delete_expired_events().await {
            tracing::warn!(cause = %ErrorChain(&error), "Cannot delete expired events; trying again later");
        }
        if let Err(error) = tenants.delete_expired_password_attempts().await {
            tracing::warn!(cause = %ErrorChain(&error), "Cannot delete expired password attempts; trying again later");
        }
    }
}

pub async fn store_key_uses(tenants: Arc<TenantService>) {
    loop {
        tokio::time::sleep(KEY_USE_INTERVAL).await;
        if let Err(error) = tenants.store_key_uses().await {
            tracing::warn!(cause = %ErrorChain(&error), "Cannot store when API keys were used; storing their next use");
        }
    }
}
