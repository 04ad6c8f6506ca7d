//! Integrity checks: finds damaged tenants and rows that refer to missing tenants. [`super::repair`] repairs them.
//!
//! A check pages through its rows by key, in many short statements: memory is bounded, nothing is locked and no
//! transaction stays open.

use std::ops::RangeInclusive;

use futures_util::{Stream, stream};
use uuid::Uuid;

use super::{Store, pool::PooledConnection};
use crate::{
    domain::{
        TenantId, defaults,
        integrity::{Finding, FindingKind, IntegrityChunk, IntegritySubject},
    },
    error::{Error, Result},
};

/// Tenants (or owners, or tenants with idempotency records) per statement.
const CHUNK_SIZE: i64 = 1_000;
/// Upper bound of the damaged packages, and of the dangling idempotency records, that are listed of each tenant. It bounds
/// the findings of a chunk.
const MAX_ROWS_PER_TENANT: i64 = 20;

/// A finding, or the end of the chunk: a row without a kind, with the last id of the chunk.
struct FindingRow {
    tenant_id: Uuid,
    slug: Option<String>,
    kind: Option<String>,
    /// The damaged package, the RPC of the idempotency record, or what was counted wrongly.
    subject: Option<String>,
    /// Tenants in the chunk; only in the end row.
    checked_count: Option<i64>,
}

impl FindingRow {
    fn into_finding(self) -> Result<Finding> {
        let kind: FindingKind = self.kind.unwrap_or_default().parse().map_err(Error::internal)?;
        Ok(Finding {
            tenant_id: TenantId::from_uuid(self.tenant_id),
            slug: self.slug,
            kind,
            detail: kind.detail(&self.subject.unwrap_or_default()),
        })
    }
}

impl Store {
    /// Checks the rows of a subject whose tenant ids are in the range, chunk by chunk in the order of the ids.
    pub fn check_integrity(
        &self,
        subject: IntegritySubject,
        ids: RangeInclusive<Uuid>,
    ) -> impl Stream<Item = Result<IntegrityChunk>> + Send + use<> {
        let (store, last) = (self.clone(), *ids.end());
        let only = (ids.start() == ids.end()).then(|| TenantId::from_uuid(last));
        stream::try_unfold(Some(*ids.start()), move |next_id| {
            let store = store.clone();
            async move {
                let Some(first) = next_id.filter(|id| *id <= last) else { return Ok(None) };
                let connection = match only {
                    Some(tenant_id) => store.acquire_for(tenant_id, "check_integrity").await,
                    None => store.acquire("check_integrity").await,
                };
                let connection = &mut connection?;
                let rows = match subject {
                    IntegritySubject::Tenants => check_tenants(connection, first..=last).await?,
                    IntegritySubject::Owners => check_owners(connection, first..=last).await?,
                    IntegritySubject::IdempotencyRecords => check_idempotency_records(connection, first..=last).await?,
                };
                let (chunk, last_id) = into_chunk(rows)?;
                let next_id = last_id.and_then(|id| id.as_u128().checked_add(1)).map(Uuid::from_u128);
                Ok(Some((chunk, next_id)))
            }
        })
    }

    /// Returns the number of tenants, deleted ones included.
    pub async fn count_tenants(&self) -> Result<u64> {
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM tenants"#)
            .fetch_one(&mut self.acquire("count_tenants").await?)
            .await;
        Ok(count?.unsigned_abs())
    }
}

/// Checks the first tenants of the range. Returns the findings, then the end row; no row if there are no such tenants.
async fn check_tenants(connection: &mut PooledConnection, ids: RangeInclusive<Uuid>) -> sqlx::Result<Vec<FindingRow>> {
    sqlx::query_as!(
        FindingRow,
        r#"
        WITH chunk AS MATERIALIZED (
            SELECT id, slug, is_signup
              FROM tenants
             WHERE id BETWEEN $1 AND $2
             ORDER BY id
             LIMIT $3
        ), package_without_own_segment AS MATERIALIZED (
            -- The first packages of each tenant whose segment does not exist or belongs to another tenant.
            SELECT *
              FROM (SELECT chunk.id, chunk.slug AS tenant_slug, packages.slug, packages.segment_id,
                           row_number() OVER (PARTITION BY chunk.id ORDER BY packages.slug) AS number
                      FROM chunk
                      JOIN packages ON packages.tenant_id = chunk.id
                      LEFT JOIN segments ON segments.tenant_id = chunk.id AND segments.id = packages.segment_id
                     WHERE segments.id IS NULL) AS package
             WHERE number <= $5
        ), foreign_segment AS MATERIALIZED (
            -- segments has no index on id alone: this scans it once, and only if there is an orphaned package.
            SELECT id FROM segments WHERE id IN (SELECT segment_id FROM package_without_own_segment)
        ), actual AS MATERIALIZED (
            -- The numbers of rows of the tenants that have counters.
            SELECT id, slug, package_count, segment_count,
                   (SELECT count(*) FROM packages WHERE tenant_id = chunk.id) AS packages,
                   (SELECT count(*) FROM segments WHERE tenant_id = chunk.id) AS segments
              FROM chunk
              JOIN tenant_usage ON tenant_usage.tenant_id = chunk.id
        ), finding AS (
            SELECT id, slug, 'NO_GENERAL_SEGMENT' AS kind, NULL AS subject
              FROM chunk
             WHERE NOT EXISTS (SELECT FROM segments WHERE tenant_id = chunk.id AND segments.slug = $4)
            UNION ALL
            SELECT id, slug, 'NO_PACKAGE', NULL
              FROM chunk
             WHERE NOT EXISTS (SELECT FROM packages WHERE tenant_id = chunk.id)
            UNION ALL
            SELECT id, slug, 'NO_API_KEY', NULL
              FROM chunk
             WHERE NOT EXISTS (SELECT FROM api_keys WHERE tenant_id = chunk.id)
            UNION ALL
            SELECT id, slug, 'SIGNUP_WITHOUT_OWNER', NULL
              FROM chunk
             WHERE is_signup AND NOT EXISTS (SELECT FROM owners WHERE tenant_id = chunk.id)
            UNION ALL
            SELECT id, tenant_slug,
                   CASE WHEN segment_id IN (SELECT id FROM foreign_segment) THEN 'PACKAGE_IN_FOREIGN_SEGMENT'
                        ELSE 'PACKAGE_WITHOUT_SEGMENT' END,
                   slug
              FROM package_without_own_segment
            UNION ALL
            -- A tenant without any package or segment has the finding NO_PACKAGE or NO_GENERAL_SEGMENT instead. Its repair
            -- corrects the counters, too.
            SELECT id, slug, 'WRONG_USAGE_COUNT', 'packages' FROM actual WHERE package_count <> packages AND packages > 0
            UNION ALL
            SELECT id, slug, 'WRONG_USAGE_COUNT', 'segments' FROM actual WHERE segment_count <> segments AND segments > 0
        )
        (SELECT id AS "tenant_id!", slug, kind, subject, NULL::int8 AS checked_count
           FROM finding
          ORDER BY id, kind, subject)
        UNION ALL
        -- The end row.
        (SELECT id, NULL, NULL, NULL, (SELECT count(*) FROM chunk) FROM chunk ORDER BY id DESC LIMIT 1)
        "#,
        ids.start(),
        ids.end(),
        CHUNK_SIZE,
        defaults::SEGMENT.slug,
        MAX_ROWS_PER_TENANT,
    )
    .fetch_all(connection)
    .await
}

/// Finds owners whose tenant does not exist, in rows like those of [`check_tenants`].
async fn check_owners(connection: &mut PooledConnection, ids: RangeInclusive<Uuid>) -> sqlx::Result<Vec<FindingRow>> {
    sqlx::query_as!(
        FindingRow,
        r#"
        WITH chunk AS MATERIALIZED (
            SELECT tenant_id
              FROM owners
             WHERE tenant_id BETWEEN $1 AND $2
             ORDER BY tenant_id
             LIMIT $3
        )
        (SELECT tenant_id AS "tenant_id!", NULL AS slug, 'OWNER_WITHOUT_TENANT' AS kind, NULL AS subject,
                NULL::int8 AS checked_count
           FROM chunk
          WHERE NOT EXISTS (SELECT FROM tenants WHERE id = chunk.tenant_id)
          ORDER BY tenant_id)
        UNION ALL
        (SELECT tenant_id, NULL, NULL, NULL, 0 FROM chunk ORDER BY tenant_id DESC LIMIT 1)
        "#,
        ids.start(),
        ids.end(),
        CHUNK_SIZE,
    )
    .fetch_all(connection)
    .await
}

/// Finds idempotency records whose tenant or key does not exist, in rows like those of [`check_tenants`].
async fn check_idempotency_records(
    connection: &mut PooledConnection,
    ids: RangeInclusive<Uuid>,
) -> sqlx::Result<Vec<FindingRow>> {
    // A chunk has all records of its tenants, because the next chunk starts after the last tenant id.
    sqlx::query_as!(
        FindingRow,
        r#"
        WITH chunk AS MATERIALIZED (
            SELECT DISTINCT tenant_id
              FROM idempotency_records
             WHERE tenant_id BETWEEN $1 AND $2
             ORDER BY tenant_id
             LIMIT $3
        )
        (SELECT tenant_id AS "tenant_id!", slug AS "slug?", 'DANGLING_IDEMPOTENCY_RECORD' AS kind, rpc AS subject,
                NULL::int8 AS checked_count
           FROM (SELECT chunk.tenant_id, tenants.slug, rpc,
                        row_number() OVER (PARTITION BY chunk.tenant_id ORDER BY rpc) AS number
                   FROM chunk
                   JOIN idempotency_records AS record ON record.tenant_id = chunk.tenant_id
                   LEFT JOIN tenants ON tenants.id = chunk.tenant_id
                  WHERE tenants.id IS NULL
                     -- A tenant without any key has the finding NO_API_KEY instead.
                     OR (NOT EXISTS (SELECT FROM api_keys WHERE key_id = record.key_id)
                         AND EXISTS (SELECT FROM api_keys WHERE api_keys.tenant_id = chunk.tenant_id))) AS dangling
          WHERE number <= $4
          ORDER BY tenant_id, rpc)
        UNION ALL
        (SELECT tenant_id, NULL, NULL, NULL, 0 FROM chunk ORDER BY tenant_id DESC LIMIT 1)
        "#,
        ids.start(),
        ids.end(),
        CHUNK_SIZE,
        MAX_ROWS_PER_TENANT,
    )
    .fetch_all(connection)
    .await
}

/// Returns the chunk and its last tenant id, which is `None` if no rows were left.
fn into_chunk(mut rows: Vec<FindingRow>) -> Result<(IntegrityChunk, Option<Uuid>)> {
    let end = rows.iter().position(|row| row.kind.is_none()).map(|index| rows.remove(index));
    let findings = rows.into_iter().map(FindingRow::into_finding).collect::<Result<_>>()?;
    let tenants = end.as_ref().and_then(|end| end.checked_count).unwrap_or_default().unsigned_abs();
    Ok((IntegrityChunk { tenants, findings }, end.map(|end| end.tenant_id)))
}
