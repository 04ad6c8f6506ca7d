//! The RPCs as types: each request knows its path, its response, and whether it can be repeated.

use prost::Message;

use crate::pb;

/// The request of an RPC. Implemented for each request of the API by the build script.
pub trait Rpc: Message + Clone + Default + 'static {
    type Response: Message + Default + 'static;

    /// As in `/turnkey.v1.TenantProvisioning/GetTenant`.
    const PATH: &'static str;

    /// Whether a call without an etag can be repeated although the outcome of the first one is unknown: the RPC only
    /// reads, its request has a request id, or a repeat changes nothing more.
    const IS_REPEATABLE: bool;

    /// Whether the request has an etag. The call itself changes it, so a repeat would be `ETAG_MISMATCH`.
    fn has_etag(&self) -> bool {
        false
    }

    /// Gives the request, or each item of a batch, a request id unless it has one.
    fn set_request_ids(&mut self, new_id: fn() -> String) {
        // Most requests have no id.
        let _ = new_id;
    }
}

/// An RPC with one response.
pub trait UnaryRpc: Rpc {}

/// An RPC with a stream of responses.
pub trait StreamingRpc: Rpc {}

include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));
