//! The composition root: connects pool, services, layers, health and sockets, and shuts them down in order.
//!
//! Settings are parsed in [`crate::config`], and signals are handled in [`crate::cli`].

mod accept;
mod health;
mod preface;
mod reload;
mod tls;

use std::{io, net::SocketAddr, sync::Arc, thread::available_parallelism, time::Duration};

use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::Routes, transport::Server as TonicServer};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

use self::{health::Health, preface::PrefacedStream};
use crate::{
    config::{ServerSettings, service_credentials},
    error::ErrorChain,
    grpc::{
        Authenticator, CallTasks, Handler,
        layers::{
            MiddlewareLayer, call_context::CallContextMiddleware, concurrency_limit::ConcurrencyLimit,
            rate_limit::CallerRateLimiter,
        },
        pb,
        pb::{package_catalog_server::PackageCatalogServer, tenant_provisioning_server::TenantProvisioningServer},
    },
    secrets::{Hasher, HashingSettings},
    service::{CatalogService, Clock, TenantService},
    store::Store,
    telemetry::metrics,
};

/// These bound the cost of one connection. tonic and hyper leave most of them unlimited.
const MAX_CONCURRENT_STREAMS: u32 = 256;
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 256;
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

const MAINTENANCE_INTERVAL: Duration = Duration::from_mins(1);

/// The phases of a shutdown. Their sum, with the shutdown delay (at most 10 s) and the last second for telemetry, stays
/// below the guaranteed 25 s, whatever the clients do.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
const TASKS_TIMEOUT: Duration = Duration::from_secs(4);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot prepare the hashing of keys and passwords")]
    Hasher(#[from] crate::error::Error),
    #[error("cannot load the service credentials")]
    Credentials(#[from] service_credentials::TokensFileError),
    #[error("cannot serve TLS")]
    Tls(#[from] tls::TlsError),
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A bound socket. Clients can connect already; they wait until a server takes the connections.
#[derive(Debug)]
pub struct BoundListener {
    listener: TcpListener,
    pub address: SocketAddr,
}

/// Binds the address of the server and logs it.
///
/// # Errors
/// [`StartError::Listen`].
pub async fn bind(address: SocketAddr) -> Result<BoundListener, StartError> {
    let bound = listen_on(address).await?;
    tracing::info!(address = %bound.address, "Turnkey listens on {}", bound.address);
    Ok(bound)
}

async fn listen_on(address: SocketAddr) -> Result<BoundListener, StartError> {
    let listen_error = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    Ok(BoundListener { listener, address })
}

/// A running server. Dropping it without [`Server::stop`] leaves it running.
pub struct Server {
    pub address: SocketAddr,
    store: Store,
    calls: CallTasks,
    health: Health,
    shutdown_delay: Duration,
    background: Vec<JoinHandle<()>>,
    stop: oneshot::Sender<()>,
    serve_task: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Serves until [`Server::stop`]. The database need not be reachable: until it is, health is NOT_SERVING and calls return
/// UNAVAILABLE.
pub async fn start(
    bound: BoundListener,
    database: PgConnectOptions,
    settings: &ServerSettings,
    clock: Clock,
) -> Result<Server, StartError> {
    let health_bound = match settings.health_listen {
        Some(address) => Some(listen_on(address).await?),
        None => None,
    };
    let tls = settings.tls.as_ref().map(tls::watch).transpose()?;
    let store = Store::new(database.clone(), settings.database_max_connections);
    let tenants = Arc::new(tenant_service(&store, settings, clock.clone())?);
    let catalog = Arc::new(CatalogService::new(store.clone(), clock, settings.quotas));
    let calls = CallTasks::default();
    let authenticator = authenticator(settings, &tenants, &calls)?;
    let rate_limiter = settings.rate_limit_per_caller.map(CallerRateLimiter::new);

    let health = Health::start(database, store.clone()).await;
    let mut background = vec![tokio::spawn(run_maintenance(Arc::clone(&tenants), rate_limiter.clone()))];
    background.extend(health_bound.map(|bound| tokio::spawn(serve_health(bound, health.service()))));
    register_gauges(&health, &store, &tenants);

    let mut routes = Routes::new(TenantProvisioningServer::new(Handler::new(tenants, calls.clone())))
        .add_service(PackageCatalogServer::new(Handler::new(catalog, calls.clone())))
        .add_service(health.service());
    if settings.reflection {
        routes = routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    }
    let server = transport()
        // GOAWAY at this age; calls in flight finish. A grace period would cut them off.
        .max_connection_age(settings.max_connection_age)
        .layer(MiddlewareLayer(CallContextMiddleware))
        .layer(MiddlewareLayer(ConcurrencyLimit::new(settings.max_concurrent_calls)))
        .layer(MiddlewareLayer(authenticator))
        .layer(MiddlewareLayer(rate_limiter))
        .add_routes(routes);
    let (stop, stopped) = oneshot::channel();
    // A dropped sender stops the server too.
    let stopped = async { drop(stopped.await) };
    let address = bound.address;
    let serve_task = match tls {
        None => tokio::spawn(server.serve_with_incoming_shutdown(plaintext(bound), stopped)),
        Some(config) => {
            let connections = accept::incoming(bound.listener, tls::handshake(config));
            tokio::spawn(server.serve_with_incoming_shutdown(connections, stopped))
        }
    };
    Ok(Server { address, store, calls, health, shutdown_delay: settings.shutdown_delay, background, stop, serve_task })
}

fn tenant_service(store: &Store, settings: &ServerSettings, clock: Clock) -> Result<TenantService, StartError> {
    let hasher = Hasher::new(HashingSettings {
        key: settings.key_argon2,
        password: settings.password_argon2,
        workers: available_parallelism().map_or(1, usize::from),
        queue_length: settings.hashing_queue,
    })?;
    Ok(TenantService::new(store.clone(), hasher, settings.key_mode, clock))
}

/// Returns `None` if callers need no credential.
fn authenticator(
    settings: &ServerSettings,
    tenants: &Arc<TenantService>,
    calls: &CallTasks,
) -> Result<Option<Authenticator>, StartError> {
    let Some(path) = settings.tokens_file.clone() else { return Ok(None) };
    let credentials = reload::watch_files(vec![path.clone()], "tokens", move || service_credentials::read(&path))?;
    Ok(Some(Authenticator::new(credentials, Arc::clone(tenants), calls.clone())))
}

fn register_gauges(health: &Health, store: &Store, tenants: &Arc<TenantService>) {
    let (readiness, pool, hashing) = (health.readiness(), store.clone(), Arc::clone(tenants));
    metrics::register_gauges(move || *readiness.borrow(), move || pool.pool_stats(), move || hashing.hashing_stats());
}

async fn serve_health(bound: BoundListener, health: HealthServer<HealthService>) {
    tracing::info!(address = %bound.address, "Health is served on {}", bound.address);
    if let Err(error) = transport().add_service(health).serve_with_incoming(plaintext(bound)).await {
        tracing::warn!(%error, "The server of the health address ended with an error");
    }
}

fn plaintext(bound: BoundListener) -> ReceiverStream<io::Result<PrefacedStream<TcpStream>>> {
    accept::incoming(bound.listener, |connection| std::future::ready(Ok(connection)))
}

fn transport() -> TonicServer {
    TonicServer::builder()
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_ERROR_RESET_STREAMS))
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Lets a client such as grpcurl show the details of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// Periodic maintenance: deletes expired idempotency records (one replica at a time), forgets idle callers, closes idle
/// connections.
async fn run_maintenance(tenants: Arc<TenantService>, rate_limiter: Option<CallerRateLimiter>) {
    loop {
        tokio::time::sleep(MAINTENANCE_INTERVAL).await;
        rate_limiter.iter().for_each(CallerRateLimiter::evict_idle);
        tenants.close_idle_connections();
        if let Err(error) = tenants.delete_expired_idempotency_records().await {
            tracing::warn!(cause = %ErrorChain(&error), "Cannot delete expired idempotency records; trying again later");
        }
    }
}

impl Server {
    /// Receives whether the server can serve calls, on every change.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.health.readiness()
    }

    /// Shuts down gracefully: sets NOT_SERVING, waits until load balancers have noticed, accepts no new calls, and waits
    /// for those in flight, each phase up to its timeout.
    pub async fn stop(mut self) {
        self.health.stop().await;
        tokio::time::sleep(self.shutdown_delay).await;
        self.health.unregister_all().await;
        self.background.iter().for_each(JoinHandle::abort);
        let _ = self.stop.send(());
        let abort = self.serve_task.abort_handle();
        match timeout(DRAIN_TIMEOUT, self.serve_task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "The server ended with an error"),
            Ok(Err(error)) => tracing::warn!(%error, "The server task panicked"),
            Err(_elapsed) => {
                abort.abort();
                tracing::warn!("Some connections did not close in time; they end with the process");
            }
        }
        if timeout(TASKS_TIMEOUT, self.calls.wait_until_idle()).await.is_err() {
            tracing::warn!("Some calls did not finish in time");
        }
        if timeout(CLOSE_TIMEOUT, self.store.close()).await.is_err() {
            tracing::warn!("Some database connections did not close in time");
        }
        tracing::info!("Turnkey has stopped");
    }
}
