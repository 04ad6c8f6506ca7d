//! Every setting, typed. A flag and an environment variable name the same setting, and all invalid settings are
//! reported together.
//!
//! clap only collects the texts, because it would stop at the first invalid one. This file has the settings that
//! several commands share; `serve.rs` has those of `serve`, and `commands.rs` those of the other commands.

mod adopt;
mod bounds;
mod call;
mod client;
mod commands;
mod database_address;
mod database_url;
mod exporters;
mod healthcheck;
mod otel;
mod precedence;
mod serve;
mod server_url;
pub mod service_credentials;
mod setting;
mod tls;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use sqlx::postgres::PgConnectOptions;
use strum::EnumString;
use tracing_subscriber::filter::{ParseError, Targets};

pub use adopt::{AdoptArgs, AdoptSettings};
pub use bounds::Bounds;
pub use call::{CallArgs, CallData, CallSettings};
pub use client::{ClientIdentity, ClientSettings};
pub use commands::{
    DoctorArgs, DoctorSettings, ImportArgs, ImportInput, ImportSettings, ImportTarget, PurgeArgs, PurgeSettings,
    TokenArgs, TokenSettings,
};
pub use database_address::DatabaseAddress;
pub use exporters::{ExporterSettings, OtlpProtocol, OtlpSettings};
pub use healthcheck::{HealthcheckArgs, HealthcheckSettings};
pub use otel::OpenTelemetrySettings;
use precedence::Alternatives;
pub use precedence::FlagsFirst;
pub use serve::{ServeArgs, ServeSettings, ServerSettings};
pub use server_url::ServerUrl;
pub use setting::ConfigErrors;
use setting::Setting;
pub use tls::{TlsFileError, TlsFiles, TlsSettings};

use crate::domain::{Argon2Params, KeyMode};

const DATABASE_URL: Setting = Setting::new("database-url", "DATABASE_URL");
const DATABASE_URL_FILE: Setting = Setting::new("database-url-file", "DATABASE_URL_FILE");
const PG_BIN: Setting = Setting::new("pg-bin", "PG_BIN");
const LISTEN: Setting = Setting::new("listen", "TURNKEY_LISTEN");
const HEALTH_LISTEN: Setting = Setting::new("health-listen", "TURNKEY_HEALTH_LISTEN");
const HTTP_LISTEN: Setting = Setting::new("http-listen", "TURNKEY_HTTP_LISTEN");
const HTTP_ALLOWED_ORIGINS: Setting = Setting::new("http-allowed-origins", "TURNKEY_HTTP_ALLOWED_ORIGINS");
const TOKENS_FILE: Setting = Setting::new("tokens-file", "TURNKEY_TOKENS_FILE");
const TLS_CERT: Setting = Setting::new("tls-cert", "TURNKEY_TLS_CERT");
const TLS_KEY: Setting = Setting::new("tls-key", "TURNKEY_TLS_KEY");
const TLS_CLIENT_CA: Setting = Setting::new("tls-client-ca", "TURNKEY_TLS_CLIENT_CA");
const KEY_MODE: Setting = Setting::new("key-mode", "TURNKEY_KEY_MODE");
const KEY_ARGON2: Setting = Setting::new("key-argon2", "TURNKEY_KEY_ARGON2");
const LOG_FORMAT: Setting = Setting::new("log-format", "TURNKEY_LOG_FORMAT");

/// The variable that filters the log of most Rust programs.
const LOG_FILTER: &str = "RUST_LOG";

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50_051);
const ARGON2_FORMAT: &str =
    "of the form m=64,t=1,p=1, with m from 8 for each lane to 1048576 KiB, t from 1 to 64 and p from 1 to 16";
pub const DEFAULT_LOG_FILTER: &str = "info,sqlx=warn,rmcp=error";
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
    /// URL of a Postgres 15 to 18, with one host or several [default: the embedded Postgres, with its data in
    /// ./.turnkey/]
    #[arg(long = DATABASE_URL.flag, env = DATABASE_URL.variable, hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// File with the URL, such as a mounted secret, instead of the URL itself
    #[arg(long = DATABASE_URL_FILE.flag, env = DATABASE_URL_FILE.variable, value_name = "FILE",
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    database_url_file: Option<PathBuf>,
    /// Directory of the Postgres programs, for the embedded Postgres [default: searched for]
    #[arg(long = PG_BIN.flag, env = PG_BIN.variable, value_name = "DIRECTORY")]
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
    pub filter: Targets,
    pub opentelemetry: OpenTelemetrySettings,
}

/// The database of a command. It has no `Debug`, because the URL contains a password.
pub enum Database {
    /// The options of each host.
    Url(Vec<PgConnectOptions>),
    Embedded {
        pg_bin: Option<PathBuf>,
    },
}

impl LogArgs {
    pub fn settings(&self, is_terminal: bool, default_filter: &str) -> Result<LogSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let default_format = if is_terminal { LogFormat::Pretty } else { LogFormat::Json };
        let format = errors.parse(LOG_FORMAT, self.log_format.as_deref(), default_format, "pretty or json");
        let filter = parse_log_filter(variable(LOG_FILTER).as_deref().unwrap_or(default_filter));
        let filter = errors.check(LOG_FILTER, filter);
        let opentelemetry = OpenTelemetrySettings::from_environment(&mut errors);
        errors.into_result(|| Some(LogSettings { format: format?, filter: filter?, opentelemetry }))
    }
}

/// Parses levels, and levels of targets. `tracing_subscriber::EnvFilter` also accepts filters of spans, for which it
/// looks up each span whenever it is entered: 1 % of the CPU time of a short call.
fn parse_log_filter(directives: &str) -> Result<Targets, String> {
    if directives.contains('[') {
        return Err("filters of spans are not supported".to_owned());
    }
    let directives: Vec<_> = directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    directives.join(",").parse().map_err(|invalid: ParseError| invalid.to_string())
}

/// An empty variable counts as unset.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

impl Alternatives for DatabaseArgs {
    const FLAG_OVERRIDES: &[(&str, &str)] =
        &[("database_url", "database_url_file"), ("database_url_file", "database_url")];
}

impl DatabaseArgs {
    pub fn settings(&self) -> Result<Database, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.check(&mut errors);
        errors.into_result(|| database)
    }

    /// Whether the database is the embedded Postgres.
    pub fn is_embedded(&self) -> bool {
        self.url().is_none() && self.url_file().is_none()
    }

    fn url(&self) -> Option<&str> {
        self.database_url.as_deref().filter(|url| !url.is_empty())
    }

    fn url_file(&self) -> Option<&Path> {
        self.database_url_file.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    fn check(&self, errors: &mut ConfigErrors) -> Option<Database> {
        match (self.url(), self.url_file()) {
            (Some(_), Some(_)) => {
                errors.add(DATABASE_URL_FILE, "set only one of DATABASE_URL and DATABASE_URL_FILE");
                None
            }
            (Some(url), None) => parse_database_url(DATABASE_URL, url, errors),
            (None, Some(path)) => {
                let text = errors.check(DATABASE_URL_FILE, read_url(path))?;
                parse_database_url(DATABASE_URL_FILE, text.trim(), errors)
            }
            (None, None) => self.embedded(errors),
        }
    }

    fn embedded(&self, errors: &mut ConfigErrors) -> Option<Database> {
        if !cfg!(feature = "embedded") {
            errors.add(DATABASE_URL, "must be set, because this build has no embedded Postgres");
            return None;
        }
        if let Some(directory) = &self.pg_bin
            && !["initdb", "postgres", "pg_ctl"].iter().all(|program| directory.join(program).is_file())
        {
            let message = format!("{} does not contain `initdb`, `postgres` and `pg_ctl`", directory.display());
            errors.add(PG_BIN, message);
        }
        Some(Database::Embedded { pg_bin: self.pg_bin.clone() })
    }
}

fn read_url(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn parse_database_url(setting: Setting, url: &str, errors: &mut ConfigErrors) -> Option<Database> {
    errors.check(setting, database_url::parse(url)).map(Database::Url)
}

impl KeyArgs {
    fn check(&self, errors: &mut ConfigErrors) -> (Option<KeyMode>, Option<Argon2Params>) {
        let mode = errors.parse(KEY_MODE, self.key_mode.as_deref(), KeyMode::default(), "live or test");
        let argon2 = errors.parse(KEY_ARGON2, self.key_argon2.as_deref(), Argon2Params::KEY, ARGON2_FORMAT);
        (mode, argon2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_filter_has_levels_and_levels_of_targets() {
        let filter = parse_log_filter("warn, sqlx::query=debug,").unwrap();
        let of_target = filter.would_enable("sqlx::query", &tracing::Level::DEBUG);
        assert!(of_target && !filter.would_enable("hyper", &tracing::Level::INFO));
        assert!(parse_log_filter("turnkey[rpc]=debug").is_err() && parse_log_filter("turnkey=loud").is_err());
    }
}
