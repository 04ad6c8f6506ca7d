//! An old database of the platform, and runs of `turnkey adopt` from it.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::{
    database::{Cluster, TestDatabase, dump, execute},
    fixture::Fixture,
    process::{database_url, temp_folder, turnkey},
};

const SCHEMA: &str = include_str!("../../legacy/schema.sql");
const ROWS: &str = include_str!("../../legacy/rows.sql");
pub const HEADER: &str = "old_id,slug,tenant_id,status,mended,problems";
/// Reads the old databases, and has no other right.
const READER: &str = "old_reader";

pub struct OldDatabase {
    pub superuser: PgConnectOptions,
    pub reader: PgConnectOptions,
}

impl OldDatabase {
    /// Creates a database with these tenants, as `scripts/create-legacy-database` does.
    pub async fn with_tenants(count: u32) -> Self {
        let TestDatabase { superuser, .. } = Cluster::get().empty().await;
        execute(&superuser, SCHEMA).await;
        execute(&superuser, ROWS.replace(":rows", &count.to_string())).await;
        let reader = format!(
            "DO $$ BEGIN CREATE ROLE {READER} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}"
        );
        execute(&superuser, reader).await;
        Self { reader: superuser.clone().username(READER), superuser }
    }

    /// Creates a database without the tenants that are refused.
    pub async fn with_valid_tenants(count: u32) -> Self {
        let old = Self::with_tenants(count).await;
        // The old schema has no index for the foreign key: each deleted segment would read all packages.
        old.execute(
            r#"CREATE INDEX packages_of_segments ON "Package" ("segmentId");
               DELETE FROM "Tenant" WHERE right(id, 2)::int BETWEEN 50 AND 64;
               DROP INDEX packages_of_segments"#,
        )
        .await;
        old
    }

    pub async fn execute(&self, sql: &str) {
        execute(&self.superuser, sql).await;
    }

    /// A digest of everything in the database.
    pub async fn digest(&self) -> String {
        digest(&self.superuser).await
    }

    /// Returns the only column of a query, as text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        texts(&self.superuser, sql).await
    }
}

/// A digest of everything in a database.
pub async fn digest(superuser: &PgConnectOptions) -> String {
    // pg_dump adds a random token in these two lines.
    let is_content = |line: &&str| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ");
    let content: String = dump(superuser).await.lines().filter(is_content).collect();
    hex::encode(Sha256::digest(content))
}

/// Returns the only column of a query, as text.
pub async fn texts(options: &PgConnectOptions, sql: &str) -> Vec<String> {
    let mut connection = options.connect().await.unwrap();
    let texts = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    texts
}

/// The id that the old database gives a tenant.
pub fn old_id(number: u32) -> String {
    format!("c{number:024}")
}

/// The secret key of a tenant whose slug is `tenant-<number>`.
pub async fn old_secret(old: &OldDatabase, number: u32) -> String {
    let sql = format!(
        "SELECT 'sk_live_' || slug || '_' || md5('secret {number}') FROM \"Tenant\" WHERE id = '{}'",
        old_id(number)
    );
    old.texts(&sql).await.remove(0)
}

/// The passwords of tenants, by the number modulo 3.
pub const OLD_PASSWORDS: [&str; 3] = ["kitty", "tulips under a lamp", "cafe\u{301}"];

/// A line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportLine {
    pub slug: String,
    pub tenant_id: String,
    pub status: String,
    pub repairs: String,
    pub problems: String,
}

/// A folder in which `turnkey adopt` runs.
pub struct Adoption<'a> {
    pub fixture: &'a Fixture,
    pub old: &'a OldDatabase,
    pub folder: TempDir,
}

impl<'a> Adoption<'a> {
    pub fn new(fixture: &'a Fixture, old: &'a OldDatabase) -> Self {
        Self { fixture, old, folder: temp_folder() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write_renames(&self, renames: &[(&str, &str)]) {
        let lines = renames.iter().map(|(old, new)| format!("{old},{new}\n"));
        let text = std::iter::once("old_slug,new_slug\n".to_owned()).chain(lines).collect::<String>();
        fs::write(self.path("renames.csv"), text).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = turnkey(self.folder.path());
        command.args(["adopt", "--out", "adopted.csv"]).args(arguments).env("RUST_LOG", "warn");
        command.env("TURNKEY_FROM", database_url(&self.old.reader));
        command.env("DATABASE_URL", database_url(&self.fixture.database.server));
        command
    }

    /// Blocks the thread. The server of the fixture needs another one.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the command, and returns its exit code and its messages.
    pub fn outcome(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// The report, by the old ids.
    pub fn report(&self) -> HashMap<String, ReportLine> {
        let text = fs::read_to_string(self.path("adopted.csv")).unwrap();
        assert_eq!(text.lines().next(), Some(HEADER));
        let mut lines = HashMap::new();
        for record in csv::Reader::from_reader(text.as_bytes()).records() {
            let record = record.unwrap();
            let field = |index: usize| record[index].to_owned();
            let line = ReportLine {
                slug: field(1),
                tenant_id: field(2),
                status: field(3),
                repairs: field(4),
                problems: field(5),
            };
            assert!(lines.insert(field(0), line).is_none(), "{} is in the report twice", &record[0]);
        }
        lines
    }

    /// How many tenants have this status.
    pub fn count(&self, status: &str) -> usize {
        self.report().values().filter(|line| line.status == status).count()
    }

    pub fn line(&self, number: u32) -> ReportLine {
        self.report().remove(&old_id(number)).unwrap()
    }
}
