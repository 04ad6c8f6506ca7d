//! HTTP and JSON in front of the RPCs. That callers are authenticated and isolated as with gRPC is tested beside the
//! tests of gRPC, in `authentication` and `isolation`, which run over both.

/// Slow, large and many requests.
mod bounds;
/// Web pages: origins, hosts, preflights.
mod browsers;
/// The Connect protocol, unary and streaming, JSON and binary.
mod connect;
/// Requests as HTTP/1.1 permits them, and as it does not.
mod http1;
/// Start, stop, TLS, health.
mod lifecycle;
/// Tools for agents.
mod mcp;
/// The two calls of the platform's earlier API.
mod platform;
/// What is refused before it becomes a call.
mod refusals;
