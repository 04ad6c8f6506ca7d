//! `clients/service-config.json`, for stock gRPC clients: it retries the RPCs that only read, and no other.
//!
//! The form is that of `grpc.service_config.ServiceConfig` and of gRFC A2, A6 and A17. `make check` also has grpcio
//! parse it.

use std::collections::BTreeSet;

use http::{Method, Request, StatusCode};
use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};
use serde::Deserialize;
use turnkey::grpc::pb::DESCRIPTORS;

use crate::support::fixture::{Fixture, settings, with_http};

const NO_SIDE_EFFECTS: i32 = 1;
/// Clients treat more attempts as this many.
const MAX_ATTEMPTS: u32 = 5;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceConfig {
    load_balancing_config: Vec<serde_json::Map<String, serde_json::Value>>,
    health_check_config: HealthCheckConfig,
    method_config: Vec<MethodConfig>,
    retry_throttling: RetryThrottling,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HealthCheckConfig {
    service_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MethodConfig {
    name: Vec<Name>,
    timeout: Option<String>,
    retry_policy: Option<RetryPolicy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    service: String,
    method: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetryPolicy {
    max_attempts: u32,
    initial_backoff: String,
    max_backoff: String,
    backoff_multiplier: f64,
    retryable_status_codes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetryThrottling {
    max_tokens: f64,
    token_ratio: f64,
}

fn config() -> ServiceConfig {
    serde_json::from_str(include_str!("../../clients/service-config.json")).unwrap()
}

fn rpcs() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let services: Vec<_> = pool.services().filter(|service| service.package_name() == "turnkey.v1").collect();
    services.iter().flat_map(ServiceDescriptor::methods).collect()
}

/// Whether the RPC is marked as one that only reads.
fn only_reads(rpc: &MethodDescriptor) -> bool {
    let level = rpc.options().get_field_by_name("idempotency_level").unwrap().as_enum_number();
    level == Some(NO_SIDE_EFFECTS)
}

/// Seconds, as protobuf's JSON has a duration.
fn seconds(duration: &str) -> f64 {
    duration.strip_suffix('s').unwrap().parse().unwrap()
}

#[test]
fn exactly_the_rpcs_that_read_are_marked_so() {
    let marked: BTreeSet<String> =
        rpcs().iter().filter(|rpc| only_reads(rpc)).map(|rpc| rpc.name().to_owned()).collect();
    // A verification counts attempts or notes the use of a key, and its request is a secret.
    let reads = |name: &str| ["Get", "List", "Watch", "Check"].iter().any(|verb| name.starts_with(verb));
    assert_eq!(marked, rpcs().iter().map(|rpc| rpc.name().to_owned()).filter(|name| reads(name)).collect());
    assert!(!marked.iter().any(|name| name.starts_with("Verify")));
    // The clients repeat the RPCs with a mark, so these have none either.
    for name in
        ["CreateFullyProvisioned", "UpsertPackage", "DeletePackage", "ChangePassword", "RepairTenant", "PurgeTenant"]
    {
        let rpcs = rpcs();
        let rpc = rpcs.iter().find(|rpc| rpc.name() == name).unwrap();
        assert_eq!(rpc.options().get_field_by_name("idempotency_level").unwrap().as_enum_number(), Some(0), "{name}");
    }
}

#[test]
fn the_config_retries_exactly_the_rpcs_that_are_marked() {
    let mut retried = BTreeSet::new();
    for MethodConfig { name, retry_policy, .. } in config().method_config {
        let Some(policy) = retry_policy else { continue };
        for Name { service, method } in name {
            assert!(retried.insert(format!("{service}.{}", method.unwrap())), "each RPC has one policy");
        }
        assert_eq!(policy.retryable_status_codes, ["UNAVAILABLE"]);
        assert!((2..=MAX_ATTEMPTS).contains(&policy.max_attempts));
        assert!(seconds(&policy.initial_backoff) > 0.0 && policy.backoff_multiplier > 0.0);
        assert!(seconds(&policy.max_backoff) >= seconds(&policy.initial_backoff));
    }
    let marked = rpcs().iter().filter(|rpc| only_reads(rpc)).map(|rpc| rpc.full_name().to_owned()).collect();
    assert_eq!(retried, marked);
}

#[test]
fn the_config_balances_checks_health_and_limits_the_time_of_each_call_with_one_response() {
    let config = config();
    let policies: Vec<&String> = config.load_balancing_config.iter().flat_map(serde_json::Map::keys).collect();
    assert_eq!(policies, ["round_robin"]);
    assert_eq!(config.health_check_config.service_name, "turnkey.v1.TenantProvisioning");
    assert!(config.retry_throttling.max_tokens > 0.0 && config.retry_throttling.token_ratio > 0.0);
    for rpc in rpcs() {
        let service = rpc.parent_service().full_name().to_owned();
        let names = |entry: &&MethodConfig, method: Option<&str>| {
            entry.name.iter().any(|name| name.service == service && name.method.as_deref() == method)
        };
        let entries = &config.method_config;
        let own = entries.iter().find(|entry| names(entry, Some(rpc.name())));
        let entry = own.or_else(|| entries.iter().find(|entry| names(entry, None))).unwrap();
        assert_eq!(entry.timeout.is_none(), rpc.is_server_streaming(), "{}", rpc.full_name());
        assert!(entry.timeout.as_deref().is_none_or(|timeout| seconds(timeout) > 0.0));
    }
}

#[tokio::test]
async fn a_marked_rpc_is_not_served_by_http_get_because_urls_are_logged() {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    for rpc in rpcs().iter().filter(|rpc| only_reads(rpc)) {
        let path =
            format!("/{}/{}?connect=v1&encoding=json&message=%7B%7D", rpc.parent_service().full_name(), rpc.name());
        let request = Request::builder().method(Method::GET).uri(path).body(prost::bytes::Bytes::new()).unwrap();
        let response = fixture.http().send(request).await;
        assert_eq!((response.status, response.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, Some("POST")));
    }
}
