//! Use cases, one method each, named after their RPC: make what is secret or random, then one call to the store.

mod api_keys;
mod batch;
mod catalog;
mod clock;
mod idempotency;
mod ids;
mod integrity;
mod passwords;
mod provisioning;
mod retry;
mod tenants;

pub use catalog::CatalogService;
pub use clock::Clock;

use crate::{domain::KeyMode, secrets::Hasher, store::Store, telemetry::metrics::QueueStats};

/// The use cases of `TenantProvisioning`, a file for each of what they are about.
#[derive(Debug)]
pub struct TenantService {
    store: Store,
    hasher: Hasher,
    key_mode: KeyMode,
    clock: Clock,
}

impl TenantService {
    pub const fn new(store: Store, hasher: Hasher, key_mode: KeyMode, clock: Clock) -> Self {
        Self { store, hasher, key_mode, clock }
    }

    /// Closes database connections that nothing has used for some time.
    pub fn close_idle_connections(&self) {
        self.store.close_idle_connections();
    }

    /// Returns how full the hashing queues are.
    pub fn hashing_stats(&self) -> Vec<QueueStats> {
        self.hasher.stats()
    }
}
