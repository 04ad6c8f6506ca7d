//! The settings of the commands other than `serve`.

use std::{fmt, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Args;
use time::Duration as SignedDuration;

use super::{
    ConfigErrors, Database, DatabaseArgs, FlagsFirst, KeyArgs, ServerUrl, TOKENS_FILE,
    client::{ClientArgs, ClientSettings},
    setting::{POSITIVE_FORMAT, Setting},
};
use crate::domain::{Argon2Params, KeyMode, Role, TenantId, TenantLimit, service_credentials::ServiceName};

const CONCURRENCY: Setting = Setting::flag("concurrency");
const SERVER: Setting = Setting::flag("server");
const OLDER_THAN: Setting = Setting::flag("older-than");
const NAME: Setting = Setting::flag("name");
const ROLE: Setting = Setting::flag("role");
const TENANT: Setting = Setting::flag("tenant");
const EXPIRES: Setting = Setting::flag("expires");

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
    #[command(flatten)]
    client: FlagsFirst<ClientArgs>,
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
    /// Role of the service: `provisioner`, `verifier`, `owner_manager`, `catalog`, `catalog_reader`, `reader` or
    /// `key_manager`; can be given more than once
    #[arg(long = ROLE.flag, value_name = "ROLE", required = true)]
    roles: Vec<String>,
    /// Tenant that the token is limited to; can be given up to 100 times [default: any tenant]
    #[arg(long = TENANT.flag, value_name = "ID")]
    tenants: Vec<String>,
    /// Time until the token expires, such as 90d or 12h [default: it does not expire]
    #[arg(long = EXPIRES.flag, value_name = "DURATION")]
    expires: Option<String>,
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
    Server { url: ServerUrl, client: ClientSettings },
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
    pub tenants: Option<TenantLimit>,
    pub expires_in: Option<SignedDuration>,
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
        let target = if let Some(url) = &self.server {
            let (url, client) = (errors.check(SERVER, url.parse()), self.client.0.check(&mut errors));
            url.map(|url| ImportTarget::Server { url, client })
        } else {
            self.client.0.refuse_flags(&mut errors);
            self.database_target(&mut errors)
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
        let tenants = if self.tenants.is_empty() { None } else { self.tenants(&mut errors) };
        let expires_in = self.expires.as_deref().and_then(|text| errors.check(EXPIRES, parse_expiry(text)));
        let tokens_file = self.tokens_file.clone();
        errors.into_result(|| Some(TokenSettings { name: name?, roles, tenants, expires_in, tokens_file }))
    }

    fn tenants(&self, errors: &mut ConfigErrors) -> Option<TenantLimit> {
        let parse = |text: &String| TenantId::parse(text).map_err(|invalid| format!("{text} {}", invalid.description));
        let ids: Vec<TenantId> = self.tenants.iter().filter_map(|text| errors.check(TENANT, parse(text))).collect();
        if ids.len() < self.tenants.len() {
            return None;
        }
        errors.check(TENANT, TenantLimit::new(ids).map_err(|invalid| invalid.description))
    }
}

/// At most 100 years, so that the expiry is a time that RFC 3339 can express.
fn parse_expiry(text: &str) -> Result<SignedDuration, String> {
    const MAX: SignedDuration = SignedDuration::days(36_525);
    let duration = humantime::parse_duration(text);
    let duration = duration.map_err(|error| format!("must be a duration such as 90d or 12h: {error}"))?;
    match SignedDuration::try_from(duration) {
        Ok(duration) if (SignedDuration::SECOND..=MAX).contains(&duration) => Ok(duration),
        _ => Err("must be between 1s and 36525d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid_token(args: &TokenArgs) -> String {
        let Err(errors) = args.settings() else { panic!("the settings are invalid") };
        errors.to_string()
    }

    fn token() -> TokenArgs {
        TokenArgs {
            name: "booking".to_owned(),
            roles: vec!["catalog".to_owned()],
            tenants: Vec::new(),
            expires: None,
            tokens_file: None,
        }
    }

    #[test]
    fn an_invalid_role_is_reported_with_the_roles_that_exist() {
        let expected = "invalid settings:\n  --role: must be provisioner, verifier, owner_manager, catalog, \
                        catalog_reader, reader, key_manager or auditor";
        assert_eq!(invalid_token(&TokenArgs { roles: vec!["king".to_owned()], ..token() }), expected);
    }

    #[test]
    fn a_token_can_be_limited_to_100_tenants_and_to_a_time() {
        let ids = |count: u128| (0..count).map(|id| uuid::Uuid::from_u128(id).to_string()).collect::<Vec<_>>();
        let args = TokenArgs { tenants: ids(100), expires: Some("90d".to_owned()), ..token() };
        let settings = args.settings().unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(settings.tenants.unwrap().iter().count(), 100);
        assert_eq!(settings.expires_in, Some(SignedDuration::days(90)));
        assert!(invalid_token(&TokenArgs { tenants: ids(101), ..token() }).contains("--tenant: must have at most 100"));
        let malformed = TokenArgs { tenants: vec!["bella".to_owned(), String::new()], ..token() };
        assert_eq!(invalid_token(&malformed).matches("\n  --tenant: ").count(), 2);
        for expires in ["0s", "999ms", "101y", "tomorrow", ""] {
            let args = TokenArgs { expires: Some(expires.to_owned()), ..token() };
            assert!(invalid_token(&args).contains("--expires: must be"), "{expires}");
        }
    }
}
