//! The wire: protobuf in, protobuf out.
//!
//! A handler converts, calls its service and converts back; it decides nothing. tonic and prost are known here and in
//! `server`, and nowhere else.

mod auth;
mod call_tasks;
pub mod client;
pub mod convert;
pub mod health;
pub mod layers;
mod package_catalog;
mod rate_limit;
pub mod status;
mod tenant_provisioning;

pub use auth::Authenticator;
pub use call_tasks::CallTasks;
pub use package_catalog::PackageCatalogHandler;
pub use rate_limit::CallerRateLimiter;
pub use tenant_provisioning::TenantProvisioningHandler;

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
