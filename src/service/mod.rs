//! Use cases, one method each, named after their RPC: make what is secret or random, then one call to the store.

mod api_keys;
mod batch;
mod catalog;
mod claims;
mod clock;
mod identity;
mod integrity;
mod passwords;
mod provisioning;
mod retry;
mod tenants;

pub use catalog::Catalog;
pub use clock::Clock;
pub use integrity::IntegrityCheck;

use crate::{domain::KeyMode, secrets::Hasher, store::Store};

/// The use cases of `TenantProvisioning`, a file for each of what they are about.
#[derive(Debug)]
pub struct Provisioning {
    pub store: Store,
    pub hasher: Hasher,
    pub key_mode: KeyMode,
    pub clock: Clock,
}
