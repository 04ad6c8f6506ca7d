//! A model of the `request_id` protocol (docs/adr/0008-idempotency.md, docs/adr/0012-shared-statements.md): two
//! clients, two servers and a database, whose steps happen in any order and fail at any point. The tests check every
//! reachable state against the sentences of the contract, and check that the contract is violated without any one of
//! the rules.
//!
//! The crate contains only tests. The model does not call the service; `tests/it/request_id.rs` and
//! `tests/it/histories` test the service itself.
#![cfg(test)]

mod contract;
mod database;
mod protocol;
mod rules;
mod scenarios;
