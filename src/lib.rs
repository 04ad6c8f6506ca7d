//! Turnkey creates tenants of a booking platform move-in ready, or not at all.
//!
//! A request walks one way: wire → domain input → service → one store call → SQL, and back out.

pub mod cli;
pub mod config;
pub mod domain;
pub mod error;
pub mod grpc;
pub mod secrets;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
