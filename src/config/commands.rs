//! What the commands beside `serve` need to know.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use secrecy::SecretString;

use super::{ConfigErrors, Database, DatabaseArgs, key_argon2, key_mode, listen};
use crate::domain::{Argon2Params, KeyMode, Role, service_credentials::ServiceName};

#[derive(Clone, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Make what is missing, from the defaults of a new tenant
    #[arg(long)]
    repair: bool,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Where the secrets of keys made by a repair are written; without it none is made
    #[arg(long, value_name = "FILE", requires = "repair")]
    out: Option<PathBuf>,
    /// `live` or `test`; stands in every new key [default: live]
    #[arg(long, env = "TURNKEY_KEY_MODE", value_name = "MODE")]
    key_mode: Option<String>,
    /// Argon2id's work for keys, in KiB, passes and lanes [default: m=64,t=1,p=1]
    #[arg(long, env = "TURNKEY_KEY_ARGON2", value_name = "SETTING")]
    key_argon2: Option<String>,
}

#[derive(Clone, Args)]
pub struct ImportArgs {
    /// The tenants, as CSV with the columns slug, name and, if you like, `commission_percent`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where their keys are written; the same file goes on where a run before was stopped
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Go on without the rows that cannot be imported
    #[arg(long)]
    skip_invalid: bool,
    /// Calls at a time, of 100 rows each [default: 4]
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<String>,
    /// Import by way of this server, such as <http://127.0.0.1:50051> [default: into the database itself]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The token to call the server with
    #[arg(long, env = "TURNKEY_TOKEN", hide_env_values = true, value_name = "TOKEN", requires = "server")]
    token: Option<String>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// `live` or `test`; stands in every new key [default: live]
    #[arg(long, env = "TURNKEY_KEY_MODE", value_name = "MODE")]
    key_mode: Option<String>,
    /// Argon2id's work for keys, in KiB, passes and lanes [default: m=64,t=1,p=1]
    #[arg(long, env = "TURNKEY_KEY_ARGON2", value_name = "SETTING")]
    key_argon2: Option<String>,
}

#[derive(Clone, Args)]
pub struct PurgeArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Only tenants that were deleted longer ago than this, such as 30d, 12h or `1month 5days`
    #[arg(long, value_name = "DURATION")]
    older_than: String,
    /// Remove them without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Args)]
pub struct TokenArgs {
    /// Who is to call with it; stands in the token and in the spans of its calls
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What it may do: `provisioner`, `verifier` or `catalog`; may be said several times
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<String>,
    /// The server's file of tokens, to which the entry is added [default: standard error]
    #[arg(long, env = "TURNKEY_TOKENS_FILE", value_name = "FILE")]
    tokens_file: Option<PathBuf>,
}

#[derive(Clone, Args)]
pub struct HealthcheckArgs {
    /// The server's address for health alone, if it has one
    #[arg(long, env = "TURNKEY_HEALTH_LISTEN", value_name = "ADDRESS")]
    health_listen: Option<String>,
    /// The server's address [default: 127.0.0.1:50051]
    #[arg(long, env = "TURNKEY_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
}

/// What `turnkey doctor` needs to know.
pub struct DoctorSettings {
    pub database: Database,
    pub repair: bool,
    pub json: bool,
    pub out: Option<PathBuf>,
    pub key_mode: KeyMode,
    pub key_argon2: Argon2Params,
}

/// What `turnkey import` needs to know.
pub struct ImportSettings {
    pub file: PathBuf,
    pub out: PathBuf,
    pub skip_invalid: bool,
    pub concurrency: NonZeroUsize,
    pub target: ImportTarget,
}

pub enum ImportTarget {
    Database { database: Database, key_mode: KeyMode, key_argon2: Argon2Params },
    Server { url: String, token: Option<SecretString> },
}

impl ImportTarget {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Database { .. } => "database",
            Self::Server { .. } => "server",
        }
    }
}

/// What `turnkey purge` needs to know.
pub struct PurgeSettings {
    pub database: Database,
    pub older_than: Duration,
    pub yes: bool,
}

impl DoctorArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<DoctorSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.database.check(&mut errors);
        let key_mode = key_mode(&mut errors, self.key_mode.as_deref());
        let key_argon2 = key_argon2(&mut errors, self.key_argon2.as_deref());
        errors.finish(|| {
            Some(DoctorSettings {
                database: database?,
                repair: self.repair,
                json: self.json,
                out: self.out.clone(),
                key_mode: key_mode?,
                key_argon2: key_argon2?,
            })
        })
    }
}

impl ImportArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<ImportSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let expected = "a whole number from 1";
        let concurrency = errors.parse(
            "--concurrency",
            self.concurrency.as_deref(),
            const { NonZeroUsize::new(4).unwrap() },
            expected,
        );
        let target = match &self.server {
            Some(url) => Some(ImportTarget::Server { url: url.clone(), token: self.token.clone().map(Into::into) }),
            None => self.database_target(&mut errors),
        };
        errors.finish(|| {
            Some(ImportSettings {
                file: self.file.clone(),
                out: self.out.clone(),
                skip_invalid: self.skip_invalid,
                concurrency: concurrency?,
                target: target?,
            })
        })
    }

    fn database_target(&self, errors: &mut ConfigErrors) -> Option<ImportTarget> {
        let database = self.database.check(errors);
        let key_mode = key_mode(errors, self.key_mode.as_deref());
        let key_argon2 = key_argon2(errors, self.key_argon2.as_deref());
        Some(ImportTarget::Database { database: database?, key_mode: key_mode?, key_argon2: key_argon2? })
    }
}

impl PurgeArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<PurgeSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.database.check(&mut errors);
        let older_than = humantime::parse_duration(&self.older_than)
            .map_err(|why| format!("must be a duration such as 30d or 12h: {why}"));
        let older_than = errors.check("--older-than", older_than);
        errors.finish(|| Some(PurgeSettings { database: database?, older_than: older_than?, yes: self.yes }))
    }
}

/// What `turnkey token create` needs to know.
pub struct TokenSettings {
    pub name: ServiceName,
    pub roles: Vec<Role>,
    pub tokens_file: Option<PathBuf>,
}

impl TokenArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<TokenSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let name = errors.check("--name", ServiceName::parse(&self.name).map_err(|why| why.description.into_owned()));
        let role = |role: &String| errors.check("--role", role.parse::<Role>().map_err(str::to_owned));
        let roles: Vec<Role> = self.roles.iter().filter_map(role).collect();
        errors.finish(|| Some(TokenSettings { name: name?, roles, tokens_file: self.tokens_file.clone() }))
    }
}

impl HealthcheckArgs {
    /// The address to ask: the one the server listens on, or this machine where it listens on all.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn address(&self) -> Result<SocketAddr, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let address = listen(&mut errors, self.health_listen.as_deref().or(self.listen.as_deref()));
        errors.finish(|| {
            let mut address = address?;
            if address.ip().is_unspecified() {
                address.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            Some(address)
        })
    }
}
