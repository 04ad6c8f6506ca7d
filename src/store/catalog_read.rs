//! Reads one tenant's catalog in a single round trip (docs/adr/0011-catalog-reads-in-one-trip.md).
//!
//! A transaction that selects the catalog role and the tenant takes three round trips. Postgres runs several statements
//! in one query as one transaction, but such a query takes no parameters. The statement is therefore prepared in the
//! session under a name, and EXECUTE contains its arguments as text, see [`SqlLiteral`].
//!
//! A query relies on nothing that an earlier one left in the session, except that it is repeated with a PREPARE if the
//! statement is unknown there. So it also works behind a pooler that gives each transaction another session.

use std::fmt::Display;

use sqlx::{AssertSqlSafe, FromRow, postgres::PgRow};
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

/// A value that can be written into a statement without escaping: an id, a number or a boolean. Not implemented for
/// strings, so that no text of a client can become part of a statement.
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
    // First use in that session.
    let query = format!("{}; {query}", prepare_unless_known(&name, sql));
    sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection).await
}

/// Returns the SQL that prepares a statement in a session that may know it already: behind a pooler, the second query can
/// get another session than the first.
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
