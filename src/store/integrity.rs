//! Damage, found in passes by keyset.
//!
//! A pass is many short statements, each over so many rows and no more: memory is bounded, no transaction stays open, and
//! nobody waits for it.

use std::ops::RangeInclusive;

use futures_util::{Stream, stream};
use uuid::Uuid;

use super::Store;
use crate::{
    domain::{
        TenantId,
        integrity::{Finding, FindingKind, IntegrityChunk, IntegritySubject},
    },
    error::{Error, Result},
};

/// Rows in a statement.
const CHUNK: i64 = 1_000;

/// A finding, or, without a kind, how far the statement got.
struct FindingRow {
    tenant_id: Option<Uuid>,
    slug: Option<String>,
    kind: Option<String>,
    subject: Option<String>,
    checked_count: Option<i64>,
}

impl FindingRow {
    fn into_finding(self) -> Result<Finding> {
        let kind = self.kind.as_deref().and_then(FindingKind::from_name);
        let kind = kind.ok_or_else(|| Error::internal("a finding of no known kind"))?;
        let tenant_id = self.tenant_id.ok_or_else(|| Error::internal("a finding about nothing"))?;
        Ok(Finding {
            tenant_id: TenantId::from_uuid(tenant_id),
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
        stream::try_unfold(Some(*ids.start()), move |next_id| {
            let store = store.clone();
            async move {
                let Some(first) = next_id.filter(|id| *id <= last) else { return Ok(None) };
                let rows = match subject {
                    IntegritySubject::Tenants => store.check_tenants(first..=last).await?,
                    IntegritySubject::Owners => store.check_owners(first..=last).await?,
                    IntegritySubject::IdempotencyRecords => store.check_idempotency_records(first..=last).await?,
                };
                let (chunk, last_id) = into_chunk(rows)?;
                let next_id = last_id.and_then(|id| id.as_u128().checked_add(1)).map(Uuid::from_u128);
                Ok(Some((chunk, next_id)))
            }
        })
    }

    /// Looks at the first tenants with such ids, and answers what is wrong with them and the last of their ids; none where
    /// there are no such tenants.
    ///
    /// # Errors
    /// Those of the database.
    async fn check_tenants(&self, ids: RangeInclusive<Uuid>) -> Result<Vec<FindingRow>> {
        let rows = sqlx::query_as!(
            FindingRow,
            r#"
            WITH chunk AS MATERIALIZED (
                SELECT id, slug, is_signup
                  FROM tenants
                 WHERE id BETWEEN $1 AND $2
                 ORDER BY id
                 LIMIT $3
            ), orphaned_package AS MATERIALIZED (
                SELECT chunk.id, chunk.slug AS tenant_slug, packages.slug, packages.segment_id
                  FROM chunk
                  JOIN packages ON packages.tenant_id = chunk.id
                  LEFT JOIN segments ON segments.tenant_id = chunk.id AND segments.id = packages.segment_id
                 WHERE segments.id IS NULL
            ), foreign_segment AS MATERIALIZED (
                -- Segments have no index by their id alone: they are gone through once, and only if there is a orphaned_package.
                SELECT id FROM segments WHERE id IN (SELECT segment_id FROM orphaned_package)
            ), finding AS (
                SELECT id, slug, 'NO_GENERAL_SEGMENT' AS kind, NULL AS subject
                  FROM chunk
                 WHERE NOT EXISTS (SELECT FROM segments WHERE tenant_id = chunk.id AND segments.slug = 'general')
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
                  FROM orphaned_package
            )
            (SELECT id AS tenant_id, slug, kind, subject, NULL::int8 AS checked_count FROM finding ORDER BY id, kind, subject)
            UNION ALL
            (SELECT id, NULL, NULL, NULL, (SELECT count(*) FROM chunk) FROM chunk ORDER BY id DESC LIMIT 1)
            "#,
            ids.start(),
            ids.end(),
            CHUNK,
        )
        .fetch_all(&mut self.acquire("check_tenants").await?)
        .await?;
        Ok(rows)
    }

    /// The same for owners whose tenant is missing.
    ///
    /// # Errors
    /// Those of the database.
    async fn check_owners(&self, ids: RangeInclusive<Uuid>) -> Result<Vec<FindingRow>> {
        let rows = sqlx::query_as!(
            FindingRow,
            r#"
            WITH chunk AS MATERIALIZED (
                SELECT tenant_id
                  FROM owners
                 WHERE tenant_id BETWEEN $1 AND $2
                 ORDER BY tenant_id
                 LIMIT $3
            )
            (SELECT tenant_id, NULL AS slug, 'OWNER_WITHOUT_TENANT' AS kind, NULL AS subject, NULL::int8 AS checked_count
               FROM chunk
              WHERE NOT EXISTS (SELECT FROM tenants WHERE id = chunk.tenant_id)
              ORDER BY tenant_id)
            UNION ALL
            (SELECT tenant_id, NULL, NULL, NULL, 0 FROM chunk ORDER BY tenant_id DESC LIMIT 1)
            "#,
            ids.start(),
            ids.end(),
            CHUNK,
        )
        .fetch_all(&mut self.acquire("check_owners").await?)
        .await?;
        Ok(rows)
    }

    /// The same for claims whose tenant or key is missing, tenant by tenant.
    ///
    /// # Errors
    /// Those of the database.
    async fn check_idempotency_records(&self, ids: RangeInclusive<Uuid>) -> Result<Vec<FindingRow>> {
        // By tenant, of which a claim without a tenant has one too: whole tenants, so that none is cut in two.
        let rows = sqlx::query_as!(
            FindingRow,
            r#"
            WITH chunk AS MATERIALIZED (
                SELECT DISTINCT tenant_id
                  FROM idempotency_records
                 WHERE tenant_id BETWEEN $1 AND $2
                 ORDER BY tenant_id
                 LIMIT $3
            )
            (SELECT chunk.tenant_id, tenants.slug AS "slug?", 'DANGLING_IDEMPOTENCY_RECORD' AS kind, rpc AS subject,
                    NULL::int8 AS checked_count
               FROM chunk
               JOIN idempotency_records AS claim ON claim.tenant_id = chunk.tenant_id
               LEFT JOIN tenants ON tenants.id = chunk.tenant_id
              WHERE tenants.id IS NULL
                 -- That all of its keys are gone is a finding of its own.
                 OR (NOT EXISTS (SELECT FROM api_keys WHERE key_id = claim.key_id)
                     AND EXISTS (SELECT FROM api_keys WHERE api_keys.tenant_id = chunk.tenant_id))
              ORDER BY chunk.tenant_id, rpc)
            UNION ALL
            (SELECT tenant_id, NULL, NULL, NULL, 0 FROM chunk ORDER BY tenant_id DESC LIMIT 1)
            "#,
            ids.start(),
            ids.end(),
            CHUNK,
        )
        .fetch_all(&mut self.acquire("check_idempotency_records").await?)
        .await?;
        Ok(rows)
    }

    /// How many tenants there are, for whoever wants to know how far along a pass is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn count_tenants(&self) -> Result<u64> {
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM tenants"#)
            .fetch_one(&mut self.acquire("count_tenants").await?)
            .await;
        Ok(count?.unsigned_abs())
    }
}

fn into_chunk(rows: Vec<FindingRow>) -> Result<(IntegrityChunk, Option<Uuid>)> {
    let (ends, findings): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.kind.is_none());
    let findings = findings.into_iter().map(FindingRow::into_finding).collect::<Result<_>>()?;
    // None where there was nothing left to look at.
    let end = ends.into_iter().next();
    let tenants = end.as_ref().and_then(|end| end.checked_count).unwrap_or_default().unsigned_abs();
    Ok((IntegrityChunk { tenants, findings }, end.and_then(|end| end.tenant_id)))
}
