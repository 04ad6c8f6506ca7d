//! The workloads, each with the baseline that it is compared with and its goal.

use std::time::Duration;

use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, CreateFullyProvisionedRequest, GetPackageRequest, ListPackagesRequest,
    UpsertPackageRequest, VerifyApiKeyRequest, package_catalog_client::PackageCatalogClient,
    tenant_provisioning_client::TenantProvisioningClient,
};
use uuid::Uuid;

use crate::{
    RunSettings,
    baselines::{
        Protocol, RoundTrips, argon2, catalog_read_script, create_script, pgbench, prepare_baseline_tenants,
        update_script,
    },
    cpu_time::CpuTime,
    environment::BenchEnv,
    http,
    load::{Measurement, generate_load},
};

pub const CALLERS: u64 = 32;
const MANY_CALLERS: u64 = 128;
pub const BATCH_SIZE: u64 = 100;
pub const BATCH_CALLERS: u64 = 4;

/// The result of one workload, compared with its baseline: medians over the rounds.
pub struct WorkloadResult {
    pub workload: &'static str,
    pub measurement: Measurement,
    /// Empty if there is none.
    pub baseline: &'static str,
    pub goal: Goal,
    /// In the unit of the goal.
    pub baseline_result: f64,
    pub ratio: f64,
    /// Per unit of work; `None` if it is unknown.
    pub cpu: Option<CpuTime>,
}

#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At least this fraction of the baseline's rate.
    MinRate(f64),
    /// At most this multiple of the baseline's median latency.
    MaxLatency(f64),
    /// Rates are compared, without a goal.
    None,
}

impl Goal {
    fn ratio(self, measurement: &Measurement, baseline_result: f64) -> f64 {
        match self {
            Self::MinRate(_) | Self::None => measurement.rate / baseline_result,
            Self::MaxLatency(_) => measurement.p50_ms / baseline_result,
        }
    }
}

/// Runs all workloads, or those whose name contains the filter.
pub async fn run(env: &BenchEnv, settings: RunSettings, name_filter: Option<&str>) -> Vec<WorkloadResult> {
    let window = settings.window;
    let tenants = create_sample_tenants(env).await;
    let tenant = &tenants[0];
    let mut runner = Runner { env, settings, name_filter, results: Vec::new() };

    let baseline = |round| pgbench(env, &create_script(round), Protocol::Prepared, CALLERS, window).rate;
    let workload = || create(env, CALLERS, window);
    let goal = Goal::MinRate(1.3);
    runner.compare("CreateFullyProvisioned, 32 callers", workload, "pgbench, same statement", baseline, goal);

    let baseline = |round| pgbench(env, &create_script(200 + round), Protocol::Prepared, CALLERS, window).p50_ms;
    let goal = Goal::MaxLatency(1.0);
    runner.compare(
        "CreateFullyProvisioned, 32 callers (p50)",
        workload,
        "pgbench, same statement (p50)",
        baseline,
        goal,
    );

    let baseline = |round| pgbench(env, &create_script(300 + round), Protocol::Prepared, MANY_CALLERS, window).rate;
    let workload = || create(env, MANY_CALLERS, window);
    let goal = Goal::MinRate(1.6);
    runner.compare("CreateFullyProvisioned, 128 callers", workload, "pgbench, 128 clients", baseline, goal);

    let baseline = |round| pgbench(env, &create_script(100 + round), Protocol::Prepared, 1, window).p50_ms;
    let workload = || create(env, 1, window);
    let goal = Goal::MaxLatency(1.6);
    runner.compare("CreateFullyProvisioned, 1 caller (p50)", workload, "pgbench, 1 client (p50)", baseline, goal);

    let baseline = |round| pgbench(env, &create_script(400 + round), Protocol::Prepared, CALLERS, window).rate;
    let workload = || batch_create(env, BATCH_CALLERS, window);
    let (name, goal) = ("BatchCreateFullyProvisioned, tenants", Goal::MinRate(2.5));
    runner.compare(name, workload, "pgbench, one tenant a statement", baseline, goal);

    let (tenant_id, package_id) = (format!("'{}'", tenant.id), format!("'{}'", tenant.package_id));
    let (text, values) = ("packages.tenant_id = $1 AND packages.id = $2", [tenant_id.as_str(), package_id.as_str()]);
    let script = catalog_read_script(RoundTrips::Three, text, &tenant.id, &values);
    let baseline = |_| pgbench(env, &script, Protocol::Simple, CALLERS, window).rate;
    let workload = || get_package(env, &tenants, window);
    let goal = Goal::MinRate(0.7);
    runner.compare("GetPackage, 32 callers", workload, "pgbench, three round trips", baseline, goal);

    let script = catalog_read_script(RoundTrips::One, text, &tenant.id, &values);
    let baseline = |_| pgbench(env, &script, Protocol::Simple, CALLERS, window).rate;
    let workload = || get_package(env, &tenants, window);
    runner.compare("GetPackage, 32 callers", workload, "pgbench, one round trip", baseline, Goal::None);

    let no_cursor = ["-9223372036854775808", "'00000000-0000-0000-0000-000000000000'"];
    let (text, values) =
        ("(grouping_order, id) > ($3::int8, $4::uuid)", [&tenant_id, "NULL", no_cursor[0], no_cursor[1], "51"]);
    let script = catalog_read_script(RoundTrips::Three, text, &tenant.id, &values);
    let baseline = |_| pgbench(env, &script, Protocol::Simple, CALLERS, window).rate;
    let workload = || list_packages(env, &tenants, window);
    let goal = Goal::MinRate(0.7);
    runner.compare("ListPackages (3), 32 callers", workload, "pgbench, three round trips", baseline, goal);

    prepare_baseline_tenants(env, &tenants).await;
    let script = update_script();
    let baseline = |_| pgbench(env, &script, Protocol::Simple, CALLERS, window).rate;
    let workload = || update_package(env, &tenants, window);
    let (name, goal) = ("UpsertPackage (update), 32 callers on 32 tenants", Goal::MinRate(0.7));
    runner.compare(name, workload, "pgbench, three round trips", baseline, goal);

    let baseline = |_| argon2(window / 2);
    let workload = || verify_api_key(env, tenant, window);
    runner.compare("VerifyApiKey, 32 callers", workload, "Argon2 on one core", baseline, Goal::MinRate(0.5));

    http::compare(&mut runner, env, &tenants, window);
    runner.compare("health Check, 32 callers", || check_health(env, window), "", |_| 1.0, Goal::None);
    runner.results
}

pub struct Runner<'a> {
    env: &'a BenchEnv,
    settings: RunSettings,
    name_filter: Option<&'a str>,
    results: Vec<WorkloadResult>,
}

impl Runner<'_> {
    /// Measures a workload and its baseline in turn. `measure_baseline` takes the round's number and returns a result
    /// in the unit of the goal.
    pub fn compare(
        &mut self,
        workload: &'static str,
        measure: impl Fn() -> Measurement,
        baseline: &'static str,
        measure_baseline: impl Fn(u64) -> f64,
        goal: Goal,
    ) {
        if self.name_filter.is_some_and(|filter| !workload.contains(filter)) {
            return;
        }
        let (mut measurements, mut baseline_results, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut cpu, mut units) = (Some(CpuTime::default()), 0);
        for round in 0..self.settings.rounds {
            let before = self.env.cpu_time();
            let measurement = measure();
            let after = self.env.cpu_time();
            cpu = cpu.zip(before.zip(after)).map(|(sum, (before, after))| sum.add(before, after));
            units += measurement.units;
            let baseline_result = measure_baseline(round);
            ratios.push(goal.ratio(&measurement, baseline_result));
            measurements.push(measurement);
            baseline_results.push(baseline_result);
        }
        let (measurement, baseline_result, ratio) = (medians(&measurements), median(baseline_results), median(ratios));
        let cpu = cpu.map(|cpu| cpu.per(units));
        self.results.push(WorkloadResult { workload, measurement, baseline, goal, baseline_result, ratio, cpu });
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

pub fn medians(measurements: &[Measurement]) -> Measurement {
    let median_by = |field: fn(&Measurement) -> f64| median(measurements.iter().map(field).collect());
    let units = measurements.iter().map(|m| m.units).sum();
    Measurement { rate: median_by(|m| m.rate), p50_ms: median_by(|m| m.p50_ms), p99_ms: median_by(|m| m.p99_ms), units }
}

fn create_request(slug: String) -> CreateFullyProvisionedRequest {
    let request_id = Some(Uuid::new_v4().to_string());
    CreateFullyProvisionedRequest { slug, name: "Bella Weddings".to_owned(), request_id, ..Default::default() }
}

pub fn short_id() -> String {
    Uuid::new_v4().simple().to_string()[..8].to_owned()
}

pub fn create(env: &BenchEnv, callers: u64, window: Duration) -> Measurement {
    let run = short_id();
    generate_load(&env.endpoint, callers, window, |channel, caller, number| {
        let slug = format!("t{run}-{caller}-{number}");
        async move {
            TenantProvisioningClient::new(channel).create_fully_provisioned(create_request(slug)).await.unwrap();
            1
        }
    })
}

pub fn batch_create(env: &BenchEnv, callers: u64, window: Duration) -> Measurement {
    let run = short_id();
    generate_load(&env.endpoint, callers, window, |channel, caller, number| {
        let request = |item| create_request(format!("b{run}-{caller}-{number}-{item}"));
        let request = BatchCreateFullyProvisionedRequest { requests: (0..BATCH_SIZE).map(request).collect() };
        async move {
            TenantProvisioningClient::new(channel).batch_create_fully_provisioned(request).await.unwrap();
            BATCH_SIZE
        }
    })
}

/// A tenant that the workloads use.
pub struct SampleTenant {
    pub id: String,
    pub package_id: String,
    pub secret_key: String,
}

pub async fn create_sample_tenant(env: &BenchEnv) -> SampleTenant {
    let mut client = TenantProvisioningClient::new(env.endpoint.connect().await.unwrap());
    let request = create_request(format!("k{}", short_id()));
    let response = client.create_fully_provisioned(request).await.unwrap().into_inner();
    let (tenant, package) = (response.tenant.unwrap(), &response.packages[0]);
    SampleTenant { id: tenant.id, package_id: package.id.clone(), secret_key: response.secret_key }
}

/// Creates a tenant for each caller. A tenant can use two database connections at a time, so callers of one tenant
/// would measure its queue.
async fn create_sample_tenants(env: &BenchEnv) -> Vec<SampleTenant> {
    let mut tenants = Vec::new();
    for _ in 0..CALLERS {
        tenants.push(create_sample_tenant(env).await);
    }
    tenants
}

pub fn of_caller(tenants: &[SampleTenant], caller: u64) -> &SampleTenant {
    &tenants[usize::try_from(caller).unwrap() % tenants.len()]
}

pub fn get_package(env: &BenchEnv, tenants: &[SampleTenant], window: Duration) -> Measurement {
    generate_load(&env.endpoint, CALLERS, window, |channel, caller, _| {
        let tenant = of_caller(tenants, caller);
        let request = GetPackageRequest {
            tenant_id: tenant.id.clone(),
            package_id: tenant.package_id.clone(),
            ..Default::default()
        };
        async move {
            PackageCatalogClient::new(channel).get_package(request).await.unwrap();
            1
        }
    })
}

pub fn list_packages(env: &BenchEnv, tenants: &[SampleTenant], window: Duration) -> Measurement {
    generate_load(&env.endpoint, CALLERS, window, |channel, caller, _| {
        let request = ListPackagesRequest { tenant_id: of_caller(tenants, caller).id.clone(), ..Default::default() };
        async move {
            PackageCatalogClient::new(channel).list_packages(request).await.unwrap();
            1
        }
    })
}

pub fn update_package(env: &BenchEnv, tenants: &[SampleTenant], window: Duration) -> Measurement {
    generate_load(&env.endpoint, CALLERS, window, |channel, caller, number| {
        let tenant = of_caller(tenants, caller);
        let request = UpsertPackageRequest {
            tenant_id: tenant.id.clone(),
            package_id: Some(tenant.package_id.clone()),
            base_price: Some(i64::try_from(number).unwrap() + 1),
            ..Default::default()
        };
        async move {
            PackageCatalogClient::new(channel).upsert_package(request).await.unwrap();
            1
        }
    })
}

pub fn verify_api_key(env: &BenchEnv, tenant: &SampleTenant, window: Duration) -> Measurement {
    generate_load(&env.endpoint, CALLERS, window, |channel, _, _| {
        let request = VerifyApiKeyRequest { secret_key: tenant.secret_key.clone() };
        async move {
            TenantProvisioningClient::new(channel).verify_api_key(request).await.unwrap();
            1
        }
    })
}

fn check_health(env: &BenchEnv, window: Duration) -> Measurement {
    generate_load(&env.endpoint, CALLERS, window, |channel, _, _| async move {
        HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
        1
    })
}

/// The result of creating tenants with a number of concurrent callers.
pub struct CallersResult {
    pub callers: u64,
    pub created: Measurement,
    /// The server's memory at the end of the measurement.
    pub resident_kib: Option<u64>,
}

/// Creates tenants with 1 to 128 concurrent callers.
pub fn create_by_callers(env: &BenchEnv, settings: RunSettings) -> Vec<CallersResult> {
    let measure = |callers| {
        let created = create(env, callers, settings.window);
        CallersResult { callers, created, resident_kib: env.resident_kib() }
    };
    [1, 2, 4, 8, 16, 32, 64, 128].map(measure).into()
}
