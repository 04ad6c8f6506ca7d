//! The gRPC layer: handlers, conversions, authorization, error mapping and tower layers.
//!
//! A handler converts the request, calls one service method and converts its output; it decides nothing. Only this
//! module, `http` and `server` use tonic and prost.

mod auth;
mod authenticator;
mod call_tasks;
mod connection;
mod convert;
mod fair_limit;
mod handler;
pub mod health;
mod health_service;
pub mod layers;
mod message_cost;
mod package_catalog;
pub mod status;
mod stream_end;
mod tenant_access;
mod tenant_provisioning;
mod verification_slots;

pub use authenticator::{Authenticator, certificate_sans};
pub use call_tasks::CallTasks;
pub use connection::{Connection, PeerAddress, STREAM_ABORT};
pub use fair_limit::FairLimit;
pub use handler::Handler;
pub use health_service::HealthService;
pub use message_cost::MAX_NESTED_MESSAGES;
pub use tenant_access::LimitedRequest;

/// The generated messages, clients and servers.
#[expect(
    clippy::pedantic,
    clippy::large_enum_variant,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated from the .proto files"
)]
pub mod pb {
    tonic::include_proto!("turnkey.v1");
    include!(concat!(env!("OUT_DIR"), "/redacted_debug.rs"));

    /// All files with their comments, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
