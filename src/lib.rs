//! Turnkey provisions the tenants of a booking platform atomically: a tenant, its General segment, three packages and
//! an API key are created in one transaction or not at all.
//!
//! A request passes through five stages, and its result returns through them:
//!
//! 1. Wire: [`server`] accepts the connection. The layers of [`grpc`] set the trace and the deadline, authenticate the
//!    caller, apply its rate limit and take a permit, before the message is decoded.
//! 2. Domain input: a handler of [`grpc`] converts the message to types of [`domain`] and reports all invalid fields
//!    together.
//! 3. Service: a method of [`service`] creates ids and secrets; [`secrets`] hashes them.
//! 4. Store: that method calls one method of [`store`].
//! 5. SQL: the store method executes one statement or one transaction.
//!
//! The modules:
//!
//! - [`cli`]: the commands of the program, one file each.
//! - [`config`]: every setting, typed; reports all invalid settings together.
//! - [`domain`]: the types of the business, which cannot hold an invalid value, and the defaults of a new tenant.
//! - [`error`]: the one error type that crosses layers.
//! - [`grpc`]: layers, handlers, conversions, the roles that each RPC requires, and the only place that creates a
//!   status.
//! - [`http`]: the same calls by HTTP and JSON: the Connect protocol, the established calls of the platform, tools for
//!   agents, health.
//! - [`secrets`]: minting, derivation and hashing of keys, tokens and passwords.
//! - [`server`]: the composition root: connects pool, services, layers and sockets, and shuts them down.
//! - [`service`]: one method per use case.
//! - [`store`]: all SQL, and the mapping of database errors.
//! - [`telemetry`]: log, metrics and the export of traces and metrics.
//!
//! `ARCHITECTURE.md` lists which module may import which.

pub mod cli;
pub mod config;
pub mod domain;
pub mod error;
pub mod grpc;
pub mod http;
pub mod secrets;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
