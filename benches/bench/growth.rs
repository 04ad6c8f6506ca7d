//! Growth: the latency of one caller by the number of tenants, and by the number of packages in one tenant.

use std::time::Duration;

use tonic::transport::Channel;
use turnkey::grpc::pb::{
    BatchUpsertPackagesRequest, DeletePackageRequest, GetPackageRequest, GetTenantRequest, ListPackagesRequest,
    ListTenantsRequest, PackageUpsert, UpsertPackageRequest, VerifyApiKeyRequest, get_tenant_request::Identifier,
    package_catalog_client::PackageCatalogClient, tenant_provisioning_client::TenantProvisioningClient,
};

use crate::{
    RunSettings,
    environment::BenchEnv,
    load::{Measurement, generate_load},
    workloads::{
        BATCH_CALLERS, BATCH_SIZE, SampleTenant, batch_create, create, create_sample_tenant, medians, short_id,
    },
};

/// The goal: no latency is more than this multiple of the first.
pub const MAX_RATIO: f64 = 1.5;

/// The median latencies of some calls at several sizes.
pub struct Growth {
    pub sizes: Vec<u64>,
    /// The name of each call, and its latency at each size.
    pub calls: Vec<(&'static str, Vec<f64>)>,
}

impl Growth {
    fn new() -> Self {
        Self { sizes: Vec::new(), calls: Vec::new() }
    }

    /// Adds the medians over the rounds. Each round measures every call once.
    fn add(&mut self, size: u64, rounds: u64, measure: impl Fn() -> Vec<(&'static str, Measurement)>) {
        let rounds: Vec<_> = (0..rounds).map(|_| measure()).collect();
        for (index, &(name, _)) in rounds[0].iter().enumerate() {
            let p50_ms = medians(&rounds.iter().map(|round| round[index].1).collect::<Vec<_>>()).p50_ms;
            if self.sizes.is_empty() {
                self.calls.push((name, Vec::new()));
            }
            self.calls[index].1.push(p50_ms);
        }
        self.sizes.push(size);
    }

    /// The latencies of a call by size.
    pub fn points(&self, call: &str) -> Vec<(f64, f64)> {
        let latencies = self.calls.iter().find(|(name, _)| *name == call).map(|(_, latencies)| latencies);
        self.sizes.iter().map(|&size| size as f64).zip(latencies.into_iter().flatten().copied()).collect()
    }
}

/// Measures one caller.
fn one_caller<Call: Future<Output = ()>>(
    env: &BenchEnv,
    window: Duration,
    call: impl Fn(Channel, u64) -> Call + Sync,
) -> Measurement {
    generate_load(&env.endpoint, 1, window, |channel, _, number| {
        let call = call(channel, number);
        async move {
            call.await;
            1
        }
    })
}

/// Deletes all tenants, then measures with 1,000 to a million tenants. One of them is suspended.
pub async fn by_tenants(env: &BenchEnv, settings: RunSettings) -> Growth {
    sqlx::query("TRUNCATE tenants CASCADE").execute(&env.superuser).await.unwrap();
    let tenant = create_sample_tenant(env).await;
    let suspend = "UPDATE tenants SET is_active = false WHERE id = (SELECT min(id::text)::uuid FROM tenants WHERE id::text <> $1)";
    // Every tenant has a label, half of them a second one, and one of them a third.
    let label_one = "UPDATE tenants SET labels = '{\"pilot\": \"yes\"}' WHERE id::text = $1";
    let label = "UPDATE tenants
                    SET labels = labels || CASE WHEN hashtext(slug) % 2 = 0 THEN '{\"platform\": \"yes\", \"even\": \"yes\"}'
                                                ELSE '{\"platform\": \"yes\"}' END::jsonb
                  WHERE NOT labels ? 'platform'";
    let mut growth = Growth::new();
    for tenants in [1_000, 100_000, 1_000_000].into_iter().filter(|tenants| *tenants <= settings.max_tenants) {
        create_up_to(env, tenants).await;
        if growth.sizes.is_empty() {
            sqlx::query(suspend).bind(&tenant.id).execute(&env.superuser).await.unwrap();
            sqlx::query(label_one).bind(&tenant.id).execute(&env.superuser).await.unwrap();
        }
        sqlx::query(label).execute(&env.superuser).await.unwrap();
        // Otherwise autovacuum would start during a measurement.
        sqlx::query("VACUUM ANALYZE").execute(&env.superuser).await.unwrap();
        // Short, because creating adds tenants.
        let window = settings.window / 5;
        growth.add(tenants, settings.rounds, || measure_with_tenants(env, &tenant, window));
    }
    growth
}

fn measure_with_tenants(env: &BenchEnv, tenant: &SampleTenant, window: Duration) -> Vec<(&'static str, Measurement)> {
    let all = ListTenantsRequest::default;
    let list = |request: ListTenantsRequest| {
        one_caller(env, window, |channel, _| {
            let request = request.clone();
            async move { drop(TenantProvisioningClient::new(channel).list_tenants(request).await.unwrap()) }
        })
    };
    let get = one_caller(env, window, |channel, _| {
        let request = GetTenantRequest { identifier: Some(Identifier::TenantId(tenant.id.clone())) };
        async move { drop(TenantProvisioningClient::new(channel).get_tenant(request).await.unwrap()) }
    });
    let verify = one_caller(env, window, |channel, _| {
        let request = VerifyApiKeyRequest { secret_key: tenant.secret_key.clone() };
        async move { drop(TenantProvisioningClient::new(channel).verify_api_key(request).await.unwrap()) }
    });
    vec![
        ("create", create(env, 1, window)),
        ("get", get),
        ("verify", verify),
        ("list", list(all())),
        ("list, newest first", list(ListTenantsRequest { newest_first: true, ..all() })),
        ("list, active", list(ListTenantsRequest { is_active: Some(true), ..all() })),
        ("list, suspended (one)", list(ListTenantsRequest { is_active: Some(false), ..all() })),
        ("list, with deleted", list(ListTenantsRequest { show_deleted: true, ..all() })),
        // The slugs of batches begin with b, that of the sample tenant with k.
        ("list, slug prefix (most)", list(ListTenantsRequest { slug_prefix: "b".to_owned(), ..all() })),
        ("list, slug prefix (one)", list(ListTenantsRequest { slug_prefix: "k".to_owned(), ..all() })),
        ("list, label (most)", list(with_labels(&["platform"]))),
        ("list, label (one)", list(with_labels(&["pilot"]))),
        ("list, two labels", list(with_labels(&["platform", "even"]))),
    ]
}

fn with_labels(keys: &[&str]) -> ListTenantsRequest {
    let labels = keys.iter().map(|&key| (key.to_owned(), "yes".to_owned())).collect();
    ListTenantsRequest { labels, ..ListTenantsRequest::default() }
}

/// Creates batches until the number of tenants is reached, or almost.
async fn create_up_to(env: &BenchEnv, tenants: u64) {
    loop {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM tenants").fetch_one(&env.superuser).await.unwrap();
        let missing = tenants.saturating_sub(count.unsigned_abs());
        if missing < BATCH_SIZE * BATCH_CALLERS {
            return;
        }
        batch_create(env, BATCH_CALLERS, Duration::from_millis(missing / 20));
    }
}

/// Measures in tenants with 3 to 10,000 packages, which have one name and generated slugs.
pub async fn by_packages(env: &BenchEnv, settings: RunSettings) -> Growth {
    let mut growth = Growth::new();
    for packages in [3, 1_000, 10_000] {
        let tenant = create_sample_tenant(env).await;
        add_packages(env, &tenant, packages - 3).await;
        sqlx::query("VACUUM ANALYZE packages").execute(&env.superuser).await.unwrap();
        growth.add(packages, settings.rounds, || measure_with_packages(env, &tenant, settings.window / 5));
    }
    growth
}

fn gold() -> PackageUpsert {
    PackageUpsert { name: Some("Gold".to_owned()), base_price: Some(1), ..Default::default() }
}

async fn add_packages(env: &BenchEnv, tenant: &SampleTenant, mut packages: u64) {
    let mut client = PackageCatalogClient::new(env.endpoint.connect().await.unwrap());
    while packages > 0 {
        let batch = packages.min(500);
        let packages_of_batch = (0..batch).map(|_| gold()).collect();
        let request = BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages: packages_of_batch };
        client.batch_upsert_packages(request).await.unwrap();
        packages -= batch;
    }
}

fn measure_with_packages(env: &BenchEnv, tenant: &SampleTenant, window: Duration) -> Vec<(&'static str, Measurement)> {
    let upsert = || UpsertPackageRequest { tenant_id: tenant.id.clone(), base_price: Some(1), ..Default::default() };
    // The package is deleted again, so that the tenant keeps its size.
    let create_and_delete = |with_slug: bool| {
        one_caller(env, window, |channel, _| {
            let slug = with_slug.then(|| format!("p{}", short_id()));
            let request = UpsertPackageRequest { name: Some("Gold".to_owned()), slug, ..upsert() };
            let tenant_id = tenant.id.clone();
            async move {
                let mut client = PackageCatalogClient::new(channel);
                let created = client.upsert_package(request).await.unwrap().into_inner();
                let request =
                    DeletePackageRequest { tenant_id, package_id: created.package.unwrap().id, ..Default::default() };
                client.delete_package(request).await.unwrap();
            }
        })
    };
    let update = |request: UpsertPackageRequest| {
        one_caller(env, window, |channel, number| {
            let base_price = Some(i64::try_from(number).unwrap() + 1);
            let request = UpsertPackageRequest { base_price, ..request.clone() };
            async move { drop(PackageCatalogClient::new(channel).upsert_package(request).await.unwrap()) }
        })
    };
    let get = one_caller(env, window, |channel, _| {
        let request = GetPackageRequest {
            tenant_id: tenant.id.clone(),
            package_id: tenant.package_id.clone(),
            ..Default::default()
        };
        async move { drop(PackageCatalogClient::new(channel).get_package(request).await.unwrap()) }
    });
    // As many as the smallest tenant has, so that the pages are equally long.
    let list = one_caller(env, window, |channel, _| {
        let request = ListPackagesRequest { tenant_id: tenant.id.clone(), page_size: 3, ..Default::default() };
        async move { drop(PackageCatalogClient::new(channel).list_packages(request).await.unwrap()) }
    });
    vec![
        ("create and delete", create_and_delete(true)),
        ("the same, slug generated", create_and_delete(false)),
        ("update by id", update(UpsertPackageRequest { package_id: Some(tenant.package_id.clone()), ..upsert() })),
        ("update by slug", update(UpsertPackageRequest { slug: Some("basic-package".to_owned()), ..upsert() })),
        ("get", get),
        ("list, a page of 3", list),
    ]
}
