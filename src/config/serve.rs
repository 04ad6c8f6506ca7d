//! What `turnkey serve` needs to know.

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::Args;

use super::{
    ARGON2_FORMAT, ConfigErrors, Database, DatabaseArgs, HEALTH_LISTEN, address, flag, key_argon2, key_mode, listen,
    service_credentials,
};
use crate::{
    domain::{Argon2Params, KeyMode},
    error::ErrorChain,
};

#[derive(Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Address and port; port 0 picks a free one [default: 127.0.0.1:50051]
    #[arg(long, env = "TURNKEY_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// Serve health here as well, in plaintext: for probes that bring no certificate [default: nowhere else]
    #[arg(long, env = "TURNKEY_HEALTH_LISTEN", value_name = "ADDRESS")]
    health_listen: Option<String>,
    /// A file to write the address to once the server is SERVING; removed when it stops
    #[arg(long, env = "TURNKEY_READY_FILE", value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Migrate before serving; the role of `DATABASE_URL` must own the schema
    #[arg(long, env = "TURNKEY_MIGRATE", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    migrate: Option<String>,
    /// The server's certificates, in PEM; with its key, TLS is all that is served [default: plaintext]
    #[arg(long, env = "TURNKEY_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of the first certificate, in PEM
    #[arg(long, env = "TURNKEY_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Who signs the certificates that callers may have instead of a token, in PEM
    #[arg(long, env = "TURNKEY_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Callers' tokens, as `turnkey token create` writes them; without it callers need none
    #[arg(long, env = "TURNKEY_TOKENS_FILE", value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// Serve on an address that others can reach although callers need no credential
    #[arg(long, env = "TURNKEY_ALLOW_UNAUTHENTICATED", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    allow_unauthenticated: Option<String>,
    /// Serve reflection [default: true on a loopback address, else false]
    #[arg(long, env = "TURNKEY_REFLECTION", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    reflection: Option<String>,
    /// Connections to the database at most [default: 16]
    #[arg(long, env = "TURNKEY_DATABASE_MAX_CONNECTIONS", value_name = "COUNT")]
    database_max_connections: Option<String>,
    /// Calls at work at a time before callers are refused; health is outside [default: 1024]
    #[arg(long, env = "TURNKEY_MAX_CONCURRENT_CALLS", value_name = "COUNT")]
    max_concurrent_calls: Option<String>,
    /// Calls a second that one caller may make before it is refused; a second's worth may come at once [default: no limit]
    #[arg(long, env = "TURNKEY_RATE_LIMIT_PER_CALLER", value_name = "COUNT")]
    rate_limit_per_caller: Option<String>,
    /// Connections are ended gently after this, so that callers spread over new replicas [default: 30m]
    #[arg(long, env = "TURNKEY_MAX_CONNECTION_AGE", value_name = "DURATION")]
    max_connection_age: Option<String>,
    /// Hashes that may wait for a core before callers are refused [default: 64]
    #[arg(long, env = "TURNKEY_HASHING_QUEUE", value_name = "COUNT")]
    hashing_queue: Option<String>,
    /// `live` or `test`; stands in every new key [default: live]
    #[arg(long, env = "TURNKEY_KEY_MODE", value_name = "MODE")]
    key_mode: Option<String>,
    /// Argon2id's work for keys, in KiB, passes and lanes [default: m=64,t=1,p=1]
    #[arg(long, env = "TURNKEY_KEY_ARGON2", value_name = "SETTING")]
    key_argon2: Option<String>,
    /// Argon2id's work for owners' passwords [default: m=19456,t=2,p=1]
    #[arg(long, env = "TURNKEY_PASSWORD_ARGON2", value_name = "SETTING")]
    password_argon2: Option<String>,
    /// Seconds between NOT_SERVING and the end of new calls, when stopped [default: 0 on a loopback address, else 5]
    #[arg(long, env = "TURNKEY_SHUTDOWN_DELAY", value_name = "SECONDS")]
    shutdown_delay: Option<String>,
}

/// What `turnkey serve` needs to know.
pub struct ServeSettings {
    pub database: Database,
    pub ready_file: Option<PathBuf>,
    pub migrate: bool,
    pub server: ServerSettings,
}

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

/// What the server itself needs to know.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    pub listen: SocketAddr,
    pub health_listen: Option<SocketAddr>,
    pub tls: Option<TlsSettings>,
    pub tokens_file: Option<PathBuf>,
    pub reflection: bool,
    pub database_max_connections: u32,
    pub max_concurrent_calls: usize,
    /// Calls a second; none for no limit.
    pub rate_limit_per_caller: Option<NonZeroU32>,
    pub max_connection_age: Duration,
    pub hashing_queue: usize,
    pub key_mode: KeyMode,
    pub key_argon2: Argon2Params,
    pub password_argon2: Argon2Params,
    pub shutdown_delay: Duration,
}

impl ServeArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<ServeSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.database.check(&mut errors);
        let migrate = flag(&mut errors, "--migrate / TURNKEY_MIGRATE", self.migrate.as_deref(), false);
        let server = self.server_settings(&mut errors);
        errors.finish(|| {
            Some(ServeSettings {
                database: database?,
                ready_file: self.ready_file.clone(),
                migrate: migrate?,
                server: server?,
            })
        })
    }

    /// None for plaintext, and where a mistake was noted.
    fn tls(&self, errors: &mut ConfigErrors) -> Option<TlsSettings> {
        if self.tls_client_ca.is_some() && self.tokens_file.is_none() {
            let why = "needs --tokens-file, which says whose the certificates are";
            errors.check::<()>("--tls-client-ca / TURNKEY_TLS_CLIENT_CA", Err(why.to_owned()));
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                Some(TlsSettings { cert: cert.clone(), key: key.clone(), client_ca: self.tls_client_ca.clone() })
            }
            (None, None) if self.tls_client_ca.is_none() => None,
            _ => {
                let why = "the certificate and its key go together, and a client CA with both";
                errors.check("--tls-cert / TURNKEY_TLS_CERT", Err(why.to_owned()))
            }
        }
    }

    fn server_settings(&self, errors: &mut ConfigErrors) -> Option<ServerSettings> {
        let listen = listen(errors, self.listen.as_deref());
        let on_loopback = listen.is_none_or(|address| address.ip().is_loopback());
        let allow_unauthenticated = flag(
            errors,
            "--allow-unauthenticated / TURNKEY_ALLOW_UNAUTHENTICATED",
            self.allow_unauthenticated.as_deref(),
            false,
        );
        if let Some(Err(why)) = self.tokens_file.as_deref().map(service_credentials::read) {
            errors.check::<()>("--tokens-file / TURNKEY_TOKENS_FILE", Err(ErrorChain(&why).to_string()));
        }
        if !on_loopback && self.tokens_file.is_none() && allow_unauthenticated == Some(false) {
            let why = "others can reach this address, and callers need no credential: say --tokens-file, \
                       listen on a loopback address, or say --allow-unauthenticated";
            errors.check::<()>("--listen / TURNKEY_LISTEN", Err(why.to_owned()));
        }
        let reflection = flag(errors, "--reflection / TURNKEY_REFLECTION", self.reflection.as_deref(), on_loopback);
        let database_max_connections = errors.parse(
            "--database-max-connections / TURNKEY_DATABASE_MAX_CONNECTIONS",
            self.database_max_connections.as_deref(),
            NonZeroU32::new(16)?,
            "a whole number from 1",
        );
        let max_concurrent_calls = errors.parse(
            "--max-concurrent-calls / TURNKEY_MAX_CONCURRENT_CALLS",
            self.max_concurrent_calls.as_deref(),
            NonZeroU16::new(1_024)?,
            "a whole number from 1 to 65535",
        );
        let rate_limit_per_caller = match self.rate_limit_per_caller.as_deref().map(str::parse) {
            None => Some(None),
            Some(Ok(rate)) => Some(Some(rate)),
            Some(Err(_)) => errors.check(
                "--rate-limit-per-caller / TURNKEY_RATE_LIMIT_PER_CALLER",
                Err("must be a whole number from 1".to_owned()),
            ),
        };
        let max_connection_age = errors.parse(
            "--max-connection-age / TURNKEY_MAX_CONNECTION_AGE",
            self.max_connection_age.as_deref(),
            ConnectionAge(Duration::from_mins(30)),
            "a duration from 1s, such as 30m",
        );
        let hashing_queue = errors.parse(
            "--hashing-queue / TURNKEY_HASHING_QUEUE",
            self.hashing_queue.as_deref(),
            64_u16,
            "a whole number from 0 to 65535",
        );
        let key_mode = key_mode(errors, self.key_mode.as_deref());
        let key_argon2 = key_argon2(errors, self.key_argon2.as_deref());
        let password_argon2 = errors.parse(
            "--password-argon2 / TURNKEY_PASSWORD_ARGON2",
            self.password_argon2.as_deref(),
            Argon2Params::PASSWORD,
            ARGON2_FORMAT,
        );
        let pause = errors.parse(
            "--shutdown-delay / TURNKEY_SHUTDOWN_DELAY",
            self.shutdown_delay.as_deref(),
            ShutdownDelay(if on_loopback { 0 } else { 5 }),
            "a whole number of seconds from 0 to 10",
        );
        let health_listen = self.health_listen.as_deref().and_then(|text| address(errors, HEALTH_LISTEN, text));
        Some(ServerSettings {
            listen: listen?,
            health_listen,
            tls: self.tls(errors),
            tokens_file: self.tokens_file.clone(),
            reflection: reflection?,
            database_max_connections: database_max_connections?.get(),
            max_concurrent_calls: max_concurrent_calls?.get().into(),
            rate_limit_per_caller: rate_limit_per_caller?,
            max_connection_age: max_connection_age?.0,
            hashing_queue: hashing_queue?.into(),
            key_mode: key_mode?,
            key_argon2: key_argon2?,
            password_argon2: password_argon2?,
            shutdown_delay: Duration::from_secs(pause?.0),
        })
    }
}

/// Long enough that callers do something else than connect.
struct ConnectionAge(Duration);

impl FromStr for ConnectionAge {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        humantime::parse_duration(text).ok().filter(|&age| age >= Duration::from_secs(1)).map(Self).ok_or(())
    }
}

/// Short enough that a stop ends within the 25 s that operators rely on.
struct ShutdownDelay(u64);

impl FromStr for ShutdownDelay {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().ok().filter(|&seconds| seconds <= 10).map(Self).ok_or(())
    }
}
