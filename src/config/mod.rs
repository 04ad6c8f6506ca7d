//! Every setting, typed. A flag and an environment variable name the same setting, and all invalid settings are reported
//! together.
//!
//! clap only collects the texts, because it would stop at the first invalid one. This file has the settings that several
//! commands share; `serve.rs` has those of `serve`, and `commands.rs` those of the other commands.

mod bounds;
mod commands;
mod serve;
mod server_url;
pub mod service_credentials;
mod setting;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::Args;
use sqlx::postgres::PgConnectOptions;
use strum::EnumString;
use tracing_subscriber::EnvFilter;

pub use bounds::Bounds;
pub use commands::{
    DoctorArgs, DoctorSettings, HealthcheckArgs, ImportArgs, ImportInput, ImportSettings, ImportTarget, PurgeArgs,
    PurgeSettings, TokenArgs, TokenSettings,
};
pub use serve::{ServeArgs, ServeSettings, ServerSettings, TlsSettings};
pub use server_url::ServerUrl;
pub use setting::ConfigErrors;
use setting::Setting;

use crate::domain::{Argon2Params, KeyMode};

const DATABASE_URL: Setting = Setting::new("database-url", "DATABASE_URL");
const LISTEN: Setting = Setting::new("listen", "TURNKEY_LISTEN");
const HEALTH_LISTEN: Setting = Setting::new("health-listen", "TURNKEY_HEALTH_LISTEN");
const TOKENS_FILE: Setting = Setting::new("tokens-file", "TURNKEY_TOKENS_FILE");
const KEY_MODE: Setting = Setting::new("key-mode", "TURNKEY_KEY_MODE");
const KEY_ARGON2: Setting = Setting::new("key-argon2", "TURNKEY_KEY_ARGON2");
const LOG_FORMAT: Setting = Setting::new("log-format", "TURNKEY_LOG_FORMAT");

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50_051);
const ARGON2_FORMAT: &str =
    "of the form m=64,t=1,p=1, with m from 8 for each lane to 1048576 KiB, t from 1 to 64 and p from 1 to 16";
pub const DEFAULT_LOG_FILTER: &str = "info,sqlx=warn";
/// The log filter of a command that draws a progress bar.
pub const QUIET_LOG_FILTER: &str = "warn";

/// Settings of the log.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Log format, `pretty` or `json`; `RUST_LOG` filters [default: pretty on a terminal, else json]
    #[arg(long = LOG_FORMAT.flag, env = LOG_FORMAT.variable, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
}

/// Settings of the database.
#[derive(Clone, Args)]
pub struct DatabaseArgs {
    /// URL of a Postgres 15 to 18 [default: the embedded Postgres, with its data in ./.turnkey/]
    #[arg(long = DATABASE_URL.flag, env = DATABASE_URL.variable, hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// Directory of the Postgres programs, for the embedded Postgres [default: searched for]
    #[arg(long, env = "PG_BIN", value_name = "DIRECTORY")]
    pg_bin: Option<PathBuf>,
}

/// Settings of new API keys.
#[derive(Clone, Args)]
struct KeyArgs {
    /// `live` or `test`; part of every new key [default: live]
    #[arg(long = KEY_MODE.flag, env = KEY_MODE.variable, value_name = "MODE")]
    key_mode: Option<String>,
    /// Argon2id parameters for keys: memory in KiB, passes, parallelism [default: m=64,t=1,p=1]
    #[arg(long = KEY_ARGON2.flag, env = KEY_ARGON2.variable, value_name = "PARAMETERS")]
    key_argon2: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum LogFormat {
    Pretty,
    Json,
}

pub struct LogSettings {
    pub format: LogFormat,
    pub filter: EnvFilter,
    pub exporters: ExporterSettings,
}

/// The signals that are exported. The exporters read the collector's address from the standard `OTEL_*` variables.
#[derive(Debug, Clone, Copy)]
pub struct ExporterSettings {
    pub traces: bool,
    pub metrics: bool,
}

/// The database of a command. It has no `Debug`, because the URL contains a password.
pub enum Database {
    Url(Box<PgConnectOptions>),
    Embedded { pg_bin: Option<PathBuf> },
}

impl LogArgs {
    pub fn settings(&self, is_terminal: bool, default_filter: &str) -> Result<LogSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let default_format = if is_terminal { LogFormat::Pretty } else { LogFormat::Json };
        let format = errors.parse(LOG_FORMAT, self.log_format.as_deref(), default_format, "pretty or json");
        let directives = variable(EnvFilter::DEFAULT_ENV);
        let filter = EnvFilter::builder().parse(directives.as_deref().unwrap_or(default_filter));
        let filter = errors.check(EnvFilter::DEFAULT_ENV, filter);
        let exporters = exporters(&mut errors);
        errors.into_result(|| Some(LogSettings { format: format?, filter: filter?, exporters }))
    }
}

/// Follows the specification of OpenTelemetry, except that a signal is exported only if an endpoint is set.
/// <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>
fn exporters(errors: &mut ConfigErrors) -> ExporterSettings {
    for name in
        ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"]
    {
        if variable(name).is_some_and(|protocol| protocol != "grpc") {
            errors.add(name, "must be grpc: no other protocol is built in");
        }
    }
    let is_enabled = |signal: &str| {
        let has_endpoint = variable("OTEL_EXPORTER_OTLP_ENDPOINT").is_some()
            || variable(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")).is_some();
        has_endpoint && variable(&format!("OTEL_{signal}_EXPORTER")).is_none_or(|exporter| exporter == "otlp")
    };
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    ExporterSettings { traces: !is_disabled && is_enabled("TRACES"), metrics: !is_disabled && is_enabled("METRICS") }
}

/// An empty variable counts as unset, as OpenTelemetry specifies.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

impl DatabaseArgs {
    pub fn settings(&self) -> Result<Database, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.check(&mut errors);
        errors.into_result(|| database)
    }

    /// Whether the database is the embedded Postgres.
    pub fn is_embedded(&self) -> bool {
        self.url().is_none()
    }

    fn url(&self) -> Option<&str> {
        self.database_url.as_deref().filter(|url| !url.is_empty())
    }

    fn check(&self, errors: &mut ConfigErrors) -> Option<Database> {
        let Some(url) = self.url() else {
            return Some(Database::Embedded { pg_bin: self.pg_bin.clone() });
        };
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if !matches!(scheme.as_deref(), Some("postgres" | "postgresql")) {
            errors.add(DATABASE_URL, "must begin with postgres://");
            return None;
        }
        // The parser's messages name the invalid part, not its text, so that they reveal no password.
        errors.check(DATABASE_URL, PgConnectOptions::from_str(url)).map(|options| Database::Url(Box::new(options)))
    }
}

impl KeyArgs {
    fn check(&self, errors: &mut ConfigErrors) -> (Option<KeyMode>, Option<Argon2Params>) {
        let mode = errors.parse(KEY_MODE, self.key_mode.as_deref(), KeyMode::default(), "live or test");
        let argon2 = errors.parse(KEY_ARGON2, self.key_argon2.as_deref(), Argon2Params::KEY, ARGON2_FORMAT);
        (mode, argon2)
    }
}
