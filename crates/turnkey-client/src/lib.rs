#![doc = include_str!("../README.md")]

mod client;
mod connection;
mod error;
mod retry;
mod rpc;

pub use client::{AuthorizedChannel, Client, RawResponses, Responses};
pub use connection::{Authorization, ConnectError, Connector};
pub use error::{Error, Reason, Violation, ViolationReason, code_name};
pub use retry::RetryPolicy;
pub use rpc::{Rpc, StreamingRpc, UnaryRpc};
pub use tonic::Code;

/// The generated messages and clients.
#[expect(
    clippy::pedantic,
    clippy::large_enum_variant,
    clippy::allow_attributes_without_reason,
    reason = "generated from the .proto files"
)]
pub mod pb {
    tonic::include_proto!("turnkey.v1");
    include!(concat!(env!("OUT_DIR"), "/redacted_debug.rs"));
}

/// The types of `google.protobuf` in the messages.
pub mod well_known {
    pub use prost_types::{Duration, Struct, Timestamp, Value};
}

/// A serialized `google.protobuf.FileDescriptorSet` of the API, with its comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
