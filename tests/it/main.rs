//! The service as its callers meet it: a real server on port 0, a generated client, a real Postgres.
//!
//! One binary, so that the whole run shares one throw-away cluster; a module a use case; a database each test.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

mod cluster;
mod doc_markers;
mod fixture;
mod load;
mod process;
mod process_memory;
mod proxy;
mod replicated_cluster;

mod authentication;
mod batch_create_fully_provisioned;
mod batch_upsert_packages;
mod cancellation;
mod catalog_model;
mod crash_recovery;
mod create_from_signup;
mod create_fully_provisioned;
mod delete_package;
mod delete_tenant;
mod doctor;
mod embedded;
mod errors;
mod failover;
mod fuzz_regressions;
mod get_tenant;
mod graceful_shutdown;
mod health;
mod idempotency_cleanup;
mod import;
mod integrity;
mod isolation;
mod layering;
mod limits;
mod list_api_keys;
mod list_packages;
mod list_tenants;
mod log_lines;
mod lost_responses;
mod migrate;
mod orphans;
mod overload;
mod pgbouncer;
mod purge;
mod redaction;
mod request_id;
mod revoke_api_key;
mod rolling_restart;
mod rotate_api_key;
mod round_trips;
mod segments;
mod serialization_retries;
mod serve;
mod soak;
mod suspend_tenant;
mod telemetry;
mod tls;
mod update_tenant;
mod upsert_package;
mod verify_api_key;
mod verify_password;
