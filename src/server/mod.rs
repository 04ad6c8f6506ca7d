//! The composition root: puts pools, services, layers and health together by hand, and takes them apart in order.

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

use self::preface::PrefacedStream;
use crate::{
    config::{ServerSettings, service_credentials},
    error::ErrorChain,
    grpc::{
        Authenticator, CallTasks, Handler,
        layers::{
            authentication::AuthenticationLayer,
            call_context::CallContextLayer,
            concurrency_limit::ConcurrencyLimitLayer,
            rate_limit::{CallerRateLimiter, RateLimitLayer},
        },
        pb,
        pb::{package_catalog_server::PackageCatalogServer, tenant_provisioning_server::TenantProvisioningServer},
    },
    secrets::{Hasher, HashingSettings},
    service::{CatalogService, Clock, TenantService},
    store::Store,
    telemetry::metrics,
};

/// Each of these bounds what one connection can cost; tonic and hyper leave most of them open.
const MAX_CONCURRENT_STREAMS: u32 = 256;
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 256;
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often is looked for what nobody needs any more.
const MAINTENANCE_INTERVAL: Duration = Duration::from_mins(1);

/// Stopping in parts that add up to less than 25 s, the pause before and telemetry's last second included, whatever the
/// clients do.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
const TASKS_TIMEOUT: Duration = Duration::from_secs(4);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot hash")]
    Hasher(#[from] crate::error::Error),
    #[error("cannot know callers")]
    Tokens(#[from] crate::config::service_credentials::TokensError),
    #[error("cannot serve TLS")]
    Tls(#[from] tls::TlsError),
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A socket that callers can already reach; they wait until a server takes it over.
#[derive(Debug)]
pub struct BoundListener {
    listener: TcpListener,
    pub address: SocketAddr,
}

/// # Errors
/// Where the address cannot be had.
pub async fn bind(listen: SocketAddr) -> Result<BoundListener, StartError> {
    let bound = listen_on(listen).await?;
    tracing::info!(address = %bound.address, "Turnkey listens on {}", bound.address);
    Ok(bound)
}

async fn listen_on(listen: SocketAddr) -> Result<BoundListener, StartError> {
    let refused = |source| StartError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok(BoundListener { listener, address })
}

/// A running server. Dropping it without [`Server::stop`] leaves it running.
pub struct Server {
    pub address: SocketAddr,
    store: Store,
    calls: CallTasks,
    health: health::Health,
    shutdown_delay: Duration,
    background: Vec<JoinHandle<()>>,
    stop: oneshot::Sender<()>,
    serve_task: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Serves until it is stopped. The database may still be away: health says so, and calls answer UNAVAILABLE.
///
/// # Errors
/// Where a setting does not fit, or health's own address cannot be had.
pub async fn start(
    bound: BoundListener,
    database: PgConnectOptions,
    settings: &ServerSettings,
    clock: Clock,
) -> Result<Server, StartError> {
    let health_bound = match settings.health_listen {
        Some(listen) => Some(listen_on(listen).await?),
        None => None,
    };
    let store = Store::new(database.clone(), settings.database_max_connections);
    let calls = CallTasks::default();
    let provisioning = Arc::new(provisioning(&store, settings, clock.clone())?);
    let mut background = Vec::new();
    let authenticator = match &settings.tokens_file {
        None => None,
        Some(path) => {
            let file = path.clone();
            let (known, following) =
                reload::watch_files(vec![path.clone()], "tokens", move || service_credentials::read(&file))?;
            background.push(following);
            Some(Authenticator::new(known, Arc::clone(&provisioning), calls.clone()))
        }
    };
    let rate_limiter = settings.rate_limit_per_caller.map(CallerRateLimiter::new);
    background.push(tokio::spawn(run_maintenance(Arc::clone(&provisioning), rate_limiter.clone())));
    let health = health::Health::start(database, store.clone()).await;
    let (readiness, pool, hashing) = (health.readiness(), store.clone(), Arc::clone(&provisioning));
    metrics::register_gauges(move || *readiness.borrow(), move || pool.pool_stats(), move || hashing.hashing_stats());
    background.extend(health_bound.map(|bound| tokio::spawn(serve_health(bound, health.service()))));

    let catalog = Arc::new(CatalogService::new(store.clone(), clock));
    let mut routes = Routes::new(TenantProvisioningServer::new(Handler::new(provisioning, calls.clone())))
        .add_service(PackageCatalogServer::new(Handler::new(catalog, calls.clone())))
        .add_service(health.service());
    if settings.reflection {
        routes = routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    }
    let (stop, stopped) = oneshot::channel();
    let address = bound.address;
    let services = builder()
        // Without a grace, which would cut connections in the middle of a call: GOAWAY, and those in flight finish.
        .max_connection_age(settings.max_connection_age)
        .layer(CallContextLayer)
        .layer(ConcurrencyLimitLayer::new(settings.max_concurrent_calls))
        .layer(AuthenticationLayer::new(authenticator))
        .layer(RateLimitLayer::new(rate_limiter))
        .add_routes(routes);
    // A sender that is gone stops the server as well.
    let stopped = async { drop(stopped.await) };
    let serve_task = match &settings.tls {
        None => tokio::spawn(services.serve_with_incoming_shutdown(plaintext(bound), stopped)),
        Some(tls) => {
            let paths = [&tls.cert, &tls.key].into_iter().chain(&tls.client_ca).cloned().collect();
            let read_from = tls.clone();
            let (config, following) = reload::watch_files(paths, "certificates", move || tls::read(&read_from))?;
            background.push(following);
            tokio::spawn(
                services
                    .serve_with_incoming_shutdown(accept::incoming(bound.listener, tls::handshake(config)), stopped),
            )
        }
    };
    Ok(Server { address, store, calls, health, shutdown_delay: settings.shutdown_delay, background, stop, serve_task })
}

async fn serve_health(bound: BoundListener, health: HealthServer<HealthService>) {
    tracing::info!(address = %bound.address, "Health is served on {} too", bound.address);
    let connections = plaintext(bound);
    if let Err(error) = builder().add_service(health).serve_with_incoming(connections).await {
        tracing::warn!(%error, "Health on its own address ended with an error");
    }
}

fn provisioning(store: &Store, settings: &ServerSettings, clock: Clock) -> Result<TenantService, StartError> {
    let hasher = Hasher::new(HashingSettings {
        key: settings.key_argon2,
        password: settings.password_argon2,
        workers: available_parallelism().map_or(1, usize::from),
        queue_length: settings.hashing_queue,
    })?;
    Ok(TenantService::new(store.clone(), hasher, settings.key_mode, clock))
}

/// No hands to shake.
fn plaintext(bound: BoundListener) -> ReceiverStream<io::Result<PrefacedStream<TcpStream>>> {
    accept::incoming(bound.listener, |connection| std::future::ready(Ok(connection)))
}

fn builder() -> TonicServer {
    TonicServer::builder()
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_ERROR_RESET_STREAMS))
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

impl Server {
    /// Follows whether the database can serve.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.health.readiness()
    }

    /// NOT_SERVING, a pause for balancers to notice, no new calls, and the end of those in flight.
    pub async fn stop(mut self) {
        self.health.stop().await;
        tokio::time::sleep(self.shutdown_delay).await;
        self.health.end_streams().await;
        self.background.iter().for_each(JoinHandle::abort);
        let _ = self.stop.send(());
        let abort = self.serve_task.abort_handle();
        match timeout(DRAIN_TIMEOUT, self.serve_task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "The server ended with an error"),
            Ok(Err(error)) => tracing::warn!(%error, "The server ended with an error"),
            Err(_elapsed) => {
                abort.abort();
                tracing::warn!("Some connections did not close in time and end with the process");
            }
        }
        if timeout(TASKS_TIMEOUT, self.calls.wait_until_idle()).await.is_err() {
            tracing::warn!("Some calls did not end in time");
        }
        if timeout(CLOSE_TIMEOUT, self.store.close()).await.is_err() {
            tracing::warn!("Some connections to the database did not close in time");
        }
        tracing::info!("Turnkey has stopped");
    }
}

/// Claims whose time is over, of which every replica tries to be the one that forgets them; callers that call no more;
/// connections that nobody used.
async fn run_maintenance(provisioning: Arc<TenantService>, rate_limiter: Option<CallerRateLimiter>) {
    loop {
        tokio::time::sleep(MAINTENANCE_INTERVAL).await;
        rate_limiter.iter().for_each(CallerRateLimiter::evict_idle);
        provisioning.close_idle_connections();
        if let Err(error) = provisioning.delete_expired_idempotency_records().await {
            tracing::warn!(cause = %ErrorChain(&error), "Claims on request ids could not be forgotten now");
        }
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // So that a client such as grpcurl can show the details of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
