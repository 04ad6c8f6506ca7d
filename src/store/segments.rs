//! Segments of one tenant.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Store, catalog_read::catalog_query, error::is_constraint_violation, package_upsert::parse_upsert_error,
    pool::PooledConnection,
};
use crate::{
    domain::{
        Segment, SegmentId, TenantId,
        catalog::{ListSegments, Problem, SegmentUpsert, UpsertResult},
        defaults,
    },
    error::{Error, Precondition, Resource, Result},
};

/// The segment in a row, whatever else the row has; `None` where an outer join found none.
macro_rules! segment_from_row {
    ($row:expr, $tenant_id:expr) => {
        (|| {
            Some(Segment {
                id: SegmentId::from_uuid($row.id?),
                tenant_id: $tenant_id,
                slug: $row.slug?,
                name: $row.name?,
                hero_title: $row.hero_title?,
                description: $row.description?,
                sort_order: $row.sort_order?,
                active: $row.active?,
                created_at: $row.created_at?,
                updated_at: $row.updated_at?,
            })
        })()
    };
}

impl Store {
    /// Creates or changes a segment, or answers what stands against it. The statement is that of packages in small: it
    /// looks, judges and writes, and the tenant's lock makes that safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant, [`Error::Conflict`] where hands in psql were faster; those of the database.
    pub async fn upsert_segment(
        &self,
        tenant_id: TenantId,
        upsert: &SegmentUpsert,
        new_id: SegmentId,
        now: OffsetDateTime,
    ) -> Result<std::result::Result<UpsertResult<Segment>, Problem>> {
        let mut transaction = self.begin_as_catalog("upsert_segment", tenant_id).await?;
        let judged = upsert_row(transaction.connection(), tenant_id, upsert, new_id, now).await;
        let outcome = match judged {
            Err(error) if is_constraint_violation(&error, "segments_slug_key") => return Err(Error::Conflict),
            Err(error) => return Err(error.into()),
            Ok(None) => Err(Error::not_found(Resource::Tenant)),
            Ok(Some(UpsertRow { problem: Some(problem), .. })) => parse_upsert_error(&problem).map(Err),
            Ok(Some(UpsertRow { created, segment: Some(item), .. })) => Ok(Ok(UpsertResult { created, item })),
            Ok(Some(_)) => Err(Error::internal("an upsert without a problem left no segment")),
        };
        let ended =
            if matches!(outcome, Ok(Ok(_))) { transaction.commit().await } else { transaction.rollback().await };
        ended?;
        outcome
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the segment; those of the database.
    pub async fn get_segment(&self, tenant_id: TenantId, segment_id: SegmentId) -> Result<Segment> {
        let rows = catalog_query!(
            self,
            "get_segment",
            tenant_id,
            SegmentRow,
            "
            SELECT segments.id, slug, name, hero_title, description, sort_order, active, created_at, updated_at
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS tenant
              LEFT JOIN segments ON segments.tenant_id = $1 AND segments.id = $2
            ",
            segment_id.as_uuid(),
        )
        .await?;
        let row = rows.into_iter().next().ok_or(Error::not_found(Resource::Tenant))?;
        segment_from_row!(row, tenant_id).ok_or(Error::not_found(Resource::Segment))
    }

    /// Up to `limit` segments by `sort_order`, then by id.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant; those of the database.
    pub async fn list_segments(&self, tenant_id: TenantId, list: &ListSegments, limit: usize) -> Result<Vec<Segment>> {
        let limit = i64::try_from(limit).map_err(Error::internal)?;
        let rows = catalog_query!(
            self,
            "list_segments",
            tenant_id,
            SegmentRow,
            "
            SELECT segment.*
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS tenant
              LEFT JOIN LATERAL (
                    SELECT id, slug, name, hero_title, description, sort_order, active, created_at, updated_at
                      FROM segments
                     WHERE tenant_id = $1 AND ($2::int8 IS NULL OR (sort_order, id) > ($2, $3::uuid))
                     ORDER BY sort_order, id
                     LIMIT $4
                   ) AS segment ON true
             ORDER BY sort_order, segment.id
            ",
            list.after.map(|after| after.order),
            list.after.map(|after| after.id),
            limit,
        )
        .await?;
        if rows.is_empty() {
            return Err(Error::not_found(Resource::Tenant));
        }
        Ok(rows.into_iter().filter_map(|row| segment_from_row!(row, tenant_id)).collect())
    }

    /// Deletes a segment that is empty and not General.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the segment, [`Error::FailedPrecondition`]; those of the database.
    pub async fn delete_segment(&self, tenant_id: TenantId, segment_id: SegmentId) -> Result<()> {
        let mut transaction = self.begin_as_catalog("delete_segment", tenant_id).await?;
        let row = sqlx::query!(
            r#"
            WITH deleted AS (
                DELETE FROM segments
                 WHERE tenant_id = $1 AND id = $2 AND slug <> $3
                   AND EXISTS (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL)
                   AND NOT EXISTS (SELECT FROM packages WHERE packages.tenant_id = $1 AND segment_id = $2)
                RETURNING id
            )
            SELECT EXISTS (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS "has_tenant!",
                   (SELECT slug FROM segments WHERE tenant_id = $1 AND id = $2) AS slug,
                   EXISTS (SELECT FROM deleted) AS "is_deleted!"
            "#,
            tenant_id.as_uuid(),
            segment_id.as_uuid(),
            defaults::SEGMENT.slug,
        )
        .fetch_one(transaction.connection())
        .await;
        let row = match row {
            // Hands in psql put a package in meanwhile.
            Err(error) if is_constraint_violation(&error, "packages_segment_id_fkey") => {
                return Err(Error::FailedPrecondition(Precondition::SegmentNotEmpty));
            }
            row => row?,
        };
        transaction.commit().await?;
        match (row.has_tenant, row.slug.as_deref(), row.is_deleted) {
            (false, ..) => Err(Error::not_found(Resource::Tenant)),
            (true, None, _) => Err(Error::not_found(Resource::Segment)),
            (true, Some(slug), false) if slug == defaults::SEGMENT.slug => {
                Err(Error::FailedPrecondition(Precondition::DefaultSegment))
            }
            (true, Some(_), false) => Err(Error::FailedPrecondition(Precondition::SegmentNotEmpty)),
            (true, Some(_), true) => Ok(()),
        }
    }
}

/// A segment, or the tenant alone where it has no such segment.
#[derive(sqlx::FromRow)]
struct SegmentRow {
    id: Option<Uuid>,
    slug: Option<String>,
    name: Option<String>,
    hero_title: Option<String>,
    description: Option<String>,
    sort_order: Option<i32>,
    active: Option<bool>,
    created_at: Option<OffsetDateTime>,
    updated_at: Option<OffsetDateTime>,
}

/// What the statement says.
struct UpsertRow {
    problem: Option<String>,
    created: bool,
    segment: Option<Segment>,
}

/// `None` where there is no such tenant. What has a problem is not written.
async fn upsert_row(
    connection: &mut PooledConnection,
    tenant_id: TenantId,
    upsert: &SegmentUpsert,
    new_id: SegmentId,
    now: OffsetDateTime,
) -> sqlx::Result<Option<UpsertRow>> {
    let row = sqlx::query!(
        r#"
        WITH target AS (
            SELECT id, slug
              FROM segments
             WHERE tenant_id = $1 AND (id = $2 OR ($2::uuid IS NULL AND slug = $3))
        ), judged AS MATERIALIZED (
            SELECT (SELECT id FROM target) AS target_id,
                   CASE
                       WHEN $2::uuid IS NOT NULL AND NOT EXISTS (SELECT FROM target) THEN 'NOT_FOUND'
                       WHEN NOT EXISTS (SELECT FROM target) AND $6::text IS NULL THEN 'INCOMPLETE'
                       WHEN EXISTS (SELECT FROM target WHERE slug = $13 AND slug <> $3) THEN 'DEFAULT_SEGMENT'
                       WHEN EXISTS (SELECT FROM segments, target
                                     WHERE segments.tenant_id = $1 AND segments.slug = $3
                                       AND segments.id <> target.id) THEN 'SLUG_TAKEN'
                   END AS problem
              FROM tenants
             WHERE id = $1 AND deleted_at IS NULL
        ), inserted AS (
            INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                  created_at, updated_at)
            SELECT $1, $11,
                   coalesce($3,
                            (SELECT candidate.slug
                               FROM generate_series($5::int4,
                                                    $5::int4 + (SELECT count(*) FROM segments
                                                                 WHERE tenant_id = $1)::int4) AS suffix
                              CROSS JOIN LATERAL (
                                     SELECT CASE suffix
                                                WHEN 1 THEN $4::text
                                                ELSE rtrim(left($4, 62 - length(suffix::text)), '-') || '-' || suffix
                                            END) AS candidate (slug)
                              WHERE NOT EXISTS (SELECT FROM segments
                                                 WHERE tenant_id = $1 AND segments.slug = candidate.slug)
                              ORDER BY suffix
                              LIMIT 1)),
                   $6, coalesce($7, $6), coalesce($8, ''),
                   coalesce($9::int4, least(2147483647,
                                      coalesce((SELECT max(sort_order) FROM segments WHERE tenant_id = $1), 0)::int8
                                      + 1))::int4,
                   coalesce($10, true), $12, $12
              FROM judged
             WHERE problem IS NULL AND target_id IS NULL
            RETURNING *
        ), updated AS (
            UPDATE segments
               SET slug = coalesce($3, slug), name = coalesce($6, name), hero_title = coalesce($7, hero_title),
                   description = coalesce($8, description), sort_order = coalesce($9::int4, sort_order),
                   active = coalesce($10, active), updated_at = $12
              FROM judged
             WHERE problem IS NULL AND tenant_id = $1 AND id = judged.target_id
               AND (coalesce($3, slug), coalesce($6, name), coalesce($7, hero_title), coalesce($8, description),
                    coalesce($9::int4, sort_order), coalesce($10, active))
                   IS DISTINCT FROM (slug, name, hero_title, description, sort_order, active)
            RETURNING segments.*
        ), segment AS (
            SELECT * FROM inserted
             UNION ALL
            SELECT * FROM updated
             UNION ALL
            SELECT segments.*
              FROM judged
              JOIN segments ON tenant_id = $1 AND id = judged.target_id
             WHERE problem IS NULL AND NOT EXISTS (SELECT FROM updated)
        )
        SELECT judged.problem AS "problem?", judged.target_id IS NULL AS "created!",
               segment.id AS "id?", segment.slug AS "slug?", segment.name AS "name?",
               segment.hero_title AS "hero_title?", segment.description AS "description?",
               segment.sort_order AS "sort_order?", segment.active AS "active?",
               segment.created_at AS "created_at?", segment.updated_at AS "updated_at?"
          FROM judged
          LEFT JOIN segment ON true
        "#,
        tenant_id.as_uuid(),
        upsert.target.id().map(SegmentId::as_uuid),
        upsert.target.slug(),
        upsert.target.stem().map(super::super::domain::derived_slug::SlugStem::as_str),
        upsert.target.stem().map(super::super::domain::derived_slug::SlugStem::first_suffix),
        upsert.name.as_ref().map(super::super::domain::text::DisplayName::as_str),
        upsert.hero_title.as_ref().map(super::super::domain::text::DisplayName::as_str),
        upsert.description.as_ref().map(super::super::domain::text::Description::as_str),
        upsert.sort_order,
        upsert.active,
        new_id.as_uuid(),
        now,
        defaults::SEGMENT.slug,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| UpsertRow {
        problem: row.problem.clone(),
        created: row.created,
        segment: segment_from_row!(row, tenant_id),
    }))
}
