//! Every setting, typed. Flags and environment variables name the same settings, and all mistakes are reported together.
//!
//! clap only collects the texts: it would stop at the first bad one. Here is what several commands have in common;
//! `serve` has a file of its own, and so have the commands that work on a database.

mod commands;
mod serve;
pub mod service_credentials;

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::Args;
use sqlx::postgres::PgConnectOptions;
use tracing_subscriber::EnvFilter;

pub use commands::{
    DoctorArgs, DoctorSettings, HealthcheckArgs, ImportArgs, ImportSettings, ImportTarget, PurgeArgs, PurgeSettings,
    TokenArgs, TokenSettings,
};
pub use serve::{ServeArgs, ServeSettings, ServerSettings, TlsSettings};

use crate::domain::{Argon2Params, KeyMode};

const DEFAULT_LISTEN: &str = "127.0.0.1:50051";
const HEALTH_LISTEN: &str = "--health-listen / TURNKEY_HEALTH_LISTEN";
const ARGON2_FORMAT: &str =
    "of the form m=64,t=1,p=1, with m from 8 for each lane to 1048576 KiB, t from 1 to 64 and p from 1 to 16";
pub const DEFAULT_LOG_FILTER: &str = "info,sqlx=warn";
/// Where a progress bar is drawn.
pub const QUIET_LOG_FILTER: &str = "warn";

/// How the program speaks of its work.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// `pretty` or `json` [default: pretty on a terminal, json elsewhere]. `RUST_LOG` filters
    #[arg(long, env = "TURNKEY_LOG_FORMAT", global = true, value_name = "FORMAT")]
    log_format: Option<String>,
}

/// Where the data is.
#[derive(Clone, Args)]
pub struct DatabaseArgs {
    /// Postgres 15 or newer [default: a private Postgres of its own, kept in ./.turnkey/]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// The directory of Postgres' programs, for the private Postgres [default: looked for]
    #[arg(long, env = "PG_BIN", value_name = "DIRECTORY")]
    pg_bin: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}

pub struct LogSettings {
    pub format: LogFormat,
    pub filter: EnvFilter,
    pub exports: ExporterSettings,
}

/// What goes to a collector; where, the exporters read from the standard `OTEL_*` variables themselves.
#[derive(Debug, Clone, Copy)]
pub struct ExporterSettings {
    pub traces: bool,
    pub metrics: bool,
}

/// The database of a run: somebody's, or a private one. Has no `Debug`, for the password in it.
pub enum Database {
    Url(Box<PgConnectOptions>),
    Private { pg_bin: Option<PathBuf> },
}

/// Everything that is wrong with the settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(Vec<(&'static str, String)>);

impl ConfigErrors {
    /// Those of several parsers, as one.
    pub fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        Self(parts.into_iter().flat_map(|part| part.0).collect())
    }

    fn check<T>(&mut self, setting: &'static str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|why| self.0.push((setting, why))).ok()
    }

    fn parse<T: FromStr>(
        &mut self,
        setting: &'static str,
        text: Option<&str>,
        default: T,
        expected: &str,
    ) -> Option<T> {
        match text {
            None => Some(default),
            Some(text) => self.check(setting, text.parse().map_err(|_unfit| format!("must be {expected}"))),
        }
    }

    fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Self> {
        match build() {
            Some(settings) if self.0.is_empty() => Ok(settings),
            _ => Err(self),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("these settings are wrong:")?;
        self.0.iter().try_for_each(|(setting, why)| write!(f, "\n  {setting}: {why}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl LogArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self, is_terminal: bool, default_filter: &str) -> Result<LogSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let format = match self.log_format.as_deref() {
            None => Some(if is_terminal { LogFormat::Pretty } else { LogFormat::Json }),
            Some("pretty") => Some(LogFormat::Pretty),
            Some("json") => Some(LogFormat::Json),
            Some(_) => errors.check("--log-format / TURNKEY_LOG_FORMAT", Err("must be pretty or json".to_owned())),
        };
        let directives = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
        let filter = EnvFilter::builder().parse(directives.as_deref().unwrap_or(default_filter));
        let filter = errors.check("RUST_LOG", filter.map_err(|why| why.to_string()));
        let exports = exports(&mut errors);
        errors.finish(|| Some(LogSettings { format: format?, filter: filter?, exports }))
    }
}

/// As the specification of OpenTelemetry has it, but that nothing is sent unless it is said where.
/// <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>
fn exports(errors: &mut ConfigErrors) -> ExporterSettings {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    for name in
        ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"]
    {
        if variable(name).is_some_and(|protocol| protocol != "grpc") {
            errors.check::<()>(name, Err("must be grpc: no other is built in".to_owned()));
        }
    }
    let is_on = |signal: &str| {
        let has_endpoint = variable("OTEL_EXPORTER_OTLP_ENDPOINT").is_some()
            || variable(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")).is_some();
        has_endpoint && variable(&format!("OTEL_{signal}_EXPORTER")).is_none_or(|exporter| exporter == "otlp")
    };
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    ExporterSettings { traces: !is_disabled && is_on("TRACES"), metrics: !is_disabled && is_on("METRICS") }
}

impl DatabaseArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<Database, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.check(&mut errors);
        errors.finish(|| database)
    }

    fn check(&self, errors: &mut ConfigErrors) -> Option<Database> {
        let Some(url) = self.database_url.as_deref().filter(|url| !url.is_empty()) else {
            return Some(Database::Private { pg_bin: self.pg_bin.clone() });
        };
        let setting = "--database-url / DATABASE_URL";
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return errors.check(setting, Err("must begin with postgres://".to_owned()));
        }
        // What the parser says of a bad URL names its part and not its text, so no password gets out here.
        let options = PgConnectOptions::from_str(url).map_err(|why| why.to_string());
        errors.check(setting, options).map(|options| Database::Url(Box::new(options)))
    }
}

fn listen(errors: &mut ConfigErrors, text: Option<&str>) -> Option<SocketAddr> {
    address(errors, "--listen / TURNKEY_LISTEN", text.unwrap_or(DEFAULT_LISTEN))
}

fn address(errors: &mut ConfigErrors, setting: &'static str, text: &str) -> Option<SocketAddr> {
    let expected = "must be an IP address and a port, such as 127.0.0.1:50051";
    errors.check(setting, text.parse().map_err(|_unfit| expected.to_owned()))
}

fn key_mode(errors: &mut ConfigErrors, text: Option<&str>) -> Option<KeyMode> {
    errors.parse("--key-mode / TURNKEY_KEY_MODE", text, KeyMode::default(), "live or test")
}

fn key_argon2(errors: &mut ConfigErrors, text: Option<&str>) -> Option<Argon2Params> {
    errors.parse("--key-argon2 / TURNKEY_KEY_ARGON2", text, Argon2Params::KEY, ARGON2_FORMAT)
}

fn flag(errors: &mut ConfigErrors, setting: &'static str, text: Option<&str>, default: bool) -> Option<bool> {
    errors.parse(setting, text, default, "true or false")
}
