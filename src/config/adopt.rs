//! The settings of `adopt`.

use std::path::PathBuf;

use clap::Args;
use sqlx::postgres::PgConnectOptions;

use super::{
    ConfigErrors, Database, DatabaseArgs, FlagsFirst, database_url, precedence::Alternatives, read_url,
    setting::Setting,
};

const FROM: Setting = Setting::new("from", "TURNKEY_FROM");
const FROM_FILE: Setting = Setting::new("from-file", "TURNKEY_FROM_FILE");

#[derive(Clone, Args)]
pub struct AdoptArgs {
    #[command(flatten)]
    from: FlagsFirst<OldDatabaseArgs>,
    /// File to write the report to, a CSV file with a line for each tenant; the report of an earlier run is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Check all tenants and write only the report
    #[arg(long)]
    dry_run: bool,
    /// CSV file of new slugs for tenants, with the columns `old_slug` and `new_slug`
    #[arg(long, value_name = "FILE")]
    renames: Option<PathBuf>,
    /// Adopt the tenants that can be adopted although others cannot
    #[arg(long)]
    skip_invalid: bool,
    #[command(flatten)]
    pub database: FlagsFirst<DatabaseArgs>,
}

/// The platform's old database.
#[derive(Clone, Args)]
struct OldDatabaseArgs {
    /// URL of the platform's old database, such as `postgres://reader@old/platform`; it is only read
    #[arg(long = FROM.flag, env = FROM.variable, hide_env_values = true, value_name = "URL")]
    from: Option<String>,
    /// File with that URL, such as a mounted secret, instead of the URL itself
    #[arg(long = FROM_FILE.flag, env = FROM_FILE.variable, value_name = "FILE")]
    from_file: Option<PathBuf>,
}

/// It has no `Debug`, because the URLs contain passwords.
pub struct AdoptSettings {
    /// The options of each host.
    pub from: Vec<PgConnectOptions>,
    pub out: PathBuf,
    pub dry_run: bool,
    pub renames: Option<PathBuf>,
    pub skip_invalid: bool,
    pub database: Database,
}

impl Alternatives for OldDatabaseArgs {
    const FLAG_OVERRIDES: &[(&str, &str)] = &[("from", "from_file"), ("from_file", "from")];
}

impl OldDatabaseArgs {
    fn check(&self, errors: &mut ConfigErrors) -> Option<Vec<PgConnectOptions>> {
        match (self.from.as_deref().filter(|url| !url.is_empty()), &self.from_file) {
            (Some(_), Some(_)) => {
                errors.add(FROM_FILE, "set only one of TURNKEY_FROM and TURNKEY_FROM_FILE");
                None
            }
            (Some(url), None) => errors.check(FROM, database_url::parse(url)),
            (None, Some(path)) => {
                let text = errors.check(FROM_FILE, read_url(path))?;
                errors.check(FROM_FILE, database_url::parse(text.trim()))
            }
            (None, None) => {
                errors.add(FROM, "must be the URL of the platform's old database");
                None
            }
        }
    }
}

impl AdoptArgs {
    pub fn settings(&self) -> Result<AdoptSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let (from, database) = (self.from.0.check(&mut errors), self.database.0.check(&mut errors));
        errors.into_result(|| {
            Some(AdoptSettings {
                from: from?,
                out: self.out.clone(),
                dry_run: self.dry_run,
                renames: self.renames.clone(),
                skip_invalid: self.skip_invalid,
                database: database?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_database_is_named_by_exactly_one_setting() {
        for (from, from_file, expected) in [
            (Some("postgres://old/platform"), Some("url"), "set only one of TURNKEY_FROM and TURNKEY_FROM_FILE"),
            (None, None, "must be the URL of the platform's old database"),
            (Some(""), None, "must be the URL of the platform's old database"),
        ] {
            let args = OldDatabaseArgs { from: from.map(str::to_owned), from_file: from_file.map(PathBuf::from) };
            let mut errors = ConfigErrors::default();
            assert!(args.check(&mut errors).is_none());
            assert!(errors.to_string().contains(expected), "{errors}");
        }
    }
}
