//! What happens around every call, before its message is decoded and after its answer is made.

pub mod authentication;
pub mod call_context;
mod call_metrics;
pub mod concurrency_limit;
