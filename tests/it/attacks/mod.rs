//! Attacks by one machine that reaches a port, with the key of one tenant or without a credential. Memory stays
//! bounded, and the other callers are served.
//!
//! Each attack runs for seconds against a debug build, in plaintext and with TLS where that differs, and on both ports
//! where health is its goal. [`matrix`] runs all of them for longer against a release build in 256 MiB. The attackers
//! have one address, 127.0.0.1, and the other callers another one.

#![cfg(target_os = "linux")]

// What is attacked, how, and what must hold.

/// The attacks, which the tests and the matrix share.
mod attackers;
/// One call of an attacker: what it sends, what it reads, and its end.
mod call;
/// What is observed during an attack, and what must hold.
mod observation;
/// The callers that are not part of the attack.
mod other_callers;
/// Frames of clients that write without reading.
mod raw_frames;
/// Every RPC, its message limit, and a request that has a response.
mod rpcs;
/// An attack in progress.
mod running;
/// The server under attack.
mod target;

// The tests.

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
/// Responses that are large before they are sent.
mod pages;
/// Responses that are never read, and frames that no call reads.
mod responses;
