//! Reads one tenant's catalog in a single round trip.
//!
//! What names the tenant and the statement are sent as one query, which Postgres runs as one transaction. Such a query takes
//! no parameters. So the statement is one that Postgres keeps under a name, and what would be parameters is written into
//! EXECUTE: only what needs no quoting, see [`SqlLiteral`].

use std::fmt::Display;

use sqlx::{AssertSqlSafe, FromRow, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store, error::is_unknown_prepared_statement, pool::PooledConnection, tenant_transaction::set_catalog_role_sql,
};
use crate::{domain::TenantId, error::Result};

/// A SELECT about the tenant `$1`, checked against the schema when it is compiled, and its rows.
macro_rules! catalog_query {
    ($store:expr, $operation:literal, $tenant_id:expr, $row:ty, $sql:literal, $($argument:expr),+ $(,)?) => {{
        let _checked = || sqlx::query_as!($row, $sql, $tenant_id.as_uuid(), $($argument),+);
        let arguments = vec![$($crate::store::catalog_read::SqlLiteral::literal(&$argument)),+];
        $store.read::<$row>($operation, $tenant_id, $sql, arguments)
    }};
}
pub(super) use catalog_query;

/// What can stand in a statement as it is.
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

impl<T: SqlLiteral> SqlLiteral for Option<T> {
    fn literal(&self) -> String {
        self.as_ref().map_or_else(|| "NULL".to_owned(), T::literal)
    }
}

impl Store {
    /// To be called by [`catalog_query!`] alone.
    pub(super) async fn read<Row>(
        &self,
        operation: &'static str,
        tenant_id: TenantId,
        sql: &'static str,
        arguments: Vec<String>,
    ) -> Result<Vec<Row>>
    where
        Row: for<'row> FromRow<'row, PgRow> + Send + Unpin,
    {
        let mut connection = self.acquire(operation).await?;
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
    // Another release may have prepared another statement in a session that a pooler lends to both.
    let name = format!("{operation}_{:08x}", crc32fast::hash(sql.as_bytes()));
    let query =
        format!("{}; EXECUTE {name} ('{tenant_id}', {})", set_catalog_role_sql(tenant_id), arguments.join(", "));
    let rows = sqlx::raw_sql(AssertSqlSafe(query.as_str())).fetch_all(&mut *connection).await;
    if !rows.as_ref().is_err_and(is_unknown_prepared_statement) {
        return rows;
    }
    // The first time in this session.
    let query = format!("PREPARE {name} AS {sql}; {query}");
    sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection).await
}
