//! The composition root: connects pool, services, layers, health and sockets, and shuts them down in order.
//!
//! Settings are parsed in [`crate::config`], and signals are handled in [`crate::cli`].

mod client_stream;
mod connection;
mod credentials;
mod health;
mod limits;
mod listener;
mod maintenance;
mod metrics_listener;
mod reload;
mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::{Layer as _, ServiceBuilder};

use self::{
    connection::ConnectionTimes,
    health::Health,
    listener::{Acceptor, Versions},
};
pub use self::{listener::BoundListener, metrics_listener::MetricsListener};
#[cfg(feature = "mcp")]
use crate::grpc::layers::tenant_gate::TenantGate;
use crate::{
    config::{DatabaseAddress, ServerSettings, service_credentials},
    grpc::{
        Authenticator, CallTasks, Handler,
        layers::{
            InnerService, MiddlewareLayer, admission::Admission, call_context::CallContextMiddleware,
            grpc_only::GrpcOnly, rate_limit::CallerRateLimiter,
        },
        pb,
        pb::{package_catalog_server::PackageCatalogServer, tenant_provisioning_server::TenantProvisioningServer},
    },
    http::{Browsers, HttpService},
    secrets::{Hasher, HashingSettings},
    service::{CatalogService, Clock, TenantService},
    store::{DatabaseHosts, Store},
    telemetry::metrics,
};

/// The messages of a reflection client are names of symbols.
const MAX_REFLECTION_MESSAGE_BYTES: usize = 4 * 1024;

/// The phases of a shutdown. Their sum, with the shutdown delay (at most 10 s) and the last second for telemetry, stays
/// below the guaranteed 25 s, whatever the clients do.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
const TASKS_TIMEOUT: Duration = Duration::from_secs(4);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(
        "cannot serve metrics on {address}, which OTEL_EXPORTER_PROMETHEUS_HOST and OTEL_EXPORTER_PROMETHEUS_PORT set"
    )]
    ListenMetrics { address: SocketAddr, source: io::Error },
    #[error("cannot prepare the hashing of keys and passwords")]
    Hasher(#[from] crate::error::Error),
    #[error("cannot load the service credentials")]
    Credentials(#[from] service_credentials::TokensFileError),
    #[error("cannot serve TLS")]
    Tls(#[from] tls::TlsError),
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Binds the address of the server and logs it.
///
/// # Errors
/// [`StartError::Listen`].
pub fn bind(address: SocketAddr) -> Result<BoundListener, StartError> {
    let bound = BoundListener::bind(address)?;
    tracing::info!(address = %bound.address, "Turnkey listens on {}", bound.address);
    Ok(bound)
}

/// A running server. Dropping it without [`Server::stop`] leaves it running.
pub struct Server {
    pub address: SocketAddr,
    /// `None` unless HTTP is served.
    pub http_address: Option<SocketAddr>,
    store: Store,
    calls: CallTasks,
    health: Health,
    shutdown_delay: Duration,
    background: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    /// Of gRPC and of HTTP.
    serve_tasks: JoinSet<()>,
}

/// Serves until [`Server::stop`]. The database need not be reachable: until it is, health is NOT_SERVING and calls
/// return UNAVAILABLE. It must be called within a runtime.
pub fn start(
    bound: BoundListener,
    database: DatabaseHosts,
    settings: &ServerSettings,
    clock: Clock,
) -> Result<Server, StartError> {
    let health_bound = settings.health_listen.map(BoundListener::bind).transpose()?;
    let http_bound = settings.http_listen.map(BoundListener::bind).transpose()?;
    let tls = settings.tls.as_ref().map(tls::watch).transpose()?;
    let reader = |address: &DatabaseAddress| database.clone().first().map(|host| address.replace_in(host));
    let store = Store::new(database.clone(), settings.database_max_connections)
        .with_catalog_readers(settings.catalog_reads.iter().map(reader), settings.database_max_connections);
    let tenants = Arc::new(tenant_service(&store, settings, clock.clone())?);
    let catalog = Arc::new(CatalogService::new(store.clone(), clock.clone(), settings.quotas));
    let tasks = CallTasks::default();
    let authenticator = authenticator(settings, &tenants, &tasks, clock.clone())?;
    let rate_limiter = settings.rate_limit_per_caller.map(CallerRateLimiter::new);
    let stop = CancellationToken::new();
    let admission = limits::admission(settings);
    #[cfg(feature = "mcp")]
    let tenant_gate = tenant_gate(settings, authenticator.clone(), &tenants, &tasks, admission.clone(), clock.clone());
    let acceptor = acceptor(settings, tls, clock, stop.clone());

    let health = Health::start(database, store.clone(), stop.clone());
    let mut background = vec![
        tokio::spawn(maintenance::run(Arc::clone(&tenants), rate_limiter.clone())),
        tokio::spawn(maintenance::store_key_uses(Arc::clone(&tenants))),
    ];
    if let Some(bound) = health_bound {
        tracing::info!(address = %bound.address, "Health is served on {}", bound.address);
        let routes = Routes::new(health.service());
        let service = grpc_only(layered(routes, limits::admission(settings), None, None));
        let plaintext = Acceptor { tls: None, ..acceptor.clone() };
        background.push(tokio::spawn(plaintext.serve(bound, service)));
    }
    register_gauges(&health, &store, &tenants);

    let mut routes = Routes::new(TenantProvisioningServer::new(Handler::new(tenants, tasks.clone())))
        .add_service(PackageCatalogServer::new(Handler::new(catalog, tasks.clone())))
        .add_service(health.service());
    // Where it is off for others, callers with a credential may use it. The authenticator decides.
    if settings.reflection || authenticator.is_some() {
        routes = routes
            .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_REFLECTION_MESSAGE_BYTES))
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MAX_REFLECTION_MESSAGE_BYTES));
    }
    let address = bound.address;
    let calls = layered(routes, admission, authenticator, rate_limiter);
    let mut serve_tasks = JoinSet::new();
    let http_address = http_bound.as_ref().map(|bound| bound.address);
    if let Some(bound) = http_bound {
        tracing::info!(address = %bound.address, "HTTP is served on {}", bound.address);
        let browsers = Browsers::new(settings.http_allowed_origins.clone(), bound.address);
        let service = HttpService::new(calls.clone(), browsers, health.readiness());
        #[cfg(feature = "mcp")]
        let service = service.with_agent_tools(tenant_gate);
        let acceptor = Acceptor { versions: Versions::Http1AndHttp2, ..acceptor.clone() };
        serve_tasks.spawn(acceptor.serve(bound, service));
    }
    serve_tasks.spawn(acceptor.serve(bound, grpc_only(calls)));
    let shutdown_delay = settings.shutdown_delay;
    Ok(Server { address, http_address, store, calls: tasks, health, shutdown_delay, background, stop, serve_tasks })
}

/// Puts the layers around routes. The addresses that share the result share its limits on calls.
fn layered(
    routes: Routes,
    admission: Admission,
    authenticator: Option<Authenticator>,
    rate_limiter: Option<CallerRateLimiter>,
) -> impl InnerService {
    ServiceBuilder::new()
        .layer(MiddlewareLayer(CallContextMiddleware::default()))
        .layer(MiddlewareLayer(authenticator))
        .layer(MiddlewareLayer(rate_limiter))
        .layer(MiddlewareLayer(Arc::new(admission)))
        .service(routes.prepare())
}

/// For an address of gRPC.
fn grpc_only(calls: impl InnerService) -> impl InnerService {
    MiddlewareLayer(GrpcOnly).layer(calls)
}

fn acceptor(
    settings: &ServerSettings,
    tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
    clock: Clock,
    stop: CancellationToken,
) -> Acceptor {
    let bounds = &settings.bounds;
    let times = ConnectionTimes {
        max_age: settings.max_connection_age,
        grace: bounds.connection_grace,
        idle_timeout: bounds.connection_idle_timeout,
        response_timeout: bounds.response_timeout,
        head_timeout: bounds.http1_head_timeout,
        expires_in: None,
    };
    Acceptor { versions: Versions::Http2, connections: limits::connections(settings), tls, times, clock, stop }
}

fn tenant_service(store: &Store, settings: &ServerSettings, clock: Clock) -> Result<TenantService, StartError> {
    let hasher = Hasher::new(HashingSettings {
        key: settings.key_argon2,
        password: settings.password_argon2,
        workers: settings.hashing_workers,
        queue_length: settings.hashing_queue,
    })?;
    let service = TenantService::new(store.clone(), hasher, settings.key_mode, clock, settings.quotas);
    Ok(service.with_event_retention(settings.event_retention))
}

/// Returns `None` if callers need no credential.
fn authenticator(
    settings: &ServerSettings,
    tenants: &Arc<TenantService>,
    calls: &CallTasks,
    clock: Clock,
) -> Result<Option<Authenticator>, StartError> {
    let Some(path) = settings.tokens_file.clone() else { return Ok(None) };
    let credentials = credentials::watch(path, clock.clone())?;
    let authenticator = Authenticator::new(credentials, Arc::clone(tenants), calls.clone(), clock);
    Ok(Some(authenticator.with_open_reflection(settings.reflection)))
}

/// Agents need a tenant's key, also where other callers need no credential.
#[cfg(feature = "mcp")]
fn tenant_gate(
    settings: &ServerSettings,
    authenticator: Option<Authenticator>,
    tenants: &Arc<TenantService>,
    calls: &CallTasks,
    admission: Admission,
    clock: Clock,
) -> TenantGate {
    let without_service_credentials =
        || Authenticator::new(watch::channel(Arc::default()).1, Arc::clone(tenants), calls.clone(), clock);
    let authenticator = authenticator.unwrap_or_else(without_service_credentials);
    TenantGate::new(authenticator, admission, limits::agent_requests(settings))
}

fn register_gauges(health: &Health, store: &Store, tenants: &Arc<TenantService>) {
    let (readiness, pool, hashing, creations) = (health.readiness(), store.clone(), Arc::clone(tenants), store.clone());
    metrics::register_gauges(
        move || *readiness.borrow(),
        move || pool.pool_stats(),
        move || hashing.hashing_stats(),
        move || creations.waiting_creations(),
    );
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Lets a client such as grpcurl show the details of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

impl Server {
    /// Receives whether the server can serve calls, on every change.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.health.readiness()
    }

    /// Returns the number of tenants that wait for the statement that creates them.
    pub fn waiting_creations(&self) -> u64 {
        self.store.waiting_creations()
    }

    /// Shuts down gracefully: sets NOT_SERVING, waits until load balancers have noticed, accepts no new calls, and
    /// waits for those in flight, each phase up to its timeout.
    pub async fn stop(mut self) {
        self.health.stop().await;
        tokio::time::sleep(self.shutdown_delay).await;
        self.background.iter().for_each(JoinHandle::abort);
        self.stop.cancel();
        let served = async {
            while let Some(result) = self.serve_tasks.join_next().await {
                if let Err(error) = result {
                    tracing::warn!(%error, "The server task panicked");
                }
            }
        };
        if timeout(DRAIN_TIMEOUT, served).await.is_err() {
            tracing::warn!("Some connections did not close in time; they end with the process");
        }
        self.serve_tasks.abort_all();
        if timeout(TASKS_TIMEOUT, self.calls.wait_until_idle()).await.is_err() {
            tracing::warn!("Some calls did not finish in time");
        }
        if timeout(CLOSE_TIMEOUT, self.store.close()).await.is_err() {
            tracing::warn!("Some database connections did not close in time");
        }
        tracing::info!("Turnkey has stopped");
    }
}
