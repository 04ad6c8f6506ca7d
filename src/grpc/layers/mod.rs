//! The tower layers around every call, from the outside in: `call_context` (with `call_metrics`), `concurrency_limit`,
//! `authentication`, `rate_limit`. They run before the request is decoded.

mod authentication;
pub mod call_context;
mod call_metrics;
pub mod concurrency_limit;
mod middleware;
pub mod rate_limit;

pub use middleware::MiddlewareLayer;
