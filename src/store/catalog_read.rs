//! Reads one tenant's catalog in a single round trip (docs/adr/0011-catalog-reads-in-one-trip.md).
//!
//! A transaction that selects the catalog role and the tenant takes three round trips. Postgres runs several statements
//! in one query as one transaction, but such a query takes no parameters. The statement is therefore prepared in the
//! session under a name, and EXECUTE contains its arguments as text, see [`SqlLiteral`].
//!
//! A query relies on nothing that an earlier one left in the session, except that it is repeated with a PREPARE if the
//! statement is unknown there. So it also works behind a pooler that gives each transaction another session.

use std::fmt::Display;

use sqlx::{
    AssertSqlSafe, Decode, FromRow, Postgres, Row as _, Type,
    error::BoxDynError,
    postgres::{PgRow, PgTypeInfo, PgValueFormat, PgValueRef},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{Store, error::is_unknown_prepared_statement, pool::PooledConnection};
use crate::{
    domain::{
        TenantId,
        paging::{ListRow, MAX_PAGE_BYTES},
    },
    error::Result,
};

/// Runs a SELECT in which `$1` is the tenant's id, and returns its rows as a `Vec<ListRow<_>>`, up to
/// [`MAX_PAGE_BYTES`].
///
/// It is a macro because sqlx checks only literals against the schema at compile time: the closure passes the statement
/// to sqlx's checked macro and never runs.
macro_rules! catalog_query {
    (
        $store:expr, $operation:literal, $tenant_id:expr, $row:ty, $sql:literal $(+ $more:literal)*,
        $($argument:expr),+ $(,)?
    ) => {{
        let _checked = || sqlx::query_as!($row, $sql $(+ $more)*, $tenant_id.as_uuid(), $($argument),+);
        let arguments = vec![$($crate::store::catalog_read::SqlLiteral::literal(&$argument)),+];
        $store.run_catalog_query::<$row>($operation, $tenant_id, concat!($sql $(, $more)*), arguments)
    }};
}
pub(super) use catalog_query;

/// A value that can be written into a statement without escaping: an id, a number, a boolean or bytes. Not implemented
/// for strings, so that no text of a client can become part of a statement; bytes are written as hexadecimal digits.
pub(super) trait SqlLiteral {
    fn literal(&self) -> String;
}

fn quoted(value: impl Display) -> String {
    format!("'{value}'")
}

impl SqlLiteral for Uuid {
    fn literal(&self) -> String {
        quoted(self)
    }
}

impl SqlLiteral for i64 {
    fn literal(&self) -> String {
        quoted(self)
    }
}

impl SqlLiteral for bool {
    fn literal(&self) -> String {
        quoted(self)
    }
}

impl SqlLiteral for &[u8] {
    fn literal(&self) -> String {
        self.iter().fold("'\\x".to_owned(), |literal, byte| format!("{literal}{byte:02x}")) + "'::bytea"
    }
}

impl<T: SqlLiteral> SqlLiteral for Option<T> {
    fn literal(&self) -> String {
        self.as_ref().map_or_else(|| "NULL".to_owned(), T::literal)
    }
}

/// A time in a row of a [`catalog_query!`], in the text format of Postgres. sqlx cannot read such a text if its seconds
/// are whole. The session's time zone is UTC.
pub(super) struct CatalogTime(Option<OffsetDateTime>);

impl Type<Postgres> for CatalogTime {
    fn type_info() -> PgTypeInfo {
        OffsetDateTime::type_info()
    }
}

impl Decode<'_, Postgres> for CatalogTime {
    fn decode(value: PgValueRef<'_>) -> std::result::Result<Self, BoxDynError> {
        if value.format() == PgValueFormat::Binary {
            return Option::decode(value).map(Self);
        }
        let Some(text) = Option::<&str>::decode(value)? else { return Ok(Self(None)) };
        // Postgres writes the time zone as hours, such as +00. Rfc3339 reads any separator of date and time.
        let time = OffsetDateTime::parse(&format!("{text}:00"), &Rfc3339)?;
        Ok(Self(Some(time)))
    }
}

impl From<CatalogTime> for Option<OffsetDateTime> {
    fn from(time: CatalogTime) -> Self {
        time.0
    }
}

impl Store {
    /// Runs the statement of a [`catalog_query!`], which alone calls this.
    pub(super) async fn run_catalog_query<Row>(
        &self,
        operation: &'static str,
        tenant_id: TenantId,
        sql: &'static str,
        arguments: Vec<String>,
    ) -> Result<Vec<ListRow<Row>>>
    where
        Row: for<'row> FromRow<'row, PgRow> + Send + Unpin,
    {
        let mut connection = self.acquire_for_read(tenant_id, operation).await?;
        Ok(fetch(&mut connection, operation, tenant_id, sql, &arguments).await?)
    }
}

async fn fetch<Row>(
    connection: &mut PooledConnection,
    operation: &'static str,
    tenant_id: TenantId,
    sql: &'static str,
    arguments: &[String],
) -> sqlx::Result<Vec<ListRow<Row>>>
where
    Row: for<'row> FromRow<'row, PgRow>,
{
    // The checksum distinguishes releases that share a pooler's sessions and whose statements differ.
    let name = format!("{operation}_{:08x}", crc32fast::hash(sql.as_bytes()));
    let role = connection.pool.engine().set_catalog_role_sql(tenant_id);
    let execute = format!("EXECUTE {name} ('{tenant_id}', {})", arguments.join(", "));
    let page = fetch_page(connection, &format!("{role}; {execute}")).await;
    if !page.as_ref().is_err_and(is_unknown_prepared_statement) {
        return page;
    }
    // First use in that session.
    let prepare = prepare_unless_known(&name, sql);
    fetch_page(connection, &format!("{role}; {prepare}; {execute}")).await
}

async fn fetch_page<Row>(connection: &mut PooledConnection, query: &str) -> sqlx::Result<Vec<ListRow<Row>>>
where
    Row: for<'row> FromRow<'row, PgRow>,
{
    let mut page = Page { rows: Ok(Vec::new()), bytes: 0 };
    let query = sqlx::raw_sql(AssertSqlSafe(query));
    connection.run_statement(query, |step| step.right().iter().for_each(|row| page.push(row))).await?;
    page.rows
}

/// The rows that have arrived. They are measured one by one, so that no more than a page is ever in memory. In the
/// statement, a window over the rows would take a quarter of the time of a short list.
struct Page<Row> {
    rows: sqlx::Result<Vec<ListRow<Row>>>,
    bytes: i64,
}

impl<Row: for<'row> FromRow<'row, PgRow>> Page<Row> {
    fn push(&mut self, row: &PgRow) {
        let Ok(rows) = &mut self.rows else { return };
        if let Some(last) = rows.last_mut() {
            last.has_next = true;
        }
        if self.bytes < MAX_PAGE_BYTES {
            self.bytes += size_in_bytes(row);
            match Row::from_row(row) {
                Ok(item) => rows.push(ListRow { item, has_next: false }),
                Err(error) => self.rows = Err(error),
            }
        }
    }
}

/// Returns the size of the values. The conversion of the row reports what cannot be read here.
fn size_in_bytes(row: &PgRow) -> i64 {
    let values = (0..row.len()).filter_map(|index| row.try_get_raw(index).ok());
    // The bytes of a NULL are an error.
    let bytes: usize = values.filter_map(|value| value.as_bytes().ok()).map(<[u8]>::len).sum();
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Returns the SQL that prepares a statement in a session that may know it already: behind a pooler, the second query
/// can get another session than the first.
fn prepare_unless_known(name: &str, sql: &str) -> String {
    format!(
        "DO $do$
         BEGIN
             IF NOT EXISTS (SELECT FROM pg_prepared_statements WHERE name = '{name}') THEN
                 EXECUTE $prepare$PREPARE {name} AS {sql}$prepare$;
             END IF;
         END $do$"
    )
}
