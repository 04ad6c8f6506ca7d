//! What is measured.

use std::time::Duration;

use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, CreateFullyProvisionedRequest, GetPackageRequest, ListPackagesRequest,
    ListTenantsRequest, VerifyApiKeyRequest, package_catalog_client::PackageCatalogClient,
    tenant_provisioning_client::TenantProvisioningClient,
};
use uuid::Uuid;

use crate::{
    Length,
    baselines::{self, Protocol, Trips},
    environment::BenchEnv,
    load::{Measured, drive},
};

const CALLERS: u64 = 32;
const BATCH: u64 = 100;

/// A line of the table.
pub struct Row {
    pub work: &'static str,
    pub measured: Measured,
    pub against: &'static str,
    pub goal: Goal,
    /// What the limit came to, in the goal's unit, and the ratio to it.
    pub limit: f64,
    pub ratio: f64,
}

/// What a work is held to.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At least this part of the limit's rate.
    Rate(f64),
    /// At most so many times the limit's median latency.
    Latency(f64),
    /// There is nothing to hold it against.
    None,
}

impl Goal {
    fn compare(self, ours: &Measured, limit: f64) -> f64 {
        match self {
            Self::Rate(_) | Self::None => ours.rate / limit,
            Self::Latency(_) => ours.p50_ms / limit,
        }
    }
}

fn wish(slug: String) -> CreateFullyProvisionedRequest {
    let request_id = Some(Uuid::new_v4().to_string());
    CreateFullyProvisionedRequest { slug, name: "Bella Weddings".to_owned(), request_id, ..Default::default() }
}

fn create(stage: &BenchEnv, callers: u64, window: Duration) -> Measured {
    let run = short_id();
    drive(&stage.endpoint, callers, window, |channel, caller, number| {
        let slug = format!("t{run}-{caller}-{number}");
        async move {
            TenantProvisioningClient::new(channel).create_fully_provisioned(wish(slug)).await.unwrap();
            1
        }
    })
}

fn batch(stage: &BenchEnv, callers: u64, window: Duration) -> Measured {
    let run = short_id();
    drive(&stage.endpoint, callers, window, |channel, caller, number| {
        let requests = (0..BATCH).map(|item| wish(format!("b{run}-{caller}-{number}-{item}"))).collect();
        let request = BatchCreateFullyProvisionedRequest { requests };
        async move {
            TenantProvisioningClient::new(channel).batch_create_fully_provisioned(request).await.unwrap();
            BATCH
        }
    })
}

fn short_id() -> String {
    Uuid::new_v4().simple().to_string()[..8].to_owned()
}

/// Ids and a key that reads are about.
struct Known {
    tenant_id: String,
    package_id: String,
    secret_key: String,
}

async fn known(stage: &BenchEnv) -> Known {
    let mut client = TenantProvisioningClient::new(stage.endpoint.connect().await.unwrap());
    let made = client.create_fully_provisioned(wish(format!("k{}", short_id()))).await.unwrap().into_inner();
    Known { tenant_id: made.tenant.unwrap().id, package_id: made.packages[0].id.clone(), secret_key: made.secret_key }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn middle(measured: &[Measured]) -> Measured {
    let of = |pick: fn(&Measured) -> f64| median(measured.iter().map(pick).collect());
    Measured { rate: of(|each| each.rate), p50_ms: of(|each| each.p50_ms), p99_ms: of(|each| each.p99_ms) }
}

/// The rows so far.
struct Table<'a> {
    length: Length,
    only: Option<&'a str>,
    rows: Vec<Row>,
}

impl Table<'_> {
    /// Service and limit in turn. `limit` gets the round's number and answers in the goal's unit.
    fn add(
        &mut self,
        work: &'static str,
        against: &'static str,
        goal: Goal,
        measure: impl Fn() -> Measured,
        limit: impl Fn(u64) -> f64,
    ) {
        if self.only.is_some_and(|only| !work.contains(only)) {
            return;
        }
        let (mut measured, mut limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.length.rounds {
            let (ours, theirs) = (measure(), limit(round));
            ratios.push(goal.compare(&ours, theirs));
            measured.push(ours);
            limits.push(theirs);
        }
        let (limit, ratio) = (median(limits), median(ratios));
        self.rows.push(Row { work, measured: middle(&measured), against, goal, limit, ratio });
    }
}

/// All works, or those that have this in their name.
pub async fn table(stage: &BenchEnv, length: Length, only: Option<&str>) -> Vec<Row> {
    let window = length.window;
    let known = known(stage).await;
    let mut table = Table { length, only, rows: Vec::new() };

    let pgbench =
        |round| baselines::pgbench(stage, &baselines::creating(round), Protocol::Prepared, CALLERS, window).rate;
    let work = || create(stage, CALLERS, window);
    table.add("CreateFullyProvisioned, 32 callers", "pgbench, same statement", Goal::Rate(0.7), work, pgbench);

    let pgbench =
        |round| baselines::pgbench(stage, &baselines::creating(100 + round), Protocol::Prepared, 1, window).p50_ms;
    let work = || create(stage, 1, window);
    let goal = Goal::Latency(1.6);
    table.add("CreateFullyProvisioned, 1 caller (p50)", "pgbench, 1 client (p50)", goal, work, pgbench);

    let work = || batch(stage, 4, window);
    let single = |_| create(stage, CALLERS, window).rate;
    table.add("BatchCreateFullyProvisioned, tenants", "single calls", Goal::Rate(2.0), work, single);

    let (tenant, package) = (format!("'{}'", known.tenant_id), format!("'{}'", known.package_id));
    let (select, values) = ("LEFT JOIN packages ON packages.tenant_id = $1", [tenant.as_str(), package.as_str()]);
    let script = baselines::reading(Trips::Three, select, &known.tenant_id, &values);
    let pgbench = |_| baselines::pgbench(stage, &script, Protocol::Simple, CALLERS, window).rate;
    let work = || get_package(stage, &known, window);
    table.add("GetPackage, 32 callers", "pgbench, three trips", Goal::Rate(0.6), work, pgbench);

    let script = baselines::reading(Trips::One, select, &known.tenant_id, &values);
    let pgbench = |_| baselines::pgbench(stage, &script, Protocol::Simple, CALLERS, window).rate;
    let work = || get_package(stage, &known, window);
    table.add("GetPackage, 32 callers", "pgbench, one trip", Goal::None, work, pgbench);

    let values = [tenant.as_str(), "NULL", "NULL", "NULL", "NULL", "51"];
    let script = baselines::reading(Trips::Three, "id = $2) AS has_segment", &known.tenant_id, &values);
    let pgbench = |_| baselines::pgbench(stage, &script, Protocol::Simple, CALLERS, window).rate;
    let work = || list_packages(stage, &known, window);
    table.add("ListPackages (3), 32 callers", "pgbench, three trips", Goal::Rate(0.6), work, pgbench);

    let work = || verify_api_key(stage, &known, window);
    let argon2 = |_| baselines::argon2(window / 2);
    table.add("VerifyApiKey, 32 callers", "one core's Argon2", Goal::Rate(0.5), work, argon2);

    let work = || health(stage, window);
    table.add("health Check, 32 callers", "", Goal::None, work, |_| 1.0);
    table.rows
}

fn get_package(stage: &BenchEnv, known: &Known, window: Duration) -> Measured {
    drive(&stage.endpoint, CALLERS, window, |channel, _, _| {
        let request = GetPackageRequest { tenant_id: known.tenant_id.clone(), package_id: known.package_id.clone() };
        async move {
            PackageCatalogClient::new(channel).get_package(request).await.unwrap();
            1
        }
    })
}

fn list_packages(stage: &BenchEnv, known: &Known, window: Duration) -> Measured {
    drive(&stage.endpoint, CALLERS, window, |channel, _, _| {
        let request = ListPackagesRequest { tenant_id: known.tenant_id.clone(), ..Default::default() };
        async move {
            PackageCatalogClient::new(channel).list_packages(request).await.unwrap();
            1
        }
    })
}

fn verify_api_key(stage: &BenchEnv, known: &Known, window: Duration) -> Measured {
    drive(&stage.endpoint, CALLERS, window, |channel, _, _| {
        let request = VerifyApiKeyRequest { secret_key: known.secret_key.clone() };
        async move {
            TenantProvisioningClient::new(channel).verify_api_key(request).await.unwrap();
            1
        }
    })
}

fn health(stage: &BenchEnv, window: Duration) -> Measured {
    drive(&stage.endpoint, CALLERS, window, |channel, _, _| async move {
        HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
        1
    })
}

/// What so many creators come to, and the memory that the server holds then, in KiB.
pub struct ByCallers {
    pub callers: u64,
    pub created: Measured,
    pub resident_kib: Option<u64>,
}

/// Creating by 1 … 128 callers.
pub fn by_callers(stage: &BenchEnv, length: Length) -> Vec<ByCallers> {
    let mut points = Vec::new();
    for callers in [1, 2, 4, 8, 16, 32, 64, 128] {
        let created = create(stage, callers, length.window);
        points.push(ByCallers { callers, created, resident_kib: stage.resident_kib() });
    }
    points
}

/// Creating, and listing the first page, by one caller, with so many tenants there.
pub async fn by_tenants(stage: &BenchEnv, length: Length) -> Vec<(u64, Measured, Measured)> {
    let mut points = Vec::new();
    sqlx::query("TRUNCATE tenants CASCADE").execute(&stage.superuser).await.unwrap();
    for goal in [1_000, 100_000, 1_000_000].into_iter().filter(|goal| *goal <= length.tenants) {
        loop {
            let there: i64 =
                sqlx::query_scalar("SELECT count(*) FROM tenants").fetch_one(&stage.superuser).await.unwrap();
            let missing = goal.saturating_sub(there.unsigned_abs());
            if missing < BATCH * 4 {
                break;
            }
            batch(stage, 4, Duration::from_millis(missing / 20));
        }
        // Or it would come by itself in the middle of what is measured.
        sqlx::query("VACUUM ANALYZE").execute(&stage.superuser).await.unwrap();
        let (mut created, mut listed) = (Vec::new(), Vec::new());
        for _ in 0..length.rounds {
            // Short, for creating makes more of them.
            let window = length.window / 5;
            listed.push(list_tenants(stage, window));
            created.push(create(stage, 1, window));
        }
        points.push((goal, middle(&created), middle(&listed)));
    }
    points
}

fn list_tenants(stage: &BenchEnv, window: Duration) -> Measured {
    drive(&stage.endpoint, 1, window, |channel, _, _| async move {
        TenantProvisioningClient::new(channel).list_tenants(ListTenantsRequest::default()).await.unwrap();
        1
    })
}
