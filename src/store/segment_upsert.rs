//! Creates or updates a segment. `slug_search.rs` chooses the slug of a segment without one; `segments.rs` reads and
//! deletes segments.

use std::{collections::HashSet, num::NonZeroU32};

use sqlx::types::Json;
use time::OffsetDateTime;

use super::{
    Store,
    error::is_constraint_violation,
    pool::PooledConnection,
    slug_search::{SluggedTable, generate_slugs},
};
use crate::{
    domain::{
        Actor, Description, DisplayName, ExternalId, Segment, SegmentId, Slug, TenantId,
        catalog::{SegmentUpsert, SegmentUpsertOutcome, UpsertResult},
        defaults,
    },
    error::{Error, Resource, Result},
};

impl Store {
    /// Creates or updates a segment. It creates none if the tenant would then have more than `max_segments`. A dry run
    /// is as in [`Store::upsert_packages`].
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant, [`Error::Conflict`] if a transaction outside this service, which takes no
    /// lock, has used the slug or the external id meanwhile.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the change")]
    pub async fn upsert_segment(
        &self,
        tenant_id: TenantId,
        upsert: &SegmentUpsert,
        new_id: SegmentId,
        max_segments: NonZeroU32,
        actor: &Actor,
        now: OffsetDateTime,
        dry_run: bool,
    ) -> Result<SegmentUpsertOutcome> {
        let mut transaction = self.begin_as_catalog("upsert_segment", tenant_id).await?;
        let connection = transaction.connection();
        let (table, stem) = (SluggedTable::Segments, upsert.target.stem());
        let slugs = generate_slugs(connection, table, tenant_id, stem, HashSet::new()).await?;
        let row = upsert_row(connection, tenant_id, upsert, slugs.first(), new_id, max_segments, actor, now).await;
        let row = match row {
            Err(error)
                if is_constraint_violation(&error, "segments_slug_key")
                    || is_constraint_violation(&error, "segments_external_id_key") =>
            {
                return Err(Error::Conflict);
            }
            row => row?,
        };
        if dry_run {
            transaction.rollback().await?;
        } else {
            // An upsert with an error has written nothing.
            transaction.commit().await?;
        }
        outcome(row, new_id)
    }
}

/// The segment, or why the upsert wrote nothing.
struct UpsertRow {
    error: Option<String>,
    segment: Option<Json<Segment>>,
}

/// Returns `None` if the tenant does not exist. A segment with an error is not written.
///
/// The statement is that of `package_upsert.rs` for a single item.
#[expect(clippy::too_many_lines, clippy::too_many_arguments, reason = "a single SQL statement")]
async fn upsert_row(
    connection: &mut PooledConnection,
    tenant_id: TenantId,
    upsert: &SegmentUpsert,
    generated_slug: Option<&Slug>,
    new_id: SegmentId,
    max_segments: NonZeroU32,
    actor: &Actor,
    now: OffsetDateTime,
) -> sqlx::Result<Option<UpsertRow>> {
    sqlx::query_as!(
        UpsertRow,
        r#"
        WITH target AS (
            -- The existing segment, if there is one.
            SELECT id, slug, revision, external_id FROM segments WHERE tenant_id = $1 AND id = $2::uuid
             UNION ALL
            SELECT id, slug, revision, external_id FROM segments
             WHERE tenant_id = $1 AND external_id = $15::text AND $2 IS NULL
             UNION ALL
            SELECT id, slug, revision, external_id FROM segments
             WHERE tenant_id = $1 AND slug = $3 AND $2 IS NULL
               -- Not a join, in which Postgres might compare all segments with each other.
               AND (SELECT true FROM segments WHERE tenant_id = $1 AND external_id = $15) IS NULL
        ), usage AS MATERIALIZED (
            -- What the tenant has. The rows are counted only if it has no counters.
            SELECT coalesce(package_count, (SELECT count(*) FROM packages WHERE tenant_id = $1)) AS package_count,
                   coalesce(segment_count, (SELECT count(*) FROM segments WHERE tenant_id = $1)) AS segment_count
              FROM (SELECT) AS one_row
              LEFT JOIN tenant_usage ON tenant_usage.tenant_id = $1
        ), validated_item AS MATERIALIZED (
            -- The target and the error; no row if the tenant does not exist.
            SELECT (SELECT id FROM target) AS target_id,
                   CASE
                       WHEN $2 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM target) THEN 'NOT_FOUND'
                       WHEN $14::uuid IS NOT NULL
                            AND NOT EXISTS (SELECT 1 FROM target WHERE coalesce(revision, id) = $14) THEN 'ETAG_MISMATCH'
                       WHEN NOT EXISTS (SELECT 1 FROM target) AND ($4::text IS NULL OR coalesce($3, $7::text) IS NULL)
                           THEN 'INCOMPLETE'
                       WHEN EXISTS (SELECT 1 FROM target WHERE slug = $5 AND slug <> $3) THEN 'DEFAULT_SEGMENT'
                       WHEN (SELECT external_id FROM target) <> $15 THEN 'EXTERNAL_ID_SET'
                       WHEN (SELECT id FROM segments WHERE tenant_id = $1 AND external_id = $15)
                            <> (SELECT id FROM target) THEN 'EXTERNAL_ID_TAKEN'
                       WHEN (SELECT id FROM segments WHERE tenant_id = $1 AND slug = $3) <> (SELECT id FROM target)
                           THEN CASE WHEN $2 IS NULL THEN 'EXTERNAL_ID_TAKEN' ELSE 'SLUG_TAKEN' END
                       WHEN NOT EXISTS (SELECT 1 FROM target) AND (SELECT segment_count FROM usage) >= $13
                           THEN 'QUOTA_EXCEEDED'
                   END AS error
              FROM tenants
             WHERE id = $1 AND deleted_at IS NULL
        ), inserted AS (
            -- The new segment. Without a sort order it follows all others.
            INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                  created_at, updated_at, external_id, package_count)
            SELECT $1, $6, coalesce($3, $7), $4, coalesce($8, $4), coalesce($9, ''),
                   coalesce($10::int4,
                            least(2147483647,
                                  coalesce((SELECT sort_order FROM segments WHERE tenant_id = $1
                                             ORDER BY sort_order DESC LIMIT 1), 0)::int8
                                  + 1))::int4,
                   coalesce($11, true), $12, $12, $15, 0
              FROM validated_item
             WHERE error IS NULL AND target_id IS NULL
            RETURNING *
        ), new_usage AS (
            INSERT INTO tenant_usage (tenant_id, package_count, segment_count)
            SELECT $1, package_count, segment_count + 1 FROM usage WHERE EXISTS (SELECT 1 FROM inserted)
            ON CONFLICT ON CONSTRAINT tenant_usage_pkey DO UPDATE
               SET package_count = excluded.package_count, segment_count = excluded.segment_count
        ), previous AS MATERIALIZED (
            -- The target as it was. Before the update, whose result later steps see on Citus.
            SELECT segments.* FROM validated_item JOIN segments ON tenant_id = $1 AND id = target_id WHERE error IS NULL
        ), updated AS (
            -- The changed segment. An update that changes nothing does not touch updated_at.
            UPDATE segments
               SET slug = coalesce($3, slug), name = coalesce($4, name), hero_title = coalesce($8, hero_title),
                   description = coalesce($9, description), sort_order = coalesce($10::int4, sort_order),
                   active = coalesce($11, active), external_id = coalesce(external_id, $15), updated_at = $12
              FROM validated_item
             WHERE error IS NULL AND tenant_id = $1 AND id = target_id
               AND (coalesce($3, slug), coalesce($4, name), coalesce($8, hero_title), coalesce($9, description),
                    coalesce($10::int4, sort_order), coalesce($11, active), coalesce(external_id, $15))
                   IS DISTINCT FROM (slug, name, hero_title, description, sort_order, active, external_id)
            RETURNING segments.*
        ), new_event AS (
            INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
            SELECT 'segment.created', $12, $1, $16::text, $17::text,
                   jsonb_build_object('segment_id', id, 'slug', slug, 'name', name)
              FROM inserted
             UNION ALL
            SELECT 'segment.updated', $12, $1, $16, $17,
                   jsonb_build_object('segment_id', updated.id)
                   || changed_columns(to_jsonb(previous), to_jsonb(updated))
              FROM updated
              JOIN previous ON previous.id = updated.id
        ), segment AS (
            -- The segment as it is now.
            SELECT * FROM inserted
             UNION ALL
            SELECT * FROM updated
             UNION ALL
            SELECT * FROM previous WHERE NOT EXISTS (SELECT 1 FROM updated)
        )
        SELECT error,
               to_jsonb(segment)
               || jsonb_build_object('package_count',
                                     coalesce(package_count, (SELECT count(*) FROM packages
                                                               WHERE tenant_id = $1 AND segment_id = segment.id)))
                   AS "segment: Json<Segment>"
          FROM validated_item
          LEFT JOIN segment ON true
        "#,
        tenant_id.as_uuid(),
        upsert.target.id().map(SegmentId::as_uuid),
        upsert.target.slug(),
        upsert.name.as_ref().map(DisplayName::as_str),
        defaults::SEGMENT.slug,
        new_id.as_uuid(),
        generated_slug.map(Slug::as_str),
        upsert.hero_title.as_ref().map(DisplayName::as_str),
        upsert.description.as_ref().map(Description::as_str),
        upsert.sort_order,
        upsert.active,
        now,
        i64::from(max_segments.get()),
        upsert.etag.map(|etag| etag.revision),
        upsert.external_id.as_ref().map(ExternalId::as_str),
        &*actor.event_caller(),
        actor.trace_id(),
    )
    .fetch_optional(connection)
    .await
}

fn outcome(row: Option<UpsertRow>, new_id: SegmentId) -> Result<SegmentUpsertOutcome> {
    let row = row.ok_or(Error::not_found(Resource::Tenant))?;
    if let Some(error) = row.error {
        return Ok(Err(error.parse().map_err(Error::internal)?));
    }
    let missing = || Error::internal("the upsert of a valid segment returned no segment");
    let Json(item) = row.segment.ok_or_else(missing)?;
    Ok(Ok(UpsertResult { created: item.id == new_id, item, previous: None }))
}
