//! Use cases, one method each, named after their RPC: make what is secret or random, then one call to the store.

mod catalog;
mod clock;
mod identity;
mod provisioning;

pub use catalog::Catalog;
pub use clock::Clock;
pub use provisioning::Provisioning;
