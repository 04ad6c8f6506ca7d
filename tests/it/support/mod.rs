//! Helpers that several test modules share: databases, a running server, requests, faults and load. A helper of a
//! single module stays in that module, and no test module imports another one.

pub mod adoption;
pub mod certificate;
pub mod citus;
pub mod connect;
pub mod damage;
pub mod database;
pub mod doc_markers;
pub mod events;
pub mod faults;
pub mod fixture;
pub mod hash_counter;
pub mod http1;
pub mod http2;
pub mod legacy;
pub mod load;
pub mod memory_limit;
pub mod owners;
pub mod pgbouncer;
pub mod process;
pub mod process_memory;
pub mod proxy;
pub mod reflection;
pub mod replicated_cluster;
pub mod requests;
pub mod responses;
pub mod tokens;
