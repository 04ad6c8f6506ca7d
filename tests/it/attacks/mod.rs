//! Attacks by one machine that reaches a port, with the key of one tenant or without a credential. Memory stays bounded,
//! and the other callers are served.
//!
//! Each attack runs for seconds against a debug build, in plaintext and with TLS where that differs, and on both ports
//! where health is its goal. [`matrix`] runs all of them for longer against a release build in 256 MiB. The attackers have
//! one address, 127.0.0.1, and the other callers another one.
//!
//! Support: [`target`] is the server under attack, [`catalogue`] has the attacks, [`call`] and [`raw_frames`] are what they
//! send, [`rpcs`] lists every RPC, [`running`] is an attack in progress, [`other_callers`] calls the server meanwhile, and
//! [`observation`] has what must hold. The other modules are the tests.

#![cfg(target_os = "linux")]

/// One call below gRPC.
mod call;
/// The attacks.
mod catalogue;
/// Connections that are held, that are opened slowly, and more of them than there are descriptors.
mod connections;
/// One tenant, or a caller without a tenant, that makes more calls than its share.
mod fair_share;
/// Health on both ports.
mod health;
/// Requests of browsers, which are not gRPC.
mod http_requests;
/// All attacks against a release build.
mod matrix;
/// Messages that never arrive, arrive slowly or are too large.
mod messages;
mod observation;
mod other_callers;
/// Answers that are large where they are made.
mod pages;
mod raw_frames;
/// Responses that are never read.
mod responses;
mod rpcs;
mod running;
mod target;
