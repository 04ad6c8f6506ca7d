//! Reads, lists and deletes segments. `segment_upsert.rs` creates and updates them.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Store,
    catalog_read::{CatalogTime, catalog_query},
    error::is_constraint_violation,
};
use crate::{
    domain::{
        Actor, Segment, SegmentId, TenantId,
        catalog::{CatalogIdentifier, Deletion, ListSegments},
        defaults,
        paging::{Cursor, ListRow},
    },
    error::{Error, Precondition, Resource, Result},
};

/// A [`catalog_query!`] of the segment that fulfils a condition on `$2`. Its row has no segment if only the tenant
/// exists.
macro_rules! find_segment {
    ($store:expr, $operation:literal, $tenant_id:expr, $condition:literal, $argument:expr) => {
        catalog_query!(
            $store,
            $operation,
            $tenant_id,
            SegmentRow,
            "
            SELECT segments.id, slug, name, hero_title, description, sort_order, active, created_at, updated_at,
                   external_id, revision,
                   coalesce(package_count, (SELECT count(*) FROM packages
                                             WHERE packages.tenant_id = $1 AND segment_id = segments.id))::int4
                       AS package_count
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS tenant
              LEFT JOIN segments ON segments.tenant_id = $1 AND "
                + $condition,
            $argument
        )
    };
}

impl Store {
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the segment.
    pub async fn get_segment(&self, tenant_id: TenantId, identifier: &CatalogIdentifier<SegmentId>) -> Result<Segment> {
        // A statement for each identifier: Postgres keeps one plan of a statement, which has to search one index.
        let rows = match identifier {
            CatalogIdentifier::Id(id) => {
                find_segment!(self, "get_segment", tenant_id, "segments.id = $2", id.as_uuid())
            }
            CatalogIdentifier::Slug(slug) => {
                let slug = slug.as_str().as_bytes();
                find_segment!(self, "get_segment_by_slug", tenant_id, "slug = convert_from($2, 'UTF8')", slug)
            }
            CatalogIdentifier::ExternalId(id) => {
                let id = id.as_str().as_bytes();
                find_segment!(
                    self,
                    "get_segment_by_external_id",
                    tenant_id,
                    "external_id = convert_from($2, 'UTF8')",
                    id
                )
            }
        };
        let rows = rows.await?;
        let row = rows.into_iter().next().ok_or(Error::not_found(Resource::Tenant))?;
        row.item.into_segment(tenant_id).ok_or(Error::not_found(Resource::Segment))
    }

    /// Returns up to `limit` segments, ordered by `sort_order` and id.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn list_segments(
        &self,
        tenant_id: TenantId,
        list: &ListSegments,
        limit: usize,
    ) -> Result<Vec<ListRow<Segment>>> {
        let (limit, after) = (i64::try_from(limit).map_err(Error::internal)?, list.after.unwrap_or(Cursor::START));
        let rows = catalog_query!(
            self,
            "list_segments",
            tenant_id,
            SegmentRow,
            "
            SELECT segment.id, slug, name, hero_title, description, sort_order, active, created_at, updated_at,
                   external_id, revision,
                   coalesce(package_count, (SELECT count(*) FROM packages
                                             WHERE packages.tenant_id = $1 AND segment_id = segment.id))::int4
                       AS package_count
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS tenant
              LEFT JOIN LATERAL (
                    SELECT * FROM segments
                     WHERE tenant_id = $1 AND coalesce(active = $2::bool, true)
                       AND (sort_order, id) > ($3::int8, $4::uuid)
                     ORDER BY sort_order, id LIMIT $5) AS segment ON true
             ORDER BY sort_order, segment.id
            ",
            list.active,
            after.order,
            after.id,
            limit,
        )
        .await?;
        if rows.is_empty() {
            return Err(Error::not_found(Resource::Tenant));
        }
        // The only row of an empty list has no segment.
        Ok(rows.into_iter().filter_map(|row| row.filter_map(|row| row.into_segment(tenant_id))).collect())
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the segment, [`Error::EtagMismatch`], [`Error::FailedPrecondition`] for
    /// General or with packages.
    pub async fn delete_segment(
        &self,
        tenant_id: TenantId,
        deletion: Deletion<SegmentId>,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<()> {
        let mut transaction = self.begin_as_catalog("delete_segment", tenant_id).await?;
        let row = sqlx::query!(
            r#"
            WITH deleted AS (
                DELETE FROM segments
                 WHERE tenant_id = $1 AND id = $2 AND slug <> $3
                   AND coalesce(revision, id) = coalesce($4, revision, id)
                   AND EXISTS (SELECT 1 FROM tenants WHERE id = $1 AND deleted_at IS NULL)
                   AND NOT EXISTS (SELECT 1 FROM packages WHERE packages.tenant_id = $1 AND segment_id = $2)
                RETURNING id
            ), new_usage AS (
                UPDATE tenant_usage SET segment_count = segment_count - 1
                 WHERE tenant_id = $1 AND EXISTS (SELECT 1 FROM deleted)
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT 'segment.deleted', $5, $1, $6, $7, jsonb_build_object('segment_id', id) FROM deleted
            )
            SELECT EXISTS (SELECT 1 FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS "has_tenant!",
                   (SELECT slug FROM segments WHERE tenant_id = $1 AND id = $2) AS slug,
                   EXISTS (SELECT 1 FROM segments
                            WHERE tenant_id = $1 AND id = $2 AND coalesce(revision, id) <> $4::uuid) AS "has_changed!",
                   EXISTS (SELECT 1 FROM deleted) AS "is_deleted!"
            "#,
            tenant_id.as_uuid(),
            deletion.id.as_uuid(),
            defaults::SEGMENT.slug,
            deletion.etag.map(|etag| etag.revision),
            now,
            &*actor.event_caller(),
            actor.trace_id(),
        )
        .fetch_one(transaction.connection())
        .await;
        let row = match row {
            // A transaction outside this service, which takes no lock, has added a package.
            Err(error) if is_constraint_violation(&error, "packages_segment_id_fkey") => {
                return Err(Precondition::SegmentNotEmpty.into());
            }
            row => row?,
        };
        transaction.commit().await?;
        match (row.is_deleted, row.has_tenant, row.slug.as_deref()) {
            // What else the row says of a deleted segment depends on the engine, as in `delete_package`.
            (true, ..) => Ok(()),
            (false, false, _) => Err(Error::not_found(Resource::Tenant)),
            (false, true, None) => Err(Error::not_found(Resource::Segment)),
            (false, true, Some(_)) if row.has_changed => Err(Error::EtagMismatch(Resource::Segment)),
            (false, true, Some(slug)) if slug == defaults::SEGMENT.slug => Err(Precondition::DefaultSegment.into()),
            (false, true, Some(_)) => Err(Precondition::SegmentNotEmpty.into()),
        }
    }
}

/// The columns of a segment. All are NULL in the row of a tenant without the segment.
#[derive(sqlx::FromRow)]
struct SegmentRow {
    id: Option<Uuid>,
    slug: Option<String>,
    name: Option<String>,
    hero_title: Option<String>,
    description: Option<String>,
    sort_order: Option<i32>,
    active: Option<bool>,
    #[sqlx(try_from = "CatalogTime")]
    created_at: Option<OffsetDateTime>,
    #[sqlx(try_from = "CatalogTime")]
    updated_at: Option<OffsetDateTime>,
    external_id: Option<String>,
    revision: Option<Uuid>,
    package_count: Option<i32>,
}

impl SegmentRow {
    fn into_segment(self, tenant_id: TenantId) -> Option<Segment> {
        Some(Segment {
            id: SegmentId::from_uuid(self.id?),
            tenant_id,
            slug: self.slug?,
            name: self.name?,
            hero_title: self.hero_title?,
            description: self.description?,
            sort_order: self.sort_order?,
            active: self.active?,
            created_at: self.created_at?,
            updated_at: self.updated_at?,
            external_id: self.external_id,
            revision: self.revision,
            package_count: self.package_count?,
        })
    }
}
