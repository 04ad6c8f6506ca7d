//! The database of a run: the one of `DATABASE_URL`, or a private Postgres that lives as long as the run.

use std::path::{Path, PathBuf};

#[cfg(feature = "embedded")]
use embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::postgres::PgConnectOptions;

use super::Error;
use crate::{config::Database, store};
#[cfg(not(feature = "embedded"))]
use embedded_disabled::{EmbeddedPostgres, Settings};

const ROOT: &str = ".turnkey";
const MAX_CONNECTIONS: u16 = 100;

pub struct OpenDatabase {
    /// The role that owns the schema, or is to.
    owner: PgConnectOptions,
    /// The role that serves.
    pub server: PgConnectOptions,
    private: Option<EmbeddedPostgres>,
}

impl OpenDatabase {
    pub async fn open(database: Database) -> Result<Self, Error> {
        match database {
            Database::Url(options) => {
                Ok(Self { owner: PgConnectOptions::clone(&options), server: *options, private: None })
            }
            Database::Embedded { pg_bin } => {
                let root = PathBuf::from(ROOT);
                let settings = Settings { root, pg_bin, durable: true, max_connections: MAX_CONNECTIONS };
                let private = EmbeddedPostgres::start(settings).await?;
                Ok(Self { owner: private.owner_options(), server: private.server_options(), private: Some(private) })
            }
        }
    }

    /// Opened, and migrated if it is this program's own.
    pub async fn open_migrated(database: Database) -> Result<Self, Error> {
        let database = Self::open(database).await?;
        if database.is_private() {
            database.migrate().await?;
        }
        Ok(database)
    }

    /// The same, for commands about what is there already: without a database they say so, instead of making an empty one
    /// and finding nothing wrong with it.
    pub async fn open_existing(database: Database) -> Result<Self, Error> {
        if matches!(database, Database::Embedded { .. }) && !Path::new(ROOT).exists() {
            return Err(format!("there is no DATABASE_URL, and no ./{ROOT} either").into());
        }
        Self::open_migrated(database).await
    }

    pub async fn migrate(&self) -> Result<(), Error> {
        store::migrate(&self.owner).await?;
        if self.private.is_some() {
            store::grant_provisioner(&self.owner, self.server.get_username()).await?;
        }
        Ok(())
    }

    /// Whether it is this program's own, to be migrated without being asked.
    pub const fn is_private(&self) -> bool {
        self.private.is_some()
    }

    pub async fn close(self) -> Result<(), Error> {
        if let Some(private) = self.private {
            private.stop().await?;
        }
        Ok(())
    }
}

/// Stands in for a Postgres of one's own where the build has none.
#[cfg(not(feature = "embedded"))]
mod embedded_disabled {
    use std::path::PathBuf;

    use sqlx::postgres::PgConnectOptions;

    #[expect(dead_code, reason = "read by the Postgres that is left out")]
    pub(super) struct Settings {
        pub root: PathBuf,
        pub pg_bin: Option<PathBuf>,
        pub durable: bool,
        pub max_connections: u16,
    }

    /// There is none.
    pub(super) enum EmbeddedPostgres {}

    impl EmbeddedPostgres {
        pub fn start(_settings: Settings) -> std::future::Ready<Result<Self, super::Error>> {
            std::future::ready(Err("DATABASE_URL is missing, and this build has no Postgres of its own".into()))
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
