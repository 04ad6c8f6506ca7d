//! Finds slugs that do not exist yet, for new packages and segments without a slug.

use std::collections::HashSet;

use sqlx::types::Json;

use super::pool::PooledConnection;
use crate::{
    domain::{
        Slug, SlugStem, TenantId,
        slug_chooser::{SlugChooser, SlugSearch},
    },
    error::{Error, Result},
};

/// A number that no slug has, for a search.
pub(super) struct FreeNumber {
    id: i32,
    number: i64,
}

/// The query that finds free numbers in `$table`, which is a literal.
///
/// Up to 9 it looks at each number. In each further run whose last number is free, it bisects to one that is free and
/// follows a used one, and continues from there. So 10,000 slugs with one stem cost some thirty lookups, at the price
/// that gaps above 9 are not always filled. Each lookup is a subquery that returns a row or none: the planner would
/// turn EXISTS into a join, and might read all slugs of the tenant for it.
macro_rules! find_free_numbers {
    ($table:tt, $tenant_id:expr, $searches:expr) => {
        sqlx::query_as!(
            FreeNumber,
            r#"
            SELECT search.id AS "id!", free.number AS "number!"
              FROM jsonb_to_recordset($2) AS search (id int4, needed int8, runs jsonb)
             CROSS JOIN LATERAL (
                    SELECT run_number.number
                      FROM jsonb_to_recordset(runs) AS run (prefix text, low int8, high int8)
                     CROSS JOIN LATERAL (
                            WITH RECURSIVE bisection AS (
                                SELECT run.low, CASE WHEN run.high < 10 THEN run.low ELSE run.high END AS high
                                 WHERE run.high < 10
                                    OR (SELECT true FROM "#
                + $table
                + r#"
                                         WHERE tenant_id = $1 AND slug = concat(prefix, run.high)) IS NULL
                                 UNION ALL
                                SELECT CASE WHEN is_free THEN low ELSE middle + 1 END,
                                       CASE WHEN is_free THEN middle ELSE high END
                                  FROM bisection
                                 CROSS JOIN LATERAL (SELECT low + (high - low) / 2 AS middle) AS half
                                 CROSS JOIN LATERAL (
                                        SELECT (SELECT true FROM "#
                + $table
                + r#"
                                                 WHERE tenant_id = $1 AND slug = concat(prefix, middle)) IS NULL
                                               AS is_free
                                        OFFSET 0) AS lookup
                                 WHERE low < high
                            )
                            SELECT number
                              FROM bisection
                             CROSS JOIN LATERAL generate_series(low, least(run.high, low + needed + 7)) AS number
                             WHERE low = high
                               -- The number 1 stands for the prefix alone.
                               AND (SELECT true FROM "#
                + $table
                + r#"
                                     WHERE tenant_id = $1 AND slug = concat(prefix, nullif(number, 1))) IS NULL
                           ) AS run_number
                     LIMIT needed) AS free
            "#,
            $tenant_id.as_uuid(),
            Json($searches) as _,
        )
    };
}

/// The tables that have slugs within a tenant.
#[derive(Debug, Clone, Copy)]
pub(super) enum SluggedTable {
    Packages,
    Segments,
}

/// Returns a slug for each stem that differs from those of the tenant's rows, from the requested ones and from the
/// others. One round trip finds them, unless requested slugs collide with what it found.
pub(super) async fn generate_slugs<'a>(
    connection: &mut PooledConnection,
    table: SluggedTable,
    tenant_id: TenantId,
    stems: impl IntoIterator<Item = &'a SlugStem>,
    requested: HashSet<String>,
) -> Result<Vec<Slug>> {
    let mut chooser = SlugChooser::new(stems, requested);
    loop {
        let searches = chooser.next_searches();
        if searches.is_empty() {
            return Ok(chooser.into_slugs());
        }
        for free in search(connection, table, tenant_id, &searches).await? {
            chooser.add_free(free.id, u64::try_from(free.number).map_err(Error::internal)?);
        }
    }
}

async fn search(
    connection: &mut PooledConnection,
    table: SluggedTable,
    tenant_id: TenantId,
    searches: &[SlugSearch],
) -> sqlx::Result<Vec<FreeNumber>> {
    match table {
        SluggedTable::Packages => find_free_numbers!("packages", tenant_id, searches).fetch_all(connection).await,
        SluggedTable::Segments => find_free_numbers!("segments", tenant_id, searches).fetch_all(connection).await,
    }
}
