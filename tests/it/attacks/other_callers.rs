//! The callers that are not part of an attack: the platform with its token, a second tenant with its key, and the
//! probes of an orchestrator. Each has a connection of its own, opened during the attack.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tonic::{Code, Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use turnkey::grpc::pb::{
    GetPackageRequest, GetTenantRequest, ListPackagesRequest, UpsertPackageRequest, get_tenant_request::Identifier,
    package_catalog_client::PackageCatalogClient, tenant_provisioning_client::TenantProvisioningClient,
};

use super::target::Target;
use crate::support::{http2::Port, requests::with_bearer};

/// A call without a response within this time has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls of each caller. With fewer, a single failure would be more than 5 %.
const MIN_CALLS: usize = 20;
const MAX_FAILED_CALLS: usize = 10;

/// The calls of the other callers.
#[derive(Default)]
pub struct Tally {
    pub all: usize,
    pub failed: usize,
    /// What failed, and why.
    pub failures: BTreeMap<String, usize>,
    latencies: Vec<Duration>,
}

impl fmt::Debug for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {} calls failed: {:?}", self.failed, self.all, self.failures)
    }
}

impl Tally {
    /// Whether the caller has made enough calls. One whose calls fail need not make all of them.
    fn is_complete(&self, end: Instant) -> bool {
        let has_enough = self.all >= MIN_CALLS && Instant::now() >= end;
        has_enough || self.failed >= MAX_FAILED_CALLS
    }

    /// Whether at most 5 % of the calls failed.
    pub fn is_good(&self) -> bool {
        self.failed * 20 <= self.all
    }

    pub fn p50(&self) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    async fn add<Message>(&mut self, name: &str, call: impl Future<Output = Result<Response<Message>, Status>>) {
        let began = Instant::now();
        let result = timeout(CALL_TIMEOUT, call).await;
        self.latencies.push(began.elapsed());
        self.all += 1;
        let failure = match result {
            Ok(Ok(_)) => return,
            Ok(Err(status)) => format!("{name}: {:?} {}", status.code(), status.message()),
            Err(_elapsed) => format!("{name}: no response"),
        };
        self.failed += 1;
        *self.failures.entry(failure).or_default() += 1;
    }

    fn merge(mut self, other: Self) -> Self {
        self.all += other.all;
        self.failed += other.failed;
        self.latencies.extend(other.latencies);
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        self
    }
}

/// Makes calls, one after the other in each caller, at least for this time. No call is repeated.
pub async fn call_for(target: &Target, duration: Duration) -> Tally {
    let end = Instant::now() + duration;
    let (platform, tenant, service_probes, probes) = tokio::join!(
        platform(target, end),
        tenant(target, end),
        probes(target, &target.service, end),
        probes(target, &target.health, end)
    );
    [platform, tenant, service_probes, probes].into_iter().fold(Tally::default(), Tally::merge)
}

async fn platform(target: &Target, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let channel = target.channel(&target.service);
    let (mut provisioning, mut catalog) =
        (TenantProvisioningClient::new(channel.clone()), PackageCatalogClient::new(channel));
    let tenant_id = &target.other_tenant.id;
    while !tally.is_complete(end) {
        let get = GetTenantRequest { identifier: Some(Identifier::TenantId(tenant_id.clone())) };
        tally.add("GetTenant", provisioning.get_tenant(target.as_platform(get))).await;
        let list = ListPackagesRequest { tenant_id: tenant_id.clone(), ..ListPackagesRequest::default() };
        tally.add("ListPackages", catalog.list_packages(target.as_platform(list))).await;
        let create = target.as_platform(target.new_tenant());
        tally.add("CreateFullyProvisioned", provisioning.create_fully_provisioned(create)).await;
    }
    tally
}

async fn tenant(target: &Target, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut catalog = PackageCatalogClient::new(target.channel(&target.service));
    let tenant = &target.other_tenant;
    let key = target.key(tenant);
    while !tally.is_complete(end) {
        let list = ListPackagesRequest { tenant_id: tenant.id.clone(), ..ListPackagesRequest::default() };
        tally.add("ListPackages with a key", catalog.list_packages(with_bearer(list, key))).await;
        let get = GetPackageRequest {
            tenant_id: tenant.id.clone(),
            package_id: tenant.package_id.clone(),
            ..Default::default()
        };
        tally.add("GetPackage with a key", catalog.get_package(with_bearer(get, key))).await;
        let upsert = UpsertPackageRequest {
            tenant_id: tenant.id.clone(),
            package_id: Some(tenant.package_id.clone()),
            base_price: Some(tally.all.try_into().unwrap()),
            ..UpsertPackageRequest::default()
        };
        tally.add("UpsertPackage with a key", catalog.upsert_package(with_bearer(upsert, key))).await;
    }
    tally
}

async fn probes(target: &Target, port: &Port, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut health = HealthClient::new(target.channel(port));
    while !tally.is_complete(end) {
        // Probes must not be the majority of the calls.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let name = format!("Check on {}", if port.tls.is_some() { "the TLS port" } else { "a plaintext port" });
        tally.add(&name, health.check(HealthCheckRequest { service: String::new() })).await;
    }
    tally
}

/// Whether the server is ready, as a probe sees it.
pub async fn is_healthy(target: &Target) -> bool {
    let mut health = HealthClient::new(target.channel(&target.health));
    let response = health.check(HealthCheckRequest { service: String::new() }).await;
    response.is_ok_and(|response| response.into_inner().status() == ServingStatus::Serving)
}

/// Whether a new connection is served and the caller accepted. Panics if there is no response.
pub async fn is_accepted(target: &Target, token: &str) -> bool {
    let get = GetTenantRequest { identifier: Some(Identifier::TenantId(target.other_tenant.id.clone())) };
    let mut provisioning = TenantProvisioningClient::new(target.channel(&target.service));
    let response = timeout(CALL_TIMEOUT, provisioning.get_tenant(with_bearer(get, Some(token)))).await;
    match response.expect("a response to a new connection") {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
            false
        }
    }
}
