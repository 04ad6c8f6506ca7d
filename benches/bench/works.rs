//! What is measured.

use std::{sync::Arc, time::Duration};

use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, CreateFullyProvisionedRequest, GetPackageRequest, ListPackagesRequest,
    ListTenantsRequest, VerifyApiKeyRequest, package_catalog_client::PackageCatalogClient,
    tenant_provisioning_client::TenantProvisioningClient,
};
use uuid::Uuid;

use crate::{
    Length,
    limits::{self, Protocol},
    load::{Measured, drive},
    stage::Stage,
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

/// Which of the channels a caller uses.
fn channel(channels: &[Channel], caller: u64) -> Channel {
    channels[usize::try_from(caller).unwrap() % channels.len()].clone()
}

fn wish(slug: String) -> CreateFullyProvisionedRequest {
    let request_id = Some(Uuid::new_v4().to_string());
    CreateFullyProvisionedRequest { slug, name: "Bella Weddings".to_owned(), request_id, ..Default::default() }
}

async fn create(stage: &Stage, callers: u64, window: Duration) -> Measured {
    let (channels, run) = (stage.channels.clone(), short_id());
    drive(callers, window, move |caller, number| {
        let mut client = TenantProvisioningClient::new(channel(&channels, caller));
        let slug = format!("t{run}-{caller}-{number}");
        async move {
            client.create_fully_provisioned(wish(slug)).await.unwrap();
            1
        }
    })
    .await
}

async fn batch(stage: &Stage, callers: u64, window: Duration) -> Measured {
    let (channels, run) = (stage.channels.clone(), short_id());
    drive(callers, window, move |caller, number| {
        let mut client = TenantProvisioningClient::new(channel(&channels, caller));
        let requests = (0..BATCH).map(|item| wish(format!("b{run}-{caller}-{number}-{item}"))).collect();
        async move {
            client.batch_create_fully_provisioned(BatchCreateFullyProvisionedRequest { requests }).await.unwrap();
            BATCH
        }
    })
    .await
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

async fn known(stage: &Stage) -> Known {
    let mut client = TenantProvisioningClient::new(stage.channels[0].clone());
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
    async fn add(
        &mut self,
        work: &'static str,
        against: &'static str,
        goal: Goal,
        measure: impl AsyncFn() -> Measured,
        limit: impl AsyncFn(u64) -> f64,
    ) {
        if self.only.is_some_and(|only| !work.contains(only)) {
            return;
        }
        let (mut measured, mut limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.length.rounds {
            let (ours, theirs) = (measure().await, limit(round).await);
            ratios.push(goal.compare(&ours, theirs));
            measured.push(ours);
            limits.push(theirs);
        }
        let (limit, ratio) = (median(limits), median(ratios));
        self.rows.push(Row { work, measured: middle(&measured), against, goal, limit, ratio });
    }
}

/// All works, or those that have this in their name.
pub async fn table(stage: &Stage, length: Length, only: Option<&str>) -> Vec<Row> {
    let window = length.window;
    let known = Arc::new(known(stage).await);
    let mut table = Table { length, only, rows: Vec::new() };

    let pgbench =
        async |round| limits::pgbench(stage, &limits::creating(round), Protocol::Prepared, CALLERS, window).rate;
    let work = async || create(stage, CALLERS, window).await;
    table.add("CreateFullyProvisioned, 32 callers", "pgbench, same statement", Goal::Rate(0.7), work, pgbench).await;

    let pgbench =
        async |round| limits::pgbench(stage, &limits::creating(100 + round), Protocol::Prepared, 1, window).p50_ms;
    let work = async || create(stage, 1, window).await;
    let goal = Goal::Latency(1.6);
    table.add("CreateFullyProvisioned, 1 caller (p50)", "pgbench, 1 client (p50)", goal, work, pgbench).await;

    let work = async || batch(stage, 4, window).await;
    let single = async |_| create(stage, CALLERS, window).await.rate;
    table.add("BatchCreateFullyProvisioned, tenants", "single calls", Goal::Rate(2.0), work, single).await;

    let (tenant, package) = (format!("'{}'", known.tenant_id), format!("'{}'", known.package_id));
    let script =
        limits::reading("LEFT JOIN packages ON packages.tenant_id = $1", &known.tenant_id, &[&tenant, &package]);
    let pgbench = async |_| limits::pgbench(stage, &script, Protocol::Simple, CALLERS, window).rate;
    let work = async || get_package(stage, &known, window).await;
    table.add("GetPackage, 32 callers", "pgbench, same trips", Goal::Rate(0.6), work, pgbench).await;

    let values = [tenant.as_str(), "NULL", "NULL", "NULL", "NULL", "51"];
    let script = limits::reading("id = $2) AS has_segment", &known.tenant_id, &values);
    let pgbench = async |_| limits::pgbench(stage, &script, Protocol::Simple, CALLERS, window).rate;
    let work = async || list_packages(stage, &known, window).await;
    table.add("ListPackages (3), 32 callers", "pgbench, same trips", Goal::Rate(0.6), work, pgbench).await;

    let work = async || verify_api_key(stage, &known, window).await;
    let argon2 = async |_| limits::argon2(window / 2);
    table.add("VerifyApiKey, 32 callers", "one core's Argon2", Goal::Rate(0.5), work, argon2).await;

    let work = async || health(stage, window).await;
    table.add("health Check, 32 callers", "", Goal::None, work, async |_| 1.0).await;
    table.rows
}

async fn get_package(stage: &Stage, known: &Arc<Known>, window: Duration) -> Measured {
    let (channels, known) = (stage.channels.clone(), Arc::clone(known));
    drive(CALLERS, window, move |caller, _| {
        let mut client = PackageCatalogClient::new(channel(&channels, caller));
        let request = GetPackageRequest { tenant_id: known.tenant_id.clone(), package_id: known.package_id.clone() };
        async move {
            client.get_package(request).await.unwrap();
            1
        }
    })
    .await
}

async fn list_packages(stage: &Stage, known: &Arc<Known>, window: Duration) -> Measured {
    let (channels, known) = (stage.channels.clone(), Arc::clone(known));
    drive(CALLERS, window, move |caller, _| {
        let mut client = PackageCatalogClient::new(channel(&channels, caller));
        let request = ListPackagesRequest { tenant_id: known.tenant_id.clone(), ..Default::default() };
        async move {
            client.list_packages(request).await.unwrap();
            1
        }
    })
    .await
}

async fn verify_api_key(stage: &Stage, known: &Arc<Known>, window: Duration) -> Measured {
    let (channels, known) = (stage.channels.clone(), Arc::clone(known));
    drive(CALLERS, window, move |caller, _| {
        let mut client = TenantProvisioningClient::new(channel(&channels, caller));
        let request = VerifyApiKeyRequest { secret_key: known.secret_key.clone() };
        async move {
            client.verify_api_key(request).await.unwrap();
            1
        }
    })
    .await
}

async fn health(stage: &Stage, window: Duration) -> Measured {
    let channels = stage.channels.clone();
    drive(CALLERS, window, move |caller, _| {
        let mut client = HealthClient::new(channel(&channels, caller));
        async move {
            client.check(HealthCheckRequest::default()).await.unwrap();
            1
        }
    })
    .await
}

/// What so many creators come to, and the memory that the server holds then, in KiB.
pub struct ByCallers {
    pub callers: u64,
    pub created: Measured,
    pub resident_kib: Option<u64>,
}

/// Creating by 1 … 128 callers.
pub async fn by_callers(stage: &Stage, length: Length) -> Vec<ByCallers> {
    let mut points = Vec::new();
    for callers in [1, 2, 4, 8, 16, 32, 64, 128] {
        let created = create(stage, callers, length.window).await;
        points.push(ByCallers { callers, created, resident_kib: stage.resident_kib() });
    }
    points
}

/// Creating, and listing the first page, by one caller, with so many tenants there.
pub async fn by_tenants(stage: &Stage, length: Length) -> Vec<(u64, Measured, Measured)> {
    let mut points = Vec::new();
    sqlx::query("TRUNCATE tenants CASCADE").execute(&stage.hands).await.unwrap();
    for goal in [1_000, 100_000, 1_000_000].into_iter().filter(|goal| *goal <= length.tenants) {
        loop {
            let there: i64 = sqlx::query_scalar("SELECT count(*) FROM tenants").fetch_one(&stage.hands).await.unwrap();
            let missing = goal.saturating_sub(there.unsigned_abs());
            if missing < BATCH * 4 {
                break;
            }
            batch(stage, 4, Duration::from_millis(missing / 20)).await;
        }
        let created = create(stage, 1, length.window).await;
        let channels = stage.channels.clone();
        let listed = drive(1, length.window, move |caller, _| {
            let mut client = TenantProvisioningClient::new(channel(&channels, caller));
            async move {
                client.list_tenants(ListTenantsRequest::default()).await.unwrap();
                1
            }
        })
        .await;
        points.push((goal, created, listed));
    }
    points
}
