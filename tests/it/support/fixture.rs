//! A running server with its own database, and clients of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use time::Duration as SignedDuration;
use tonic::{Response, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use turnkey::{
    config::{Bounds, ServerSettings},
    domain::{Argon2Params, KeyMode, Quotas, event::DEFAULT_EVENT_RETENTION},
    grpc::pb::{
        ApiKey, CheckIntegrityRequest, CreateApiKeyRequest, CreateApiKeyResponse, CreateFromSignupRequest,
        CreateFromSignupResponse, CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, DeletePackageRequest,
        DeleteTenantRequest, Finding, GetPackageRequest, GetTenantRequest, ListApiKeysRequest, Package,
        RevokeApiKeyRequest, RotateApiKeyRequest, RotateApiKeyResponse, SuspendTenantRequest, Tenant,
        UndeleteTenantRequest, UpsertPackageRequest, UpsertPackageResponse, UpsertSegmentRequest,
        UpsertSegmentResponse, VerifyApiKeyRequest, VerifyApiKeyResponse, get_tenant_request::Identifier,
        package_catalog_client::PackageCatalogClient, tenant_provisioning_client::TenantProvisioningClient,
    },
    server::{self, Server},
    service::Clock,
};

use super::{
    database::{Cluster, TestDatabase},
    http1::Http,
    proxy::Proxy,
    requests::{named, rotation},
};

/// A server in the test's own process. It ends with the test's runtime.
pub struct Fixture {
    pub database: TestDatabase,
    pub server: Server,
    pub provisioning: TenantProvisioningClient<Channel>,
    pub catalog: PackageCatalogClient<Channel>,
    /// Offset of the server's clock from the system clock, in microseconds.
    clock_offset_us: Arc<AtomicI64>,
}

/// Rows of one tenant in `tenants`, `segments`, `packages` and `api_keys`.
pub const ONE_TENANT: [i64; 4] = [1, 1, 3, 1];

/// The ids and keys of a created tenant.
#[derive(Debug, Clone)]
pub struct NewTenant {
    pub id: String,
    pub general_id: String,
    pub public_key: String,
    pub secret_key: String,
    /// Basic, standard, premium.
    pub package_ids: Vec<String>,
}

pub fn settings() -> ServerSettings {
    ServerSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        health_listen: None,
        http_listen: None,
        http_allowed_origins: Vec::new(),
        tls: None,
        tokens_file: None,
        reflection: true,
        database_max_connections: 16,
        catalog_reads: Vec::new(),
        max_concurrent_calls: 1_024,
        max_concurrent_calls_per_caller: None,
        max_connections: 4_096,
        max_connections_per_address: None,
        rate_limit_per_caller: None,
        max_connection_age: Duration::from_mins(30),
        event_retention: DEFAULT_EVENT_RETENTION,
        quotas: Quotas::DEFAULT,
        hashing_queue: 64,
        hashing_workers: 2,
        key_mode: KeyMode::Live,
        key_argon2: Argon2Params::KEY,
        password_argon2: Argon2Params::PASSWORD,
        shutdown_delay: Duration::ZERO,
        bounds: Bounds::default(),
    }
}

/// The settings with HTTP on any free port.
pub fn with_http(settings: ServerSettings) -> ServerSettings {
    ServerSettings { http_listen: Some("127.0.0.1:0".parse().unwrap()), ..settings }
}

/// Settings of a server with a single database connection.
pub fn one_connection() -> ServerSettings {
    ServerSettings { database_max_connections: 1, ..settings() }
}

pub async fn channel(address: &str) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

impl Fixture {
    pub async fn start() -> Self {
        Self::with_settings(settings()).await
    }

    pub async fn with_settings(settings: ServerSettings) -> Self {
        Self::start_with(Cluster::get().migrated().await, settings).await
    }

    pub async fn start_on(database: TestDatabase) -> Self {
        Self::start_with(database, settings()).await
    }

    /// The server reaches its database through the proxy.
    pub async fn behind_proxy(settings: ServerSettings) -> (Self, Proxy) {
        let database = Cluster::get().migrated().await;
        let proxy = Proxy::start(&database.server).await;
        let server = proxy.options(&database.server);
        (Self::start_with(TestDatabase { server, ..database }, settings).await, proxy)
    }

    pub async fn start_with(database: TestDatabase, settings: ServerSettings) -> Self {
        let listener = server::bind(settings.listen).unwrap();
        let clock_offset_us = Arc::new(AtomicI64::new(0));
        let offset = Arc::clone(&clock_offset_us);
        let system = Clock::system();
        let clock = Clock::new(move || system.now() + SignedDuration::microseconds(offset.load(Ordering::Relaxed)));
        let server = server::start(listener, database.server.clone().into(), &settings, clock).unwrap();
        let channel = channel(&server.address.to_string()).await;
        let provisioning = TenantProvisioningClient::new(channel.clone());
        Self { database, server, provisioning, catalog: PackageCatalogClient::new(channel), clock_offset_us }
    }

    /// The address of HTTP. The settings must have one, as [`with_http`] adds it.
    pub fn http(&self) -> Http {
        Http { address: self.server.http_address.expect("HTTP is served") }
    }

    pub fn advance_clock(&self, duration: SignedDuration) {
        let micros = i64::try_from(duration.whole_microseconds()).unwrap();
        self.clock_offset_us.fetch_add(micros, Ordering::Relaxed);
    }

    pub async fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(channel(&self.server.address.to_string()).await)
    }

    /// Waits until the server reports this readiness.
    pub async fn wait_for_readiness(&self, expected: ServingStatus) {
        let request = HealthCheckRequest { service: String::new() };
        let mut changes = self.health().await.watch(request).await.unwrap().into_inner();
        while changes.message().await.unwrap().expect("the stream continues").status() != expected {}
    }

    /// A pool of the superuser, for what an operator does in psql.
    pub async fn superuser_pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(4).connect_with(self.database.superuser.clone()).await.unwrap()
    }

    pub async fn count(&self, table: &'static str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.superuser_pool().await).await.unwrap()
    }

    /// Rows in `tenants`, `segments`, `packages` and `api_keys`.
    pub async fn row_counts(&self) -> [i64; 4] {
        let mut rows = [0; 4];
        for (count, table) in rows.iter_mut().zip(["tenants", "segments", "packages", "api_keys"]) {
            *count = self.count(table).await;
        }
        rows
    }

    /// Creates a tenant.
    pub async fn tenant(&self, slug: &str) -> NewTenant {
        let created = self.create(named(slug)).await.unwrap();
        let tenant = created.tenant.unwrap();
        NewTenant {
            id: tenant.id,
            public_key: tenant.api_key_public,
            secret_key: created.secret_key,
            general_id: created.segment.unwrap().id,
            package_ids: created.packages.into_iter().map(|package| package.id).collect(),
        }
    }
}

/// Calls that several test modules make.
impl Fixture {
    pub async fn create(
        &self,
        request: CreateFullyProvisionedRequest,
    ) -> Result<CreateFullyProvisionedResponse, Status> {
        self.provisioning.clone().create_fully_provisioned(request).await.map(Response::into_inner)
    }

    pub async fn sign_up(&self, request: CreateFromSignupRequest) -> Result<CreateFromSignupResponse, Status> {
        self.provisioning.clone().create_from_signup(request).await.map(Response::into_inner)
    }

    pub async fn get(&self, identifier: Identifier) -> Result<Tenant, Status> {
        let request = GetTenantRequest { identifier: Some(identifier) };
        Ok(self.provisioning.clone().get_tenant(request).await?.into_inner().tenant.unwrap())
    }

    pub async fn suspend_tenant(&self, tenant_id: &str) -> Result<Tenant, Status> {
        let request = SuspendTenantRequest { tenant_id: tenant_id.to_owned() };
        Ok(self.provisioning.clone().suspend_tenant(request).await?.into_inner().tenant.unwrap())
    }

    pub async fn delete_tenant(&self, tenant_id: &str) -> Result<Tenant, Status> {
        let request = DeleteTenantRequest { tenant_id: tenant_id.to_owned(), ..Default::default() };
        Ok(self.provisioning.clone().delete_tenant(request).await?.into_inner().tenant.unwrap())
    }

    pub async fn undelete_tenant(&self, tenant_id: &str) -> Result<Tenant, Status> {
        let request = UndeleteTenantRequest { tenant_id: tenant_id.to_owned() };
        Ok(self.provisioning.clone().undelete_tenant(request).await?.into_inner().tenant.unwrap())
    }

    pub async fn verify(&self, secret_key: &str) -> VerifyApiKeyResponse {
        let request = VerifyApiKeyRequest { secret_key: secret_key.to_owned() };
        self.provisioning.clone().verify_api_key(request).await.unwrap().into_inner()
    }

    pub async fn keys(&self, tenant_id: &str) -> Vec<ApiKey> {
        let request = ListApiKeysRequest { tenant_id: tenant_id.to_owned(), page_size: 500, ..Default::default() };
        let response = self.provisioning.clone().list_api_keys(request).await.unwrap().into_inner();
        assert_eq!(response.next_page_token, "", "the keys have more than one page");
        response.api_keys
    }

    pub async fn revoke(&self, tenant_id: &str, public_key: &str) -> Result<ApiKey, Status> {
        let request = RevokeApiKeyRequest { tenant_id: tenant_id.to_owned(), public_key: public_key.to_owned() };
        Ok(self.provisioning.clone().revoke_api_key(request).await?.into_inner().api_key.unwrap())
    }

    pub async fn create_key(&self, request: CreateApiKeyRequest) -> Result<CreateApiKeyResponse, Status> {
        self.provisioning.clone().create_api_key(request).await.map(Response::into_inner)
    }

    pub async fn try_rotate(&self, request: RotateApiKeyRequest) -> Result<RotateApiKeyResponse, Status> {
        self.provisioning.clone().rotate_api_key(request).await.map(Response::into_inner)
    }

    pub async fn rotate(&self, tenant: &NewTenant, overlap: Option<SignedDuration>) -> RotateApiKeyResponse {
        self.try_rotate(rotation(&tenant.id, overlap)).await.unwrap()
    }

    pub async fn check_integrity(&self, tenant_id: Option<&str>) -> Result<Vec<Finding>, Status> {
        let request = CheckIntegrityRequest { tenant_id: tenant_id.map(str::to_owned) };
        let mut stream = self.provisioning.clone().check_integrity(request).await?.into_inner();
        let mut findings = Vec::new();
        while let Some(response) = stream.message().await? {
            findings.push(response.finding.unwrap());
        }
        Ok(findings)
    }

    pub async fn upsert_package(&self, request: UpsertPackageRequest) -> Result<UpsertPackageResponse, Status> {
        self.catalog.clone().upsert_package(request).await.map(Response::into_inner)
    }

    pub async fn package(&self, tenant: &NewTenant, package_id: &str) -> Result<Package, Status> {
        let request =
            GetPackageRequest { tenant_id: tenant.id.clone(), package_id: package_id.to_owned(), ..Default::default() };
        Ok(self.catalog.clone().get_package(request).await?.into_inner().package.unwrap())
    }

    pub async fn delete_package(&self, tenant_id: &str, package_id: &str) -> Result<(), Status> {
        let request = DeletePackageRequest {
            tenant_id: tenant_id.to_owned(),
            package_id: package_id.to_owned(),
            ..Default::default()
        };
        self.catalog.clone().delete_package(request).await.map(drop)
    }

    pub async fn upsert_segment(&self, request: UpsertSegmentRequest) -> Result<UpsertSegmentResponse, Status> {
        self.catalog.clone().upsert_segment(request).await.map(Response::into_inner)
    }
}
