//! The database of a command: the one that `DATABASE_URL` names, or the embedded Postgres, which runs as long as the
//! command.

use std::path::{Path, PathBuf};

#[cfg(feature = "embedded")]
use embedded_postgres::{EmbeddedPostgres, Settings};

use super::Error;
use crate::{
    config::Database,
    store::{self, DatabaseHosts},
};
#[cfg(not(feature = "embedded"))]
use embedded_disabled::{EmbeddedPostgres, Settings};

/// Directory of the embedded Postgres.
const EMBEDDED_DIR: &str = ".turnkey";
const EMBEDDED_MAX_CONNECTIONS: u16 = 100;

pub struct OpenDatabase {
    /// Connects as the role that owns the schema.
    owner: DatabaseHosts,
    /// Connects as the serving role.
    pub server: DatabaseHosts,
    embedded: Option<EmbeddedPostgres>,
}

impl OpenDatabase {
    pub async fn open(database: Database) -> Result<Self, Error> {
        match database {
            Database::Url(hosts) => {
                let hosts = DatabaseHosts::from(hosts);
                Ok(Self { owner: hosts.clone(), server: hosts, embedded: None })
            }
            Database::Embedded { pg_bin } => {
                let root = PathBuf::from(EMBEDDED_DIR);
                let settings = Settings { root, pg_bin, durable: true, max_connections: EMBEDDED_MAX_CONNECTIONS };
                let embedded = EmbeddedPostgres::start(settings).await?;
                Ok(Self {
                    owner: embedded.owner_options().into(),
                    server: embedded.server_options().into(),
                    embedded: Some(embedded),
                })
            }
        }
    }

    /// Opens the database. Migrates it if it is embedded; another one must be migrated.
    pub async fn open_migrated(database: Database) -> Result<Self, Error> {
        let database = Self::open(database).await?;
        if database.is_embedded() {
            database.migrate().await?;
        } else {
            store::check_migrated(&database.server).await?;
        }
        Ok(database)
    }

    /// Like [`Self::open_migrated`], but fails instead of creating an embedded database: it would be empty, and the
    /// command would report that nothing is wrong.
    pub async fn open_existing(database: Database) -> Result<Self, Error> {
        if matches!(database, Database::Embedded { .. }) && !Path::new(EMBEDDED_DIR).exists() {
            return Err(format!("no database: DATABASE_URL is not set, and ./{EMBEDDED_DIR} does not exist").into());
        }
        Self::open_migrated(database).await
    }

    pub async fn migrate(&self) -> Result<(), Error> {
        store::migrate(&self.owner).await?;
        if let Some(embedded) = &self.embedded {
            store::grant_provisioner(&embedded.owner_options(), embedded.server_options().get_username()).await?;
        }
        Ok(())
    }

    /// Whether the database is the embedded Postgres, which is migrated without `--migrate`.
    pub const fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    pub async fn close(self) -> Result<(), Error> {
        if let Some(embedded) = self.embedded {
            embedded.stop().await?;
        }
        Ok(())
    }
}

/// Whether another process uses the embedded Postgres.
pub fn is_embedded_in_use(error: &Error) -> bool {
    #[cfg(feature = "embedded")]
    return matches!(error.downcast_ref(), Some(embedded_postgres::Error::AlreadyRunning { .. }));
    #[cfg(not(feature = "embedded"))]
    return embedded_disabled::is_in_use(error);
}

/// Replaces the crate `embedded_postgres` in builds without the feature `embedded`.
#[cfg(not(feature = "embedded"))]
mod embedded_disabled {
    use std::path::PathBuf;

    use sqlx::postgres::PgConnectOptions;

    #[expect(dead_code, reason = "only the embedded Postgres reads the settings")]
    pub(super) struct Settings {
        pub root: PathBuf,
        pub pg_bin: Option<PathBuf>,
        pub durable: bool,
        pub max_connections: u16,
    }

    pub const fn is_in_use(_error: &super::Error) -> bool {
        false
    }

    /// Has no value: `start` always fails.
    pub(super) enum EmbeddedPostgres {}

    impl EmbeddedPostgres {
        pub fn start(_settings: Settings) -> std::future::Ready<Result<Self, super::Error>> {
            std::future::ready(Err("DATABASE_URL is not set, and this build has no embedded Postgres".into()))
        }

        pub const fn owner_options(&self) -> PgConnectOptions {
            match *self {}
        }

        pub const fn server_options(&self) -> PgConnectOptions {
            match *self {}
        }

        pub fn stop(self) -> std::future::Ready<Result<(), super::Error>> {
            match self {}
        }
    }
}
