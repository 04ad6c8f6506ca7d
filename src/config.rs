//! Every setting, typed. Flags and environment variables name the same settings, and all mistakes are reported together.
//!
//! clap only collects the texts: it would stop at the first bad one.

use std::{
    fmt,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::Args;
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use tracing_subscriber::EnvFilter;

use crate::domain::{Argon2Setting, KeyMode};

const DEFAULT_LISTEN: &str = "127.0.0.1:50051";
const ARGON2_FORM: &str =
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

#[derive(Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Address and port; port 0 picks a free one [default: 127.0.0.1:50051]
    #[arg(long, env = "TURNKEY_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// A file to write the address to once the server is SERVING; removed when it stops
    #[arg(long, env = "TURNKEY_READY_FILE", value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Migrate before serving; the role of `DATABASE_URL` must own the schema
    #[arg(long, env = "TURNKEY_MIGRATE", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    migrate: Option<String>,
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
    #[arg(long, env = "TURNKEY_SHUTDOWN_PAUSE", value_name = "SECONDS")]
    shutdown_pause: Option<String>,
}

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
    skip_bad: bool,
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
pub struct HealthcheckArgs {
    /// The server's address [default: 127.0.0.1:50051]
    #[arg(long, env = "TURNKEY_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}

pub struct LogSettings {
    pub format: LogFormat,
    pub filter: EnvFilter,
}

/// The database of a run: somebody's, or a private one. Has no `Debug`, for the password in it.
pub enum Database {
    Url(Box<PgConnectOptions>),
    Private { pg_bin: Option<PathBuf> },
}

/// What `turnkey serve` needs to know.
pub struct ServeSettings {
    pub database: Database,
    pub ready_file: Option<PathBuf>,
    pub migrate: bool,
    pub server: ServerSettings,
}

/// What `turnkey doctor` needs to know.
pub struct DoctorSettings {
    pub database: Database,
    pub repair: bool,
    pub json: bool,
    pub out: Option<PathBuf>,
    pub key_mode: KeyMode,
    pub key_argon2: Argon2Setting,
}

/// What `turnkey import` needs to know.
pub struct ImportSettings {
    pub file: PathBuf,
    pub out: PathBuf,
    pub skip_bad: bool,
    pub concurrency: NonZeroUsize,
    pub target: ImportTarget,
}

pub enum ImportTarget {
    Database { database: Database, key_mode: KeyMode, key_argon2: Argon2Setting },
    Server { url: String, token: Option<SecretString> },
}

impl ImportTarget {
    #[must_use]
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

/// What the server itself needs to know.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    pub listen: SocketAddr,
    pub reflection: bool,
    pub database_max_connections: u32,
    pub hashing_queue: usize,
    pub key_mode: KeyMode,
    pub key_argon2: Argon2Setting,
    pub password_argon2: Argon2Setting,
    pub shutdown_pause: Duration,
}

/// Everything that is wrong with the settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<(&'static str, String)>);

impl Mistakes {
    /// Those of several parsers, as one.
    #[must_use]
    pub fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        Self(parts.into_iter().flat_map(|part| part.0).collect())
    }

    fn check<T>(&mut self, setting: &'static str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|why| self.0.push((setting, why))).ok()
    }

    fn parse<T: FromStr>(&mut self, setting: &'static str, text: Option<&str>, default: T, form: &str) -> Option<T> {
        match text {
            None => Some(default),
            Some(text) => self.check(setting, text.parse().map_err(|_unfit| format!("must be {form}"))),
        }
    }

    fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Self> {
        match build() {
            Some(settings) if self.0.is_empty() => Ok(settings),
            _ => Err(self),
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("these settings are wrong:")?;
        self.0.iter().try_for_each(|(setting, why)| write!(f, "\n  {setting}: {why}"))
    }
}

impl std::error::Error for Mistakes {}

impl LogArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self, is_terminal: bool, default_filter: &str) -> Result<LogSettings, Mistakes> {
        let mut mistakes = Mistakes::default();
        let format = match self.log_format.as_deref() {
            None => Some(if is_terminal { LogFormat::Pretty } else { LogFormat::Json }),
            Some("pretty") => Some(LogFormat::Pretty),
            Some("json") => Some(LogFormat::Json),
            Some(_) => mistakes.check("--log-format / TURNKEY_LOG_FORMAT", Err("must be pretty or json".to_owned())),
        };
        let directives = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
        let filter = EnvFilter::builder().parse(directives.as_deref().unwrap_or(default_filter));
        let filter = mistakes.check("RUST_LOG", filter.map_err(|why| why.to_string()));
        mistakes.finish(|| Some(LogSettings { format: format?, filter: filter? }))
    }
}

impl DatabaseArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<Database, Mistakes> {
        let mut mistakes = Mistakes::default();
        let database = self.check(&mut mistakes);
        mistakes.finish(|| database)
    }

    fn check(&self, mistakes: &mut Mistakes) -> Option<Database> {
        let Some(url) = self.database_url.as_deref().filter(|url| !url.is_empty()) else {
            return Some(Database::Private { pg_bin: self.pg_bin.clone() });
        };
        let setting = "--database-url / DATABASE_URL";
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return mistakes.check(setting, Err("must begin with postgres://".to_owned()));
        }
        // What the parser says of a bad URL names its part and not its text, so no password gets out here.
        let options = PgConnectOptions::from_str(url).map_err(|why| why.to_string());
        mistakes.check(setting, options).map(|options| Database::Url(Box::new(options)))
    }
}

impl ServeArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<ServeSettings, Mistakes> {
        let mut mistakes = Mistakes::default();
        let database = self.database.check(&mut mistakes);
        let migrate = flag(&mut mistakes, "--migrate / TURNKEY_MIGRATE", self.migrate.as_deref(), false);
        let server = self.server_settings(&mut mistakes);
        mistakes.finish(|| {
            Some(ServeSettings {
                database: database?,
                ready_file: self.ready_file.clone(),
                migrate: migrate?,
                server: server?,
            })
        })
    }

    fn server_settings(&self, mistakes: &mut Mistakes) -> Option<ServerSettings> {
        let listen = listen(mistakes, self.listen.as_deref());
        let on_loopback = listen.is_none_or(|address| address.ip().is_loopback());
        let allow_unauthenticated = flag(
            mistakes,
            "--allow-unauthenticated / TURNKEY_ALLOW_UNAUTHENTICATED",
            self.allow_unauthenticated.as_deref(),
            false,
        );
        if !on_loopback && allow_unauthenticated == Some(false) {
            let why = "others can reach this address, and callers need no credential: \
                       listen on a loopback address, or say --allow-unauthenticated";
            mistakes.check::<()>("--listen / TURNKEY_LISTEN", Err(why.to_owned()));
        }
        let reflection = flag(mistakes, "--reflection / TURNKEY_REFLECTION", self.reflection.as_deref(), on_loopback);
        let database_max_connections = mistakes.parse(
            "--database-max-connections / TURNKEY_DATABASE_MAX_CONNECTIONS",
            self.database_max_connections.as_deref(),
            NonZeroU32::new(16)?,
            "a whole number from 1",
        );
        let hashing_queue = mistakes.parse(
            "--hashing-queue / TURNKEY_HASHING_QUEUE",
            self.hashing_queue.as_deref(),
            64_u16,
            "a whole number from 0 to 65535",
        );
        let key_mode = key_mode(mistakes, self.key_mode.as_deref());
        let key_argon2 = key_argon2(mistakes, self.key_argon2.as_deref());
        let password_argon2 = mistakes.parse(
            "--password-argon2 / TURNKEY_PASSWORD_ARGON2",
            self.password_argon2.as_deref(),
            Argon2Setting::PASSWORD,
            ARGON2_FORM,
        );
        let pause = mistakes.parse(
            "--shutdown-pause / TURNKEY_SHUTDOWN_PAUSE",
            self.shutdown_pause.as_deref(),
            PauseSeconds(if on_loopback { 0 } else { 5 }),
            "a whole number of seconds from 0 to 10",
        );
        Some(ServerSettings {
            listen: listen?,
            reflection: reflection?,
            database_max_connections: database_max_connections?.get(),
            hashing_queue: hashing_queue?.into(),
            key_mode: key_mode?,
            key_argon2: key_argon2?,
            password_argon2: password_argon2?,
            shutdown_pause: Duration::from_secs(pause?.0),
        })
    }
}

impl DoctorArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<DoctorSettings, Mistakes> {
        let mut mistakes = Mistakes::default();
        let database = self.database.check(&mut mistakes);
        let key_mode = key_mode(&mut mistakes, self.key_mode.as_deref());
        let key_argon2 = key_argon2(&mut mistakes, self.key_argon2.as_deref());
        mistakes.finish(|| {
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
    pub fn settings(&self) -> Result<ImportSettings, Mistakes> {
        let mut mistakes = Mistakes::default();
        let form = "a whole number from 1";
        let concurrency =
            mistakes.parse("--concurrency", self.concurrency.as_deref(), const { NonZeroUsize::new(4).unwrap() }, form);
        let target = match &self.server {
            Some(url) => Some(ImportTarget::Server { url: url.clone(), token: self.token.clone().map(Into::into) }),
            None => self.to_database(&mut mistakes),
        };
        mistakes.finish(|| {
            Some(ImportSettings {
                file: self.file.clone(),
                out: self.out.clone(),
                skip_bad: self.skip_bad,
                concurrency: concurrency?,
                target: target?,
            })
        })
    }

    fn to_database(&self, mistakes: &mut Mistakes) -> Option<ImportTarget> {
        let database = self.database.check(mistakes);
        let key_mode = key_mode(mistakes, self.key_mode.as_deref());
        let key_argon2 = key_argon2(mistakes, self.key_argon2.as_deref());
        Some(ImportTarget::Database { database: database?, key_mode: key_mode?, key_argon2: key_argon2? })
    }
}

impl PurgeArgs {
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<PurgeSettings, Mistakes> {
        let mut mistakes = Mistakes::default();
        let database = self.database.check(&mut mistakes);
        let older_than = humantime::parse_duration(&self.older_than)
            .map_err(|why| format!("must be a duration such as 30d or 12h: {why}"));
        let older_than = mistakes.check("--older-than", older_than);
        mistakes.finish(|| Some(PurgeSettings { database: database?, older_than: older_than?, yes: self.yes }))
    }
}

impl HealthcheckArgs {
    /// The address to ask: the one the server listens on, or this machine where it listens on all.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn address(&self) -> Result<SocketAddr, Mistakes> {
        let mut mistakes = Mistakes::default();
        let address = listen(&mut mistakes, self.listen.as_deref());
        mistakes.finish(|| {
            let mut address = address?;
            if address.ip().is_unspecified() {
                address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            Some(address)
        })
    }
}

fn listen(mistakes: &mut Mistakes, text: Option<&str>) -> Option<SocketAddr> {
    let parsed = text.unwrap_or(DEFAULT_LISTEN).parse();
    let form = "must be an IP address and a port, such as 127.0.0.1:50051";
    mistakes.check("--listen / TURNKEY_LISTEN", parsed.map_err(|_unfit| form.to_owned()))
}

fn key_mode(mistakes: &mut Mistakes, text: Option<&str>) -> Option<KeyMode> {
    mistakes.parse("--key-mode / TURNKEY_KEY_MODE", text, KeyMode::default(), "live or test")
}

fn key_argon2(mistakes: &mut Mistakes, text: Option<&str>) -> Option<Argon2Setting> {
    mistakes.parse("--key-argon2 / TURNKEY_KEY_ARGON2", text, Argon2Setting::KEY, ARGON2_FORM)
}

fn flag(mistakes: &mut Mistakes, setting: &'static str, text: Option<&str>, default: bool) -> Option<bool> {
    mistakes.parse(setting, text, default, "true or false")
}

/// Short enough that a stop ends within the 25 s that operators rely on.
struct PauseSeconds(u64);

impl FromStr for PauseSeconds {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().ok().filter(|&seconds| seconds <= 10).map(Self).ok_or(())
    }
}
