//! The tower layers around every call, from the outside in: `grpc_only`, `call_context` (with `call_metrics` and
//! `refusal_log`), `authentication`, `rate_limit`, `admission` (with `request_message`, `transcoding` and
//! `held_response`). They run before the request is decoded. `tenant_gate` does the same for requests that are not
//! calls themselves.

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
pub mod tenant_gate;
pub mod transcoding;

pub use authentication::AuthenticatedCaller;
pub use middleware::{InnerService, MiddlewareLayer, take_ready};
