//! The tower layers around every call, from the outside in: `grpc_only`, `call_context` (with `call_metrics` and
//! `refusal_log`), `authentication`, `rate_limit`, `admission` (with `request_message`, `transcoding` and
//! `held_response`). They run before
//! the request is decoded.

pub mod admission;
mod authentication;
pub mod call_context;
mod call_metrics;
pub mod grpc_only;
mod held_response;
mod middleware;
pub mod rate_limit;
pub mod refusal_log;
pub mod request_message;
pub mod transcoding;

pub use middleware::{InnerService, MiddlewareLayer};
