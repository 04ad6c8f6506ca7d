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
pub use integrity::IntegrityCheck;

use crate::{domain::KeyMode, secrets::Hasher, store::Store};

/// The use cases of `TenantProvisioning`, a file for each of what they are about.
#[derive(Debug)]
pub struct TenantService {
    pub store: Store,
    pub hasher: Hasher,
    pub key_mode: KeyMode,
    pub clock: Clock,
}
