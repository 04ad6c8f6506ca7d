//! Use cases, one method each, named after their RPC: make what is secret or random, then one call to the store.

mod clock;
mod provisioning;

pub use clock::Clock;
pub use provisioning::Provisioning;
