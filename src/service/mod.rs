//! The use cases: one method for each RPC, with its name.
//!
//! A method first creates ids and secrets and hashes them, and then makes one store call: nothing slow happens inside a
//! transaction. It gets parsed values and does not validate them again. ARCHITECTURE.md lists the methods that make
//! more than one store call. Retries after a conflict are here, too.

mod adoption;
mod api_keys;
mod batch;
mod catalog;
mod change_log;
mod clock;
mod events;
mod idempotency;
mod ids;
mod integrity;
mod key_usage;
mod owners;
mod passwords;
mod provisioning;
mod retry;
mod tenants;

pub use catalog::CatalogService;
pub use clock::Clock;
pub use events::{EventUpdate, StreamEnd};

use std::time::Duration;

use self::{events::EventFeed, key_usage::KeyUsage};
use crate::{
    domain::{KeyMode, Quotas, event::DEFAULT_EVENT_RETENTION},
    secrets::Hasher,
    store::Store,
    telemetry::metrics::QueueStats,
};

/// The use cases of the gRPC service `TenantProvisioning`. Each file of this module has the methods of one topic.
#[derive(Debug)]
pub struct TenantService {
    store: Store,
    hasher: Hasher,
    key_mode: KeyMode,
    clock: Clock,
    quotas: Quotas,
    key_usage: KeyUsage,
    event_feed: EventFeed,
    event_retention: Duration,
}

impl TenantService {
    pub fn new(store: Store, hasher: Hasher, key_mode: KeyMode, clock: Clock, quotas: Quotas) -> Self {
        Self {
            store,
            hasher,
            key_mode,
            clock,
            quotas,
            key_usage: KeyUsage::default(),
            event_feed: EventFeed::default(),
            event_retention: DEFAULT_EVENT_RETENTION,
        }
    }

    /// Keeps events for this long.
    #[must_use]
    pub fn with_event_retention(self, event_retention: Duration) -> Self {
        Self { event_retention, ..self }
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
