//! Integrity checks: finds damaged tenants and rows that refer to missing tenants. [`super::repair`] repairs them.
//!
//! A check pages through the tenant ids, those of missing tenants included, in many short statements: memory is
//! bounded, nothing is locked and no transaction stays open.

use std::ops::RangeInclusive;

use futures_util::{Stream, stream};
use uuid::Uuid;

use super::{
    Store,
    citus::{self, Engine},
    column,
    pool::PooledConnection,
};
use crate::{
    domain::{
        Email, TenantId, defaults,
        integrity::{Finding, FindingKind, IntegrityChunk},
    },
    error::{Error, Result},
};

/// Tenants, missing ones included, per chunk.
const CHUNK_SIZE: i64 = 1_000;
/// Upper bound of the damaged packages, and of the dangling idempotency records, that are listed of each tenant. It
/// bounds the findings of a chunk.
const MAX_ROWS_PER_TENANT: i64 = 20;

/// A finding in a chunk of tenants. All rows have the same chunk; a chunk without findings has one row without a kind.
struct FindingRow {
    /// `None` if no tenants are left.
    last_id_of_chunk: Option<Uuid>,
    tenants_in_chunk: i64,
    tenant_id: Option<Uuid>,
    slug: Option<String>,
    kind: Option<String>,
    /// The slug of the damaged package, the RPC of the idempotency record, or what was counted wrongly.
    affected: Option<String>,
}

impl FindingRow {
    fn into_finding(self) -> Result<Option<Finding>> {
        let Some((tenant_id, kind)) = self.tenant_id.zip(self.kind) else { return Ok(None) };
        let kind: FindingKind = kind.parse().map_err(Error::internal)?;
        let detail = kind.detail(&self.affected.unwrap_or_default());
        Ok(Some(Finding { tenant_id: TenantId::from_uuid(tenant_id), slug: self.slug, kind, detail }))
    }
}

impl Store {
    /// Checks one tenant, or all in the order of their ids, chunk by chunk. The findings of a tenant are in one chunk.
    pub fn check_integrity(&self, only: Option<TenantId>) -> impl Stream<Item = Result<IntegrityChunk>> + Send + use<> {
        let store = self.clone();
        let (first, last) = match only {
            None => (Uuid::nil(), Uuid::max()),
            Some(tenant_id) => (tenant_id.as_uuid(), tenant_id.as_uuid()),
        };
        stream::try_unfold(Some(first), move |next_id| {
            let store = store.clone();
            async move {
                let Some(first) = next_id.filter(|id| *id <= last) else { return Ok(None) };
                let connection = match only {
                    Some(tenant_id) => store.acquire_for(tenant_id, "check_integrity").await,
                    None => store.acquire("check_integrity").await,
                };
                let (chunk, last_id) = check_chunk(&mut connection?, first..=last).await?;
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

/// Checks the first tenants of the range. Also returns the last id of the chunk, `None` if there are no such tenants.
async fn check_chunk(
    connection: &mut PooledConnection,
    ids: RangeInclusive<Uuid>,
) -> Result<(IntegrityChunk, Option<Uuid>)> {
    let first = *ids.start();
    let rows = find_damage(connection, ids.clone()).await?;
    let last_id = rows.first().and_then(|row| row.last_id_of_chunk);
    let tenants = rows.first().map_or(0, |row| row.tenants_in_chunk.unsigned_abs());
    let mut findings = into_findings(rows)?;
    if connection.pool.engine() == Engine::Citus && !findings.is_empty() {
        // Some may be of tenants that are being created or purged, whose parts do not commit at the same moment.
        citus::wait_for_tenants(connection, &column(&findings, |finding| finding.tenant_id.as_uuid())).await?;
        let found_again = into_findings(find_damage(connection, ids).await?)?;
        findings.retain(|finding| found_again.contains(finding));
    }
    if let Some(last_id) = last_id {
        findings.extend(find_wrong_emails(connection, first..=last_id).await?);
        findings.sort_by_key(|finding| finding.tenant_id.as_uuid());
    }
    Ok((IntegrityChunk { tenants, findings }, last_id))
}

fn into_findings(rows: Vec<FindingRow>) -> Result<Vec<Finding>> {
    rows.into_iter().filter_map(|row| row.into_finding().transpose()).collect()
}

#[expect(clippy::too_many_lines, reason = "it is one statement")]
async fn find_damage(connection: &mut PooledConnection, ids: RangeInclusive<Uuid>) -> sqlx::Result<Vec<FindingRow>> {
    sqlx::query_as!(
        FindingRow,
        r#"
        WITH argument AS MATERIALIZED (
            -- As columns, they are unknown to the planner, which therefore expects few rows and uses the indexes.
            SELECT $1::uuid AS first, $2::uuid AS last, $3::int8 AS chunk_size
        ), next_tenant AS MATERIALIZED (
            SELECT id, slug, is_signup
              FROM tenants
             WHERE id BETWEEN (SELECT first FROM argument) AND (SELECT last FROM argument)
             ORDER BY id
             LIMIT (SELECT chunk_size FROM argument)
        ), range AS MATERIALIZED (
            -- Ends with the last of these tenants if more may follow. next_tenant has all tenants in it.
            SELECT first,
                   CASE WHEN (SELECT count(*) FROM next_tenant) < chunk_size THEN last
                        ELSE (SELECT id FROM next_tenant ORDER BY id DESC LIMIT 1) END AS last
              FROM argument
        ), stray AS MATERIALIZED (
            -- The first missing tenants in the range, for each table whose rows refer to them.
            (SELECT DISTINCT tenant_id AS id, 'SEGMENT_WITHOUT_TENANT' AS kind, NULL AS affected
               FROM segments
              WHERE tenant_id BETWEEN (SELECT first FROM range) AND (SELECT last FROM range)
                AND NOT EXISTS (SELECT FROM next_tenant WHERE id = tenant_id)
              ORDER BY tenant_id LIMIT $3)
            UNION ALL
            (SELECT DISTINCT tenant_id, 'PACKAGE_WITHOUT_TENANT', NULL
               FROM packages
              WHERE tenant_id BETWEEN (SELECT first FROM range) AND (SELECT last FROM range)
                AND NOT EXISTS (SELECT FROM next_tenant WHERE id = tenant_id)
              ORDER BY tenant_id LIMIT $3)
            UNION ALL
            (SELECT DISTINCT tenant_id, 'API_KEY_WITHOUT_TENANT', NULL
               FROM api_keys
              WHERE tenant_id BETWEEN (SELECT first FROM range) AND (SELECT last FROM range)
                AND NOT EXISTS (SELECT FROM next_tenant WHERE id = tenant_id)
              ORDER BY tenant_id LIMIT $3)
            UNION ALL
            (SELECT tenant_id, 'OWNER_WITHOUT_TENANT', NULL
               FROM owners
              WHERE tenant_id BETWEEN (SELECT first FROM range) AND (SELECT last FROM range)
                AND NOT EXISTS (SELECT FROM next_tenant WHERE id = tenant_id)
              ORDER BY tenant_id LIMIT $3)
            UNION ALL
            (SELECT tenant_id, 'USAGE_COUNT_WITHOUT_TENANT', NULL
               FROM tenant_usage
              WHERE tenant_id BETWEEN (SELECT first FROM range) AND (SELECT last FROM range)
                AND NOT EXISTS (SELECT FROM next_tenant WHERE id = tenant_id)
              ORDER BY tenant_id LIMIT $3)
            UNION ALL
            (SELECT tenant_id, 'DANGLING_IDEMPOTENCY_RECORD', min(rpc)
               FROM idempotency_records
              WHERE tenant_id BETWEEN (SELECT first FROM range) AND (SELECT last FROM range)
                AND NOT EXISTS (SELECT FROM next_tenant WHERE id = tenant_id)
              GROUP BY tenant_id
              ORDER BY tenant_id LIMIT $3)
        ), chunk AS MATERIALIZED (
            -- The first ids of both. Each table has its own first ones, so none in between is missing.
            SELECT id
              FROM (SELECT id FROM next_tenant UNION SELECT id FROM stray) AS next
             ORDER BY id
             LIMIT (SELECT chunk_size FROM argument)
        ), tenant AS MATERIALIZED (
            SELECT next_tenant.* FROM next_tenant JOIN chunk ON chunk.id = next_tenant.id
        ), segment AS MATERIALIZED (
            -- GROUP BY, here and below: Postgres searches the rows of each tenant. Otherwise it may read those of all
            -- tenants.
            SELECT segment.*
              FROM tenant
             CROSS JOIN LATERAL (
                   SELECT tenant_id, id, slug, package_count
                     FROM segments
                    WHERE tenant_id = tenant.id
                    GROUP BY tenant_id, id) AS segment
        ), packages_of_segment AS MATERIALIZED (
            SELECT counted.*
              FROM tenant
             CROSS JOIN LATERAL (
                   SELECT tenant_id, segment_id, count(*)
                     FROM packages
                    WHERE tenant_id = tenant.id
                    GROUP BY tenant_id, segment_id) AS counted
        ), wrong_segment AS MATERIALIZED (
            -- The segments of packages that do not exist or belong to another tenant.
            SELECT tenant_id, segment_id
              FROM packages_of_segment
             WHERE (tenant_id, segment_id) NOT IN (SELECT tenant_id, id FROM segment)
        ), package_without_own_segment AS MATERIALIZED (
            -- The first packages in them, of each tenant.
            SELECT *
              FROM (SELECT package.*, row_number() OVER (PARTITION BY package.tenant_id ORDER BY package.slug) AS number
                      FROM wrong_segment AS wrong
                     CROSS JOIN LATERAL (
                           SELECT tenant_id, segment_id, slug
                             FROM packages
                            WHERE tenant_id = wrong.tenant_id AND segment_id = wrong.segment_id
                            GROUP BY tenant_id, id) AS package) AS package
             WHERE number <= $5
        ), foreign_segment AS MATERIALIZED (
            SELECT id FROM segments WHERE id IN (SELECT segment_id FROM package_without_own_segment)
        ), dangling_record AS MATERIALIZED (
            -- The first records of each tenant whose key does not exist or belongs to another tenant. The key of a
            -- record with deleted_key was deleted by the service.
            SELECT *
              FROM (SELECT tenant.id, slug, rpc, row_number() OVER (PARTITION BY tenant.id ORDER BY rpc) AS number
                      FROM tenant
                      JOIN idempotency_records AS record ON record.tenant_id = tenant.id
                     WHERE deleted_key IS NULL
                       AND NOT EXISTS (SELECT FROM api_keys
                                        WHERE key_id = record.key_id AND api_keys.tenant_id = tenant.id)) AS record
             WHERE number <= $5
        ), packages_of_tenant AS (
            SELECT tenant_id, sum(count) AS count FROM packages_of_segment GROUP BY tenant_id
        ), wrongly_counted AS MATERIALIZED (
            -- The tenants that have a segment with a wrong number of packages.
            SELECT DISTINCT segment.tenant_id
              FROM segment
              LEFT JOIN packages_of_segment AS actual
                ON actual.tenant_id = segment.tenant_id AND actual.segment_id = segment.id
             WHERE package_count <> coalesce(actual.count, 0)
        ), segments_of_tenant AS (
            SELECT tenant_id, count(*), bool_or(slug = $4) AS has_general FROM segment GROUP BY tenant_id
        ), actual AS MATERIALIZED (
            -- What the tenants have. The counters are NULL if a tenant has none.
            SELECT id, slug, package_count, segment_count,
                   coalesce(packages_of_tenant.count, 0) AS packages, coalesce(segments_of_tenant.count, 0) AS segments,
                   coalesce(has_general, false) AS has_general
              FROM tenant
              LEFT JOIN tenant_usage ON tenant_usage.tenant_id = tenant.id
              LEFT JOIN packages_of_tenant ON packages_of_tenant.tenant_id = tenant.id
              LEFT JOIN segments_of_tenant ON segments_of_tenant.tenant_id = tenant.id
        ), finding AS (
            SELECT id, slug, 'NO_GENERAL_SEGMENT' AS kind, NULL AS affected FROM actual WHERE NOT has_general
            UNION ALL
            SELECT id, slug, 'NO_PACKAGE', NULL FROM actual WHERE packages = 0
            UNION ALL
            SELECT id, slug, 'NO_API_KEY', NULL
              FROM tenant
             WHERE NOT EXISTS (SELECT FROM api_keys WHERE tenant_id = tenant.id)
            UNION ALL
            SELECT id, slug, 'SIGNUP_WITHOUT_OWNER', NULL
              FROM tenant
             WHERE is_signup AND NOT EXISTS (SELECT FROM owners WHERE tenant_id = tenant.id)
            UNION ALL
            SELECT tenant.id, tenant.slug,
                   CASE WHEN segment_id IN (SELECT id FROM foreign_segment) THEN 'PACKAGE_IN_FOREIGN_SEGMENT'
                        ELSE 'PACKAGE_WITHOUT_SEGMENT' END,
                   package_without_own_segment.slug
              FROM package_without_own_segment
              JOIN tenant ON tenant.id = tenant_id
            UNION ALL
            SELECT id, slug, 'DANGLING_IDEMPOTENCY_RECORD', rpc FROM dangling_record
            UNION ALL
            -- A tenant without any package or segment has the finding NO_PACKAGE or NO_GENERAL_SEGMENT instead. Its repair
            -- corrects the counters, too.
            SELECT id, slug, 'WRONG_USAGE_COUNT', 'packages' FROM actual WHERE package_count <> packages AND packages > 0
            UNION ALL
            SELECT id, slug, 'WRONG_USAGE_COUNT', 'segments' FROM actual WHERE segment_count <> segments AND segments > 0
            UNION ALL
            -- So does the repair of a tenant whose packages are counted wrongly in all, or are misplaced.
            SELECT id, slug, 'WRONG_USAGE_COUNT', 'packages in a segment'
              FROM actual
             WHERE id IN (SELECT tenant_id FROM wrongly_counted)
               AND packages > 0
               AND coalesce(package_count, packages) = packages
               AND id NOT IN (SELECT tenant_id FROM package_without_own_segment)
            UNION ALL
            SELECT stray.id, NULL, kind, affected FROM stray JOIN chunk ON chunk.id = stray.id
        )
        SELECT last_id_of_chunk, tenants_in_chunk AS "tenants_in_chunk!",
               id AS "tenant_id?", slug AS "slug?", kind AS "kind?", affected AS "affected?"
          FROM (SELECT (SELECT id FROM chunk ORDER BY id DESC LIMIT 1), (SELECT count(*) FROM tenant))
               AS chunk (last_id_of_chunk, tenants_in_chunk)
          LEFT JOIN finding ON true
         ORDER BY id, kind, affected
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

/// Finds owners whose canonical address is not that of their address. Only the domain can compute it, unless the
/// address is ASCII: then the constraint `owners_canonical_email_matches_email` holds. An address that the service
/// would refuse has no canonical form and is not a finding.
async fn find_wrong_emails(connection: &mut PooledConnection, ids: RangeInclusive<Uuid>) -> Result<Vec<Finding>> {
    let rows = sqlx::query!(
        r#"
        SELECT tenant_id, slug, email AS "email!", canonical_email
          FROM owners
          JOIN tenants ON tenants.id = tenant_id
         WHERE tenant_id BETWEEN $1 AND $2 AND octet_length(email) > length(email) AND length(email) <= $3
        "#,
        ids.start(),
        ids.end(),
        i32::try_from(Email::MAX_LENGTH).map_err(Error::internal)?,
    )
    .fetch_all(connection)
    .await?;
    let wrong = rows
        .into_iter()
        .filter(|row| Email::parse(&row.email).is_ok_and(|email| email.canonical() != row.canonical_email));
    let kind = FindingKind::WrongCanonicalEmail;
    let findings = wrong.map(|row| Finding {
        tenant_id: TenantId::from_uuid(row.tenant_id),
        slug: Some(row.slug),
        kind,
        detail: kind.detail(""),
    });
    Ok(findings.collect())
}
