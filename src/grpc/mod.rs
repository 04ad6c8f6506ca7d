//! The wire: protobuf in, protobuf out.
//!
//! A handler converts, calls its service and converts back; it decides nothing. tonic and prost are known here and in
//! `server`, and nowhere else.

mod auth;
mod call;
mod caller_rate;
pub mod client;
pub mod convert;
pub mod health;
pub mod layers;
mod package_catalog;
pub mod status;
mod tenant_provisioning;

pub use auth::Authenticator;
pub use call::Calls;
pub use caller_rate::CallerRate;
pub use package_catalog::PackageCatalogHandler;
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
