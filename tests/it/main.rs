//! End-to-end tests: a real server on port 0, a generated client and a real Postgres.
//!
//! They are one binary, so that a run starts one temporary Postgres. Each use case or topic has a module, each test has its
//! own database, and what modules share is in [`support`].

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails with a panic")]

mod attacks;
mod authentication;
mod backup;
mod batch_create_fully_provisioned;
mod batch_upsert_packages;
mod cancellation;
mod catalog_model;
mod change_log;
mod crash_recovery;
mod create_api_key;
mod create_from_signup;
mod create_fully_provisioned;
mod delete_package;
mod delete_tenant;
mod doctor;
mod embedded;
mod errors;
mod excess_privileges;
mod failover;
mod flat_costs;
mod fuzz_regressions;
mod generated_slugs;
mod get_tenant;
mod graceful_shutdown;
mod health;
mod http;
mod idempotency_cleanup;
mod import;
mod import_refusals;
mod integrity;
mod isolation;
mod key_usage;
mod layering;
mod limits;
mod list_api_keys;
mod list_packages;
mod list_tenants;
mod log_lines;
mod lost_responses;
mod migrate;
mod orphans;
mod otlp_over_http;
mod overload;
mod own_files;
mod pgbouncer;
mod plain_language;
mod prometheus;
mod purge;
mod quotas;
mod redaction;
mod request_id;
mod revoke_api_key;
mod rolling_restart;
mod rotate_api_key;
mod round_trips;
mod segments;
mod serialization_retries;
mod serve;
mod shared_statements;
mod soak;
mod stray_rows;
mod support;
mod suspend_tenant;
mod telemetry;
mod tenant_keys;
mod tls;
mod update_tenant;
mod upsert_package;
mod verify_api_key;
mod verify_password;
