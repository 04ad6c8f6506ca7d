//! The settings of `turnkey serve`.

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    thread::available_parallelism,
    time::Duration,
};

use clap::Args;

use super::{
    ARGON2_FORMAT, Bounds, ConfigErrors, DEFAULT_LISTEN, Database, DatabaseAddress, DatabaseArgs, FlagsFirst,
    HEALTH_LISTEN, HTTP_ALLOWED_ORIGINS, HTTP_LISTEN, KeyArgs, LISTEN, TLS_CERT, TLS_CLIENT_CA, TLS_KEY, TOKENS_FILE,
    service_credentials,
    setting::{BOOL_FORMAT, POSITIVE_FORMAT, Setting, resolve},
    tls::TlsSettings,
};
use crate::{
    domain::{Argon2Params, KeyMode, Quotas, WebOrigin, event::DEFAULT_EVENT_RETENTION},
    error::ErrorChain,
};

// A setting has a constant if a value of it can be invalid: the error messages take its names from there. The names of
// the others are in their attributes only.
const MIGRATE: Setting = Setting::new("migrate", "TURNKEY_MIGRATE");
const ALLOW_UNAUTHENTICATED: Setting = Setting::new("allow-unauthenticated", "TURNKEY_ALLOW_UNAUTHENTICATED");
const REFLECTION: Setting = Setting::new("reflection", "TURNKEY_REFLECTION");
const DATABASE_MAX_CONNECTIONS: Setting = Setting::new("database-max-connections", "TURNKEY_DATABASE_MAX_CONNECTIONS");
const CATALOG_READS: Setting = Setting::new("catalog-reads", "TURNKEY_CATALOG_READS");
const MAX_CONCURRENT_CALLS: Setting = Setting::new("max-concurrent-calls", "TURNKEY_MAX_CONCURRENT_CALLS");
const MAX_CONCURRENT_CALLS_PER_CALLER: Setting =
    Setting::new("max-concurrent-calls-per-caller", "TURNKEY_MAX_CONCURRENT_CALLS_PER_CALLER");
const MAX_CONNECTIONS: Setting = Setting::new("max-connections", "TURNKEY_MAX_CONNECTIONS");
const MAX_CONNECTIONS_PER_ADDRESS: Setting =
    Setting::new("max-connections-per-address", "TURNKEY_MAX_CONNECTIONS_PER_ADDRESS");
const RATE_LIMIT: Setting = Setting::new("rate-limit-per-caller", "TURNKEY_RATE_LIMIT_PER_CALLER");
const MAX_CONNECTION_AGE: Setting = Setting::new("max-connection-age", "TURNKEY_MAX_CONNECTION_AGE");
const MAX_PACKAGES: Setting = Setting::new("max-packages-per-tenant", "TURNKEY_MAX_PACKAGES_PER_TENANT");
const MAX_SEGMENTS: Setting = Setting::new("max-segments-per-tenant", "TURNKEY_MAX_SEGMENTS_PER_TENANT");
const MAX_API_KEYS: Setting = Setting::new("max-api-keys-per-tenant", "TURNKEY_MAX_API_KEYS_PER_TENANT");
const HASHING_QUEUE: Setting = Setting::new("hashing-queue", "TURNKEY_HASHING_QUEUE");
const HASHING_WORKERS: Setting = Setting::new("hashing-workers", "TURNKEY_HASHING_WORKERS");
const PASSWORD_ARGON2: Setting = Setting::new("password-argon2", "TURNKEY_PASSWORD_ARGON2");
const EVENT_RETENTION: Setting = Setting::new("event-retention", "TURNKEY_EVENT_RETENTION");
const SHUTDOWN_DELAY: Setting = Setting::new("shutdown-delay", "TURNKEY_SHUTDOWN_DELAY");

const DEFAULT_DATABASE_MAX_CONNECTIONS: NonZeroU32 = NonZeroU32::new(16).unwrap();
const DEFAULT_MAX_CONCURRENT_CALLS: NonZeroU16 = NonZeroU16::new(1_024).unwrap();
const DEFAULT_MAX_CONNECTIONS: NonZeroU16 = NonZeroU16::new(4_096).unwrap();
const COUNT_FORMAT: &str = "an integer from 1 to 65535";
const DEFAULT_HASHING_QUEUE: u16 = 64;
/// More would only wait for each other.
const MAX_HASHING_WORKERS: usize = 1_024;
const DEFAULT_MAX_CONNECTION_AGE: Duration = Duration::from_mins(30);
/// With a lower limit, clients would spend most of their time connecting.
const MIN_CONNECTION_AGE: Duration = Duration::from_secs(1);
/// With a lower limit, a watcher could not be away for long.
const MIN_EVENT_RETENTION: Duration = Duration::from_hours(1);
/// With a higher limit, a shutdown could take longer than the guaranteed 25 s.
const MAX_SHUTDOWN_DELAY_SECONDS: u64 = 10;

#[derive(Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub database: FlagsFirst<DatabaseArgs>,
    /// Address of the service; port 0 selects a free port [default: 127.0.0.1:50051]
    #[arg(long = LISTEN.flag, env = LISTEN.variable, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Additional address that serves health only, in plaintext, for probes that do not support TLS [default: none]
    #[arg(long = HEALTH_LISTEN.flag, env = HEALTH_LISTEN.variable, value_name = "ADDRESS")]
    health_listen: Option<String>,
    /// Additional address that serves the same RPCs as HTTP and JSON; TLS where the service's address has it
    /// [default: none]
    #[arg(long = HTTP_LISTEN.flag, env = HTTP_LISTEN.variable, value_name = "ADDRESS")]
    http_listen: Option<String>,
    /// Origins of the web pages that may call by HTTP, separated by commas, such as `https://admin.example.com`
    /// [default: none]
    #[arg(long = HTTP_ALLOWED_ORIGINS.flag, env = HTTP_ALLOWED_ORIGINS.variable, value_name = "ORIGINS")]
    http_allowed_origins: Option<String>,
    /// File that the server writes its address to once it is SERVING, and removes when it stops [default: none]
    #[arg(long, env = "TURNKEY_READY_FILE", value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Migrate the schema before serving; the role of `DATABASE_URL` must own Turnkey's tables and be a member of
    /// `turnkey_provisioner` [default: false]
    #[arg(long = MIGRATE.flag, env = MIGRATE.variable, value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    migrate: Option<String>,
    /// Certificate chain of the server, PEM; with it, the service's address serves TLS only [default: plaintext]
    #[arg(long = TLS_CERT.flag, env = TLS_CERT.variable, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long = TLS_KEY.flag, env = TLS_KEY.variable, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// CA of the client certificates that are accepted instead of a token, PEM
    #[arg(long = TLS_CLIENT_CA.flag, env = TLS_CLIENT_CA.variable, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// TOML file of tokens and certificates, see `turnkey token create` [default: callers need no credential]
    #[arg(long = TOKENS_FILE.flag, env = TOKENS_FILE.variable, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// Permit a non-loopback address although callers need no credential [default: false]
    #[arg(long = ALLOW_UNAUTHENTICATED.flag, env = ALLOW_UNAUTHENTICATED.variable, value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_unauthenticated: Option<String>,
    /// Serve reflection to callers without a credential, too [default: true on a loopback address, else false]
    #[arg(long = REFLECTION.flag, env = REFLECTION.variable, value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    reflection: Option<String>,
    /// Maximum number of database connections; the health probe uses one more [default: 16]
    #[arg(long = DATABASE_MAX_CONNECTIONS.flag, env = DATABASE_MAX_CONNECTIONS.variable, value_name = "COUNT")]
    database_max_connections: Option<String>,
    /// Hosts that reads of the catalog go to in turn, separated by commas: workers of Citus, such as
    /// `worker-1:5432,worker-2:5432`; all else as in `DATABASE_URL` [default: reads go to the database]
    #[arg(long = CATALOG_READS.flag, env = CATALOG_READS.variable, value_name = "HOSTS")]
    catalog_reads: Option<String>,
    /// Maximum number of concurrent calls, excluding health checks; further calls are rejected [default: 1024]
    #[arg(long = MAX_CONCURRENT_CALLS.flag, env = MAX_CONCURRENT_CALLS.variable, value_name = "COUNT")]
    max_concurrent_calls: Option<String>,
    /// The same for one caller. It has no effect if callers need no credential [default: a quarter of all]
    #[arg(long = MAX_CONCURRENT_CALLS_PER_CALLER.flag, env = MAX_CONCURRENT_CALLS_PER_CALLER.variable,
          value_name = "COUNT")]
    max_concurrent_calls_per_caller: Option<String>,
    /// Maximum number of client connections; further connections are closed at once [default: 4096]
    #[arg(long = MAX_CONNECTIONS.flag, env = MAX_CONNECTIONS.variable, value_name = "COUNT")]
    max_connections: Option<String>,
    /// The same from one address; for IPv6, from one /64 network. Set it to that of all behind a load balancer that
    /// connects from its own address [default: half of all]
    #[arg(long = MAX_CONNECTIONS_PER_ADDRESS.flag, env = MAX_CONNECTIONS_PER_ADDRESS.variable, value_name = "COUNT")]
    max_connections_per_address: Option<String>,
    /// Maximum calls per second of one caller, in each replica; a burst can use one second's calls [default: no limit]
    #[arg(long = RATE_LIMIT.flag, env = RATE_LIMIT.variable, value_name = "COUNT")]
    rate_limit_per_caller: Option<String>,
    /// Age at which a client connection accepts no more calls, finishes those in flight and closes, so that clients
    /// find new replicas [default: 30m]
    #[arg(long = MAX_CONNECTION_AGE.flag, env = MAX_CONNECTION_AGE.variable, value_name = "DURATION")]
    max_connection_age: Option<String>,
    /// How long events are kept; cursors of `WatchEvents` from before expire [default: 30d]
    #[arg(long = EVENT_RETENTION.flag, env = EVENT_RETENTION.variable, value_name = "DURATION")]
    event_retention: Option<String>,
    /// Maximum number of packages of one tenant [default: 1000]
    #[arg(long = MAX_PACKAGES.flag, env = MAX_PACKAGES.variable, value_name = "COUNT")]
    max_packages_per_tenant: Option<String>,
    /// Maximum number of segments of one tenant, General included [default: 100]
    #[arg(long = MAX_SEGMENTS.flag, env = MAX_SEGMENTS.variable, value_name = "COUNT")]
    max_segments_per_tenant: Option<String>,
    /// Maximum number of usable API keys of one tenant: those that are not expired, revoked or replaced by a rotation
    /// [default: 20]
    #[arg(long = MAX_API_KEYS.flag, env = MAX_API_KEYS.variable, value_name = "COUNT")]
    max_api_keys_per_tenant: Option<String>,
    /// Maximum number of hashes that wait for a worker, for keys, sign-ups and log-ins each; further calls are rejected
    /// [default: 64]
    #[arg(long = HASHING_QUEUE.flag, env = HASHING_QUEUE.variable, value_name = "COUNT")]
    hashing_queue: Option<String>,
    /// Maximum number of hashes at work, for keys and for passwords each; a password takes 19 MiB of memory
    /// [default: the number of cores]
    #[arg(long = HASHING_WORKERS.flag, env = HASHING_WORKERS.variable, value_name = "COUNT")]
    hashing_workers: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    /// Argon2id parameters for owners' passwords [default: m=19456,t=2,p=1]
    #[arg(long = PASSWORD_ARGON2.flag, env = PASSWORD_ARGON2.variable, value_name = "PARAMETERS")]
    password_argon2: Option<String>,
    /// Whole seconds, without a unit, between NOT_SERVING and the end of new calls at shutdown [default: 0 on a
    /// loopback address, else 5]
    #[arg(long = SHUTDOWN_DELAY.flag, env = SHUTDOWN_DELAY.variable, value_name = "SECONDS")]
    shutdown_delay: Option<String>,
}

/// The settings of `turnkey serve`.
pub struct ServeSettings {
    pub database: Database,
    pub ready_file: Option<PathBuf>,
    pub migrate: bool,
    pub server: ServerSettings,
}

/// The settings of [`crate::server`].
#[derive(Debug, Clone)]
pub struct ServerSettings {
    pub listen: SocketAddr,
    pub health_listen: Option<SocketAddr>,
    pub http_listen: Option<SocketAddr>,
    pub http_allowed_origins: Vec<WebOrigin>,
    pub tls: Option<TlsSettings>,
    pub tokens_file: Option<PathBuf>,
    pub reflection: bool,
    pub database_max_connections: u32,
    pub catalog_reads: Vec<DatabaseAddress>,
    pub max_concurrent_calls: usize,
    /// `None` for a quarter of all.
    pub max_concurrent_calls_per_caller: Option<usize>,
    pub max_connections: usize,
    /// `None` for half of all.
    pub max_connections_per_address: Option<usize>,
    /// Calls per second; `None` for no limit.
    pub rate_limit_per_caller: Option<NonZeroU32>,
    pub max_connection_age: Duration,
    pub event_retention: Duration,
    pub quotas: Quotas,
    pub hashing_queue: usize,
    pub hashing_workers: usize,
    pub key_mode: KeyMode,
    pub key_argon2: Argon2Params,
    pub password_argon2: Argon2Params,
    pub shutdown_delay: Duration,
    pub bounds: Bounds,
}

impl ServeArgs {
    pub fn settings(&self) -> Result<ServeSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.database.0.check(&mut errors);
        let migrate = errors.parse(MIGRATE, self.migrate.as_deref(), false, BOOL_FORMAT);
        let server = self.server_settings(&mut errors);
        errors.into_result(|| {
            Some(ServeSettings {
                database: database?,
                ready_file: self.ready_file.clone(),
                migrate: migrate?,
                server: server?,
            })
        })
    }

    fn server_settings(&self, errors: &mut ConfigErrors) -> Option<ServerSettings> {
        let listen = self.listen.as_deref().map_or(Some(DEFAULT_LISTEN), |text| errors.check(LISTEN, resolve(text)));
        let http_listen = self.http_listen.as_deref();
        let http_listen = http_listen.and_then(|text| errors.check(HTTP_LISTEN, resolve(text)));
        let http_allowed_origins = self.http_allowed_origins(errors);
        // An invalid address counts as a loopback address, so that it is the only error about the address.
        let is_local = |address: Option<SocketAddr>| address.is_none_or(|address| address.ip().is_loopback());
        let grpc_on_loopback = is_local(listen);
        let on_loopback = grpc_on_loopback && is_local(http_listen);
        self.check_authentication(errors, if grpc_on_loopback { HTTP_LISTEN } else { LISTEN }, on_loopback);
        let health_listen = self.health_listen.as_deref();
        let health_listen = health_listen.and_then(|text| errors.check(HEALTH_LISTEN, resolve(text)));
        let tls = self.tls(errors);
        let reflection = errors.parse(REFLECTION, self.reflection.as_deref(), grpc_on_loopback, BOOL_FORMAT);
        let database_max_connections = errors.parse(
            DATABASE_MAX_CONNECTIONS,
            self.database_max_connections.as_deref(),
            DEFAULT_DATABASE_MAX_CONNECTIONS,
            POSITIVE_FORMAT,
        );
        let catalog_reads = self.catalog_reads(errors);
        let max_concurrent_calls = self.max_concurrent_calls.as_deref();
        let max_concurrent_calls =
            errors.parse(MAX_CONCURRENT_CALLS, max_concurrent_calls, DEFAULT_MAX_CONCURRENT_CALLS, COUNT_FORMAT);
        let per_caller = self.max_concurrent_calls_per_caller.as_deref();
        let per_caller = parse_optional_count(errors, MAX_CONCURRENT_CALLS_PER_CALLER, per_caller);
        let max_connections = self.max_connections.as_deref();
        let max_connections = errors.parse(MAX_CONNECTIONS, max_connections, DEFAULT_MAX_CONNECTIONS, COUNT_FORMAT);
        let per_address = self.max_connections_per_address.as_deref();
        let per_address = parse_optional_count(errors, MAX_CONNECTIONS_PER_ADDRESS, per_address);
        let rate_limit = errors.parse_optional(RATE_LIMIT, self.rate_limit_per_caller.as_deref(), POSITIVE_FORMAT);
        let max_connection_age = self.max_connection_age(errors);
        let event_retention = self.event_retention(errors);
        let quotas = self.quotas(errors);
        let hashing_queue = self.hashing_queue.as_deref();
        let hashing_queue =
            errors.parse(HASHING_QUEUE, hashing_queue, DEFAULT_HASHING_QUEUE, "an integer from 0 to 65535");
        let hashing_workers = self.hashing_workers(errors);
        let (key_mode, key_argon2) = self.keys.check(errors);
        let password_argon2 = self.password_argon2.as_deref();
        let password_argon2 = errors.parse(PASSWORD_ARGON2, password_argon2, Argon2Params::PASSWORD, ARGON2_FORMAT);
        let shutdown_delay = self.shutdown_delay(errors, on_loopback);
        Some(ServerSettings {
            listen: listen?,
            health_listen,
            http_listen,
            http_allowed_origins: http_allowed_origins?,
            tls,
            tokens_file: self.tokens_file.clone(),
            reflection: reflection?,
            catalog_reads: catalog_reads?,
            database_max_connections: database_max_connections?.get(),
            max_concurrent_calls: max_concurrent_calls?.get().into(),
            max_concurrent_calls_per_caller: per_caller,
            max_connections: max_connections?.get().into(),
            max_connections_per_address: per_address,
            rate_limit_per_caller: rate_limit,
            max_connection_age: max_connection_age?,
            event_retention: event_retention?,
            quotas: quotas?,
            hashing_queue: hashing_queue?.into(),
            hashing_workers: hashing_workers?,
            key_mode: key_mode?,
            key_argon2: key_argon2?,
            password_argon2: password_argon2?,
            shutdown_delay: shutdown_delay?,
            bounds: Bounds::default(),
        })
    }

    fn check_authentication(&self, errors: &mut ConfigErrors, listen: Setting, on_loopback: bool) {
        let allowed = self.allow_unauthenticated.as_deref();
        let allowed = errors.parse(ALLOW_UNAUTHENTICATED, allowed, false, BOOL_FORMAT);
        match &self.tokens_file {
            Some(path) => {
                if let Err(error) = service_credentials::read(path) {
                    errors.add(TOKENS_FILE, ErrorChain(&error));
                }
            }
            None if !on_loopback && allowed == Some(false) => errors.add(
                listen,
                "callers need no credential and others can reach this address: set --tokens-file, use a loopback \
                 address, or pass --allow-unauthenticated",
            ),
            None => {}
        }
    }

    fn http_allowed_origins(&self, errors: &mut ConfigErrors) -> Option<Vec<WebOrigin>> {
        let (text, expected) = (
            self.http_allowed_origins.as_deref(),
            "origins without a path, separated by commas, such as https://admin.example.com",
        );
        errors.parse_with(HTTP_ALLOWED_ORIGINS, text, Vec::new(), expected, |text| {
            text.split(',')
                .map(str::trim)
                .filter(|origin| !origin.is_empty())
                .map(|origin| origin.parse().ok())
                .collect()
        })
    }

    fn catalog_reads(&self, errors: &mut ConfigErrors) -> Option<Vec<DatabaseAddress>> {
        let (text, expected) =
            (self.catalog_reads.as_deref(), "hosts with or without a port, separated by commas, such as worker-1:5432");
        errors.parse_with(CATALOG_READS, text, Vec::new(), expected, |text| {
            text.split(',').map(str::trim).filter(|host| !host.is_empty()).map(|host| host.parse().ok()).collect()
        })
    }

    /// Returns `None` for plaintext, and after an error.
    fn tls(&self, errors: &mut ConfigErrors) -> Option<TlsSettings> {
        if self.tls_client_ca.is_some() && self.tokens_file.is_none() {
            errors.add(TLS_CLIENT_CA, "needs --tokens-file, which maps client certificates to names and roles");
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                let client_ca = self.tls_client_ca.clone();
                let settings = TlsSettings { cert: cert.clone(), key: key.clone(), client_ca };
                settings.check(errors);
                Some(settings)
            }
            (None, None) if self.tls_client_ca.is_none() => None,
            _ => {
                errors.add(TLS_CERT, "set --tls-cert and --tls-key together; --tls-client-ca needs both");
                None
            }
        }
    }

    fn hashing_workers(&self, errors: &mut ConfigErrors) -> Option<usize> {
        let cores = available_parallelism().map_or(1, usize::from);
        let (text, expected) = (self.hashing_workers.as_deref(), "an integer from 1 to 1024");
        errors.parse_with(HASHING_WORKERS, text, cores, expected, |text| {
            text.parse().ok().filter(|workers| (1..=MAX_HASHING_WORKERS).contains(workers))
        })
    }

    fn max_connection_age(&self, errors: &mut ConfigErrors) -> Option<Duration> {
        let (text, expected) = (self.max_connection_age.as_deref(), "a duration of at least 1s, such as 30m");
        errors.parse_with(MAX_CONNECTION_AGE, text, DEFAULT_MAX_CONNECTION_AGE, expected, |text| {
            humantime::parse_duration(text).ok().filter(|&age| age >= MIN_CONNECTION_AGE)
        })
    }

    fn event_retention(&self, errors: &mut ConfigErrors) -> Option<Duration> {
        let (text, expected) = (self.event_retention.as_deref(), "a duration of at least 1h, such as 30d");
        errors.parse_with(EVENT_RETENTION, text, DEFAULT_EVENT_RETENTION, expected, |text| {
            humantime::parse_duration(text).ok().filter(|&retention| retention >= MIN_EVENT_RETENTION)
        })
    }

    fn quotas(&self, errors: &mut ConfigErrors) -> Option<Quotas> {
        let (packages, segments) = (self.max_packages_per_tenant.as_deref(), self.max_segments_per_tenant.as_deref());
        let packages = errors.parse(MAX_PACKAGES, packages, Quotas::DEFAULT.packages, POSITIVE_FORMAT);
        let segments = errors.parse(MAX_SEGMENTS, segments, Quotas::DEFAULT.segments, POSITIVE_FORMAT);
        let api_keys = self.max_api_keys_per_tenant.as_deref();
        let api_keys = errors.parse(MAX_API_KEYS, api_keys, Quotas::DEFAULT.usable_api_keys, POSITIVE_FORMAT);
        Some(Quotas { packages: packages?, segments: segments?, usable_api_keys: api_keys? })
    }

    fn shutdown_delay(&self, errors: &mut ConfigErrors, on_loopback: bool) -> Option<Duration> {
        let (text, expected) =
            (self.shutdown_delay.as_deref(), "a whole number of seconds from 0 to 10, without a unit");
        let default = Duration::from_secs(if on_loopback { 0 } else { 5 });
        errors.parse_with(SHUTDOWN_DELAY, text, default, expected, |text| {
            text.parse().ok().filter(|&seconds| seconds <= MAX_SHUTDOWN_DELAY_SECONDS).map(Duration::from_secs)
        })
    }
}

fn parse_optional_count(errors: &mut ConfigErrors, setting: Setting, text: Option<&str>) -> Option<usize> {
    errors.parse_optional(setting, text, COUNT_FORMAT).map(|count: NonZeroU16| count.get().into())
}
