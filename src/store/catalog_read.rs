//! Reads one tenant's catalog in a single round trip (docs/adr/0011-catalog-reads-in-one-trip.md).
//!
//! A transaction that selects the catalog role and the tenant takes three round trips. Postgres runs several statements
//! in one query as one transaction, but such a query takes no parameters. The statement is therefore prepared in the
//! session under a name, and EXECUTE contains its arguments as text, see [`SqlLiteral`].

use std::fmt::Display;

use sqlx::{
    AssertSqlSafe, Decode, FromRow, Postgres, Type,
    error::BoxDynError,
    postgres::{PgRow, PgTypeInfo, PgValueFormat, PgValueRef},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    Store, error::is_unknown_prepared_statement, pool::PooledConnection, tenant_transaction::set_catalog_role_sql,
};
use crate::{domain::TenantId, error::Result};

/// Runs a SELECT in which `$1` is the tenant's id, and returns its rows.
///
/// It is a macro because sqlx checks only literals against the schema at compile time: the closure passes the statement
/// to sqlx's checked macro and never runs.
macro_rules! catalog_query {
    ($store:expr, $operation:literal, $tenant_id:expr, $row:ty, $sql:literal, $($argument:expr),+ $(,)?) => {{
        let _checked = || sqlx::query_as!($row, $sql, $tenant_id.as_uuid(), $($argument),+);
        let arguments = vec![$($crate::store::catalog_read::SqlLiteral::literal(&$argument)),+];
        $store.run_catalog_query::<$row>($operation, $tenant_id, $sql, arguments)
    }};
}
pub(super) use catalog_query;

/// A value that can be written into a statement without escaping: an id, a number, a boolean or bytes. Not implemented for
/// strings, so that no text of a client can become part of a statement; bytes are written as hexadecimal digits.
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

/// A time in a row of a [`catalog_query!`], in the text format of Postgres. sqlx cannot read such a text if its seconds are
/// whole. The session's time zone is UTC.
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
        let text = text.strip_suffix("+00").ok_or("the time zone of the session is not UTC")?;
        let time = OffsetDateTime::parse(&format!("{}Z", text.replacen(' ', "T", 1)), &Rfc3339)?;
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
    ) -> Result<Vec<Row>>
    where
        Row: for<'row> FromRow<'row, PgRow> + Send + Unpin,
    {
        let mut connection = self.acquire_for(tenant_id, operation).await?;
        let rows = fetch(&mut connection, operation, tenant_id, sql, &arguments).await;
        Ok(rows?.iter().map(Row::from_row).collect::<sqlx::Result<_>>()?)
    }
}

async fn fetch(
    connection: &mut PooledConnection,
    operation: &'static str,
    tenant_id: TenantId,
    sql: &'static str,
    arguments: &[String],
) -> sqlx::Result<Vec<PgRow>> {
    // The checksum distinguishes releases that share a pooler's sessions and whose statements differ.
    let name = format!("{operation}_{:08x}", crc32fast::hash(sql.as_bytes()));
    let query =
        format!("{}; EXECUTE {name} ('{tenant_id}', {})", set_catalog_role_sql(tenant_id), arguments.join(", "));
    let rows = sqlx::raw_sql(AssertSqlSafe(query.as_str())).fetch_all(&mut *connection).await;
    if !rows.as_ref().is_err_and(is_unknown_prepared_statement) {
        return rows;
    }
    // First use in this session.
    let query = format!("PREPARE {name} AS {sql}; {query}");
    sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection).await
}
