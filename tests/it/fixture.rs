//! A running server over a database of its own, and a client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rand::{rand_core::UnwrapErr, rngs::SysRng};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt as _;
use turnkey::{
    config::ServerSettings,
    domain::{Argon2Params, KeyMode},
    grpc::pb::{
        CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, GetTenantRequest, Tenant,
        get_tenant_request::Identifier, package_catalog_client::PackageCatalogClient,
        tenant_provisioning_client::TenantProvisioningClient,
    },
    secrets::{assemble_secret_key, random_secret},
    server::{self, Server},
    service::Clock,
};

use crate::cluster::{Cluster, TestDatabase};

/// A server in this process. It ends with its test's runtime.
pub struct Fixture {
    pub database: TestDatabase,
    pub server: Server,
    pub provisioning: TenantProvisioningClient<Channel>,
    pub catalog: PackageCatalogClient<Channel>,
    /// Microseconds that the server's clock is ahead of the machine's.
    ahead: Arc<AtomicI64>,
}

/// Rows of one tenant in `tenants`, `segments`, `packages` and `api_keys`.
pub const ONE_TENANT: [i64; 4] = [1, 1, 3, 1];

/// The ids of a tenant that was just made.
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
        tls: None,
        tokens_file: None,
        reflection: true,
        database_max_connections: 16,
        max_concurrent_calls: 1_024,
        rate_limit_per_caller: None,
        max_connection_age: Duration::from_mins(30),
        hashing_queue: 64,
        key_mode: KeyMode::Live,
        key_argon2: Argon2Params::KEY,
        password_argon2: Argon2Params::PASSWORD,
        shutdown_delay: Duration::ZERO,
    }
}

impl Fixture {
    pub async fn start() -> Self {
        Self::start_on(Cluster::get().migrated().await).await
    }

    pub async fn start_on(database: TestDatabase) -> Self {
        Self::start_with(database, settings()).await
    }

    pub async fn start_with(database: TestDatabase, settings: ServerSettings) -> Self {
        let bound = server::bind(settings.listen).await.unwrap();
        let ahead = Arc::new(AtomicI64::new(0));
        let offset = Arc::clone(&ahead);
        let system = Clock::system();
        let clock = Clock::new(move || system.now() + time::Duration::microseconds(offset.load(Ordering::Relaxed)));
        let server = server::start(bound, database.server.clone(), &settings, clock).await.unwrap();
        let channel = channel(&server.address.to_string()).await;
        let provisioning = TenantProvisioningClient::new(channel.clone());
        Self { database, server, provisioning, catalog: PackageCatalogClient::new(channel), ahead }
    }

    /// Moves the server's clock on.
    pub fn advance_clock(&self, duration: time::Duration) {
        let micros = i64::try_from(duration.whole_microseconds()).unwrap();
        self.ahead.fetch_add(micros, Ordering::Relaxed);
    }

    pub async fn create(
        &self,
        request: CreateFullyProvisionedRequest,
    ) -> Result<CreateFullyProvisionedResponse, Status> {
        let mut client = self.provisioning.clone();
        client.create_fully_provisioned(request).await.map(tonic::Response::into_inner)
    }

    /// A tenant to do something with, as its creation answered it.
    pub async fn tenant(&self, slug: &str) -> NewTenant {
        let made = self.create(named(slug)).await.unwrap();
        let tenant = made.tenant.unwrap();
        NewTenant {
            id: tenant.id,
            public_key: tenant.api_key_public,
            secret_key: made.secret_key,
            general_id: made.segment.unwrap().id,
            package_ids: made.packages.into_iter().map(|package| package.id).collect(),
        }
    }

    pub async fn get(&self, identifier: Identifier) -> Result<Tenant, Status> {
        let mut client = self.provisioning.clone();
        let reply = client.get_tenant(GetTenantRequest { identifier: Some(identifier) }).await?;
        Ok(reply.into_inner().tenant.unwrap())
    }

    /// A pool of the superuser that type into psql.
    pub async fn superuser_pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(4).connect_with(self.database.superuser.clone()).await.unwrap()
    }

    pub async fn count(&self, table: &'static str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.superuser_pool().await).await.unwrap()
    }

    /// Rows in tenants, segments, packages and keys.
    pub async fn row_counts(&self) -> [i64; 4] {
        let mut rows = [0; 4];
        for (count, table) in rows.iter_mut().zip(["tenants", "segments", "packages", "api_keys"]) {
            *count = self.count(table).await;
        }
        rows
    }
}

pub async fn channel(address: &str) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

pub fn bella() -> CreateFullyProvisionedRequest {
    named("bella-weddings")
}

pub fn named(slug: &str) -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest {
        slug: slug.to_owned(),
        name: "Bella Weddings".to_owned(),
        ..CreateFullyProvisionedRequest::default()
    }
}

/// A secret key that nobody has, with this public half: well formed, so that it has to be looked up and hashed.
pub fn unknown_secret_key(public_key: &str) -> String {
    let secret = random_secret(&mut UnwrapErr(SysRng));
    assemble_secret_key(public_key, secret).expose_secret().to_owned()
}

/// The text with another last letter, whichever that is.
pub fn with_last_char_changed(text: &str) -> String {
    let (rest, last) = text.split_at(text.len() - 1);
    format!("{rest}{}", if last == "A" { "B" } else { "A" })
}

/// The stable reason of a failure.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("every error carries ErrorInfo");
    assert_eq!(info.domain, "turnkey");
    info.reason
}

/// Field and reason of each violation.
pub fn violations(status: &Status) -> Vec<(String, String)> {
    let request = status.get_details_bad_request().expect("a bad request says what is bad");
    request.field_violations.into_iter().map(|violation| (violation.field, violation.reason)).collect()
}
