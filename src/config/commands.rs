//! The settings of the commands other than `serve`.

use std::{fmt, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Args;
use secrecy::SecretString;

use super::{
    ConfigErrors, Database, DatabaseArgs, FlagsFirst, KeyArgs, ServerUrl, TOKENS_FILE,
    setting::{POSITIVE_FORMAT, Setting},
    variable,
};
use crate::domain::{Argon2Params, KeyMode, Role, service_credentials::ServiceName};

const CONCURRENCY: Setting = Setting::flag("concurrency");
const SERVER: Setting = Setting::flag("server");
const OLDER_THAN: Setting = Setting::flag("older-than");
const TOKEN: Setting = Setting::new("token", "TURNKEY_TOKEN");
const NAME: Setting = Setting::flag("name");
const ROLE: Setting = Setting::flag("role");

const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(4).unwrap();

#[derive(Clone, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub database: FlagsFirst<DatabaseArgs>,
    /// Create what is missing from the defaults of a new tenant, move packages without a segment to General, and delete
    /// rows that refer to nothing; take a dump first
    #[arg(long)]
    repair: bool,
    /// Print one JSON object per finding and line instead of a table
    #[arg(long)]
    json: bool,
    /// File to append the keys of repaired tenants to; without it, no keys are created
    #[arg(long, value_name = "FILE", requires = "repair")]
    out: Option<PathBuf>,
    #[command(flatten)]
    keys: KeyArgs,
}

#[derive(Clone, Args)]
pub struct ImportArgs {
    /// CSV file of tenants, with the columns `slug`, `name` and optionally `commission_percent`; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// File to write the keys to; with the file of an earlier run, the import continues it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Import the valid rows although others are invalid
    #[arg(long)]
    skip_invalid: bool,
    /// Batches in flight, of 100 rows each [default: 4]
    #[arg(long = CONCURRENCY.flag, value_name = "COUNT")]
    concurrency: Option<String>,
    /// Import through this server, such as `http://127.0.0.1:50051` [default: into the database]
    #[arg(long = SERVER.flag, value_name = "URL")]
    server: Option<String>,
    /// Service token for the server
    #[arg(long = TOKEN.flag, env = TOKEN.variable, hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    #[command(flatten)]
    pub database: FlagsFirst<DatabaseArgs>,
    #[command(flatten)]
    keys: KeyArgs,
}

#[derive(Clone, Args)]
pub struct PurgeArgs {
    #[command(flatten)]
    pub database: FlagsFirst<DatabaseArgs>,
    /// Minimum time since the tenants were deleted, such as 30d, 12h or `1month 5days`
    #[arg(long = OLDER_THAN.flag, value_name = "DURATION")]
    older_than: String,
    /// Purge without confirmation
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Args)]
pub struct TokenArgs {
    /// Name of the service; appears in the token, in logs and in spans
    #[arg(long = NAME.flag, value_name = "NAME")]
    name: String,
    /// Role of the service: `provisioner`, `verifier` or `catalog`; can be given more than once
    #[arg(long = ROLE.flag, value_name = "ROLE", required = true)]
    roles: Vec<String>,
    /// Tokens file of the server to add the entry to [default: print the entry to standard error]
    #[arg(long = TOKENS_FILE.flag, env = TOKENS_FILE.variable, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
}

pub struct DoctorSettings {
    pub database: Database,
    pub repair: bool,
    pub json: bool,
    pub out: Option<PathBuf>,
    pub key_mode: KeyMode,
    pub key_argon2: Argon2Params,
}

pub struct ImportSettings {
    pub input: ImportInput,
    pub out: PathBuf,
    pub skip_invalid: bool,
    pub concurrency: NonZeroUsize,
    pub target: ImportTarget,
}

pub enum ImportInput {
    File(PathBuf),
    Stdin,
}

impl fmt::Display for ImportInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

pub enum ImportTarget {
    Database { database: Database, key_mode: KeyMode, key_argon2: Argon2Params },
    Server { url: ServerUrl, token: Option<SecretString> },
}

impl ImportTarget {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Database { .. } => "database",
            Self::Server { .. } => "server",
        }
    }
}

pub struct PurgeSettings {
    pub database: Database,
    pub older_than: Duration,
    pub yes: bool,
}

pub struct TokenSettings {
    pub name: ServiceName,
    pub roles: Vec<Role>,
    pub tokens_file: Option<PathBuf>,
}

impl DoctorArgs {
    pub fn settings(&self) -> Result<DoctorSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.database.0.check(&mut errors);
        let (key_mode, key_argon2) = self.keys.check(&mut errors);
        errors.into_result(|| {
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
    pub fn settings(&self) -> Result<ImportSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let concurrency = self.concurrency.as_deref();
        let concurrency = errors.parse(CONCURRENCY, concurrency, DEFAULT_CONCURRENCY, POSITIVE_FORMAT);
        // The variable may be set for other runs.
        if self.token.is_some() && self.server.is_none() && variable("TURNKEY_TOKEN").is_none() {
            errors.add(TOKEN, "needs --server");
        }
        let target = match &self.server {
            Some(url) => errors
                .check(SERVER, url.parse())
                .map(|url| ImportTarget::Server { url, token: self.token.clone().map(Into::into) }),
            None => self.database_target(&mut errors),
        };
        errors.into_result(|| {
            Some(ImportSettings {
                input: if self.file.as_os_str() == "-" {
                    ImportInput::Stdin
                } else {
                    ImportInput::File(self.file.clone())
                },
                out: self.out.clone(),
                skip_invalid: self.skip_invalid,
                concurrency: concurrency?,
                target: target?,
            })
        })
    }

    fn database_target(&self, errors: &mut ConfigErrors) -> Option<ImportTarget> {
        let database = self.database.0.check(errors);
        let (key_mode, key_argon2) = self.keys.check(errors);
        Some(ImportTarget::Database { database: database?, key_mode: key_mode?, key_argon2: key_argon2? })
    }
}

impl PurgeArgs {
    pub fn settings(&self) -> Result<PurgeSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let database = self.database.0.check(&mut errors);
        let older_than = humantime::parse_duration(&self.older_than)
            .map_err(|error| format!("must be a duration such as 30d or 12h: {error}"));
        let older_than = errors.check(OLDER_THAN, older_than);
        errors.into_result(|| Some(PurgeSettings { database: database?, older_than: older_than?, yes: self.yes }))
    }
}

impl TokenArgs {
    pub fn settings(&self) -> Result<TokenSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let name = errors.check(NAME, ServiceName::parse(&self.name).map_err(|invalid| invalid.description));
        let roles = self.roles.iter().filter_map(|role| errors.check(ROLE, role.parse::<Role>())).collect();
        errors.into_result(|| Some(TokenSettings { name: name?, roles, tokens_file: self.tokens_file.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_role_is_reported_with_the_roles_that_exist() {
        let args = TokenArgs { name: "booking".to_owned(), roles: vec!["king".to_owned()], tokens_file: None };
        let Err(errors) = args.settings() else { panic!("there is no such role") };
        let expected = "invalid settings:\n  --role: must be provisioner, verifier, owner_manager or catalog";
        assert_eq!(errors.to_string(), expected);
    }
}
