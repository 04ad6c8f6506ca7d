//! Reads, lists and deletes packages. `package_upsert.rs` creates and updates them.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Store,
    catalog_read::{CatalogTime, catalog_query},
    error::is_constraint_violation,
};
use crate::{
    domain::{
        Actor, Package, PackageId, SegmentId, TenantId,
        catalog::{CatalogIdentifier, Deletion, ListPackages},
        paging::{Cursor, ListRow},
    },
    error::{Error, Precondition, Resource, Result},
};

/// A [`catalog_query!`] of the package that fulfils a condition on `$2`. Its row has no package if only the tenant
/// exists.
macro_rules! find_package {
    ($store:expr, $operation:literal, $tenant_id:expr, $condition:literal, $argument:expr) => {
        catalog_query!(
            $store,
            $operation,
            $tenant_id,
            PackageRow,
            "
            SELECT packages.id, segment_id, slug, name, description, base_price, booking_type::text, grouping_order, active,
                   created_at, updated_at, external_id, revision, NULL AS error
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS tenant
              LEFT JOIN packages ON packages.tenant_id = $1 AND " + $condition,
            $argument
        )
    };
}

impl Store {
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the package.
    pub async fn get_package(&self, tenant_id: TenantId, identifier: &CatalogIdentifier<PackageId>) -> Result<Package> {
        // A statement for each identifier: Postgres keeps one plan of a statement, which has to search one index.
        let rows = match identifier {
            CatalogIdentifier::Id(id) => {
                find_package!(self, "get_package", tenant_id, "packages.id = $2", id.as_uuid())
            }
            CatalogIdentifier::Slug(slug) => {
                let slug = slug.as_str().as_bytes();
                find_package!(self, "get_package_by_slug", tenant_id, "slug = convert_from($2, 'UTF8')", slug)
            }
            CatalogIdentifier::ExternalId(id) => {
                let id = id.as_str().as_bytes();
                find_package!(
                    self,
                    "get_package_by_external_id",
                    tenant_id,
                    "external_id = convert_from($2, 'UTF8')",
                    id
                )
            }
        };
        let rows = rows.await?;
        let row = rows.into_iter().next().ok_or(Error::not_found(Resource::Tenant))?;
        row.item.into_package(tenant_id).ok_or(Error::not_found(Resource::Package))
    }

    /// Returns up to `limit` packages, ordered by `grouping_order` and id.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the filter's segment.
    pub async fn list_packages(
        &self,
        tenant_id: TenantId,
        list: &ListPackages,
        limit: usize,
    ) -> Result<Vec<ListRow<Package>>> {
        let (limit, after) = (i64::try_from(limit).map_err(Error::internal)?, list.after.unwrap_or(Cursor::START));
        let rows = match list.filter.segment_id {
            None => self.page_of_tenant(tenant_id, list.filter.active, after, limit).await?,
            Some(segment_id) => self.page_of_segment(tenant_id, segment_id, list.filter.active, after, limit).await?,
        };
        let first = rows.first().ok_or(Error::not_found(Resource::Tenant))?;
        if first.item.error.is_some() {
            return Err(Error::not_found(Resource::Segment));
        }
        // The only row of an empty list has no package.
        Ok(rows.into_iter().filter_map(|row| row.filter_map(|row| row.into_package(tenant_id))).collect())
    }

    /// Returns no rows if the tenant does not exist.
    async fn page_of_tenant(
        &self,
        tenant_id: TenantId,
        active: Option<bool>,
        after: Cursor,
        limit: i64,
    ) -> Result<Vec<ListRow<PackageRow>>> {
        catalog_query!(
            self,
            "list_packages",
            tenant_id,
            PackageRow,
            "
            SELECT package.id, segment_id, slug, name, description, base_price, booking_type::text, grouping_order,
                   active, created_at, updated_at, external_id, revision, NULL::text AS error
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS tenant
              -- The active and the inactive packages are each one range of an index in this order.
              LEFT JOIN LATERAL (
                    (SELECT * FROM packages
                      WHERE tenant_id = $1
                        AND coalesce($2::bool, true) AND active
                        AND (grouping_order, id) > ($3::int8, $4::uuid)
                      ORDER BY grouping_order, id LIMIT $5)
                     UNION ALL
                    (SELECT * FROM packages
                      WHERE tenant_id = $1
                        AND NOT coalesce($2, false) AND NOT active
                        AND (grouping_order, id) > ($3, $4)
                      ORDER BY grouping_order, id LIMIT $5)
                     ORDER BY grouping_order, id LIMIT $5) AS package ON true
             ORDER BY grouping_order, package.id
            ",
            active,
            after.order,
            after.id,
            limit,
        )
        .await
    }

    /// As [`Self::page_of_tenant`], by another index. The rows have an error if the segment does not exist.
    async fn page_of_segment(
        &self,
        tenant_id: TenantId,
        segment_id: SegmentId,
        active: Option<bool>,
        after: Cursor,
        limit: i64,
    ) -> Result<Vec<ListRow<PackageRow>>> {
        catalog_query!(
            self,
            "list_packages_of_segment",
            tenant_id,
            PackageRow,
            "
            SELECT package.id, segment_id, slug, name, description, base_price, booking_type::text, grouping_order,
                   active, created_at, updated_at, external_id, revision,
                   CASE
                       WHEN NOT EXISTS (SELECT 1 FROM segments WHERE tenant_id = $1 AND id = $2)
                           THEN 'SEGMENT_NOT_FOUND'
                   END AS error
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS tenant
              -- The active and the inactive packages are each one range of an index in this order.
              LEFT JOIN LATERAL (
                    (SELECT * FROM packages
                      WHERE tenant_id = $1 AND segment_id = $2
                        AND coalesce($3::bool, true) AND active
                        AND (grouping_order, id) > ($4::int8, $5::uuid)
                      ORDER BY grouping_order, id LIMIT $6)
                     UNION ALL
                    (SELECT * FROM packages
                      WHERE tenant_id = $1 AND segment_id = $2
                        AND NOT coalesce($3, false) AND NOT active
                        AND (grouping_order, id) > ($4, $5)
                      ORDER BY grouping_order, id LIMIT $6)
                     ORDER BY grouping_order, id LIMIT $6) AS package ON true
             ORDER BY grouping_order, package.id
            ",
            segment_id.as_uuid(),
            active,
            after.order,
            after.id,
            limit,
        )
        .await
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the package, [`Error::EtagMismatch`], [`Error::FailedPrecondition`] for
    /// the last package.
    pub async fn delete_package(
        &self,
        tenant_id: TenantId,
        deletion: Deletion<PackageId>,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<()> {
        let mut transaction = self.begin_as_catalog("delete_package", tenant_id).await?;
        let row = sqlx::query!(
            r#"
            WITH deleted AS (
                DELETE FROM packages
                 WHERE tenant_id = $1 AND id = $2 AND coalesce(revision, id) = coalesce($3, revision, id)
                   AND EXISTS (SELECT 1 FROM tenants WHERE id = $1 AND deleted_at IS NULL)
                   AND EXISTS (SELECT 1 FROM packages AS other WHERE other.tenant_id = $1 AND other.id <> $2)
                RETURNING id, segment_id
            ), new_usage AS (
                UPDATE tenant_usage SET package_count = package_count - 1
                 WHERE tenant_id = $1 AND EXISTS (SELECT 1 FROM deleted)
            ), counted_segment AS (
                UPDATE segments SET package_count = package_count - 1
                 WHERE tenant_id = $1 AND id = (SELECT segment_id FROM deleted)
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT 'package.deleted', $4, $1, $5, $6, jsonb_build_object('package_id', id) FROM deleted
            )
            SELECT EXISTS (SELECT 1 FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS "has_tenant!",
                   EXISTS (SELECT 1 FROM packages WHERE tenant_id = $1 AND id = $2) AS "existed!",
                   EXISTS (SELECT 1 FROM packages
                            WHERE tenant_id = $1 AND id = $2 AND coalesce(revision, id) <> $3::uuid) AS "has_changed!",
                   EXISTS (SELECT 1 FROM deleted) AS "is_deleted!"
            "#,
            tenant_id.as_uuid(),
            deletion.id.as_uuid(),
            deletion.etag.map(|etag| etag.revision),
            now,
            &*actor.event_caller(),
            actor.trace_id(),
        )
        .fetch_one(transaction.connection())
        .await?;
        match transaction.commit().await {
            // A transaction outside the service has deleted the other packages.
            Err(error) if is_constraint_violation(&error, "tenant_fully_provisioned") => {
                return Err(Precondition::LastPackage.into());
            }
            result => result?,
        }
        match (row.is_deleted, row.has_tenant, row.existed) {
            // What else the row says of a deleted package depends on the engine: on Citus, later steps see the
            // deletion.
            (true, ..) => Ok(()),
            (false, false, _) => Err(Error::not_found(Resource::Tenant)),
            (false, true, false) => Err(Error::not_found(Resource::Package)),
            (false, true, true) if row.has_changed => Err(Error::EtagMismatch(Resource::Package)),
            (false, true, true) => Err(Precondition::LastPackage.into()),
        }
    }
}

/// The columns of a package. All are NULL in the row of a tenant without the package, or of an upsert item that was not
/// written.
#[derive(sqlx::FromRow)]
pub(super) struct PackageRow {
    pub(super) id: Option<Uuid>,
    pub(super) segment_id: Option<Uuid>,
    pub(super) slug: Option<String>,
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) base_price: Option<i64>,
    pub(super) booking_type: Option<String>,
    pub(super) grouping_order: Option<i32>,
    pub(super) active: Option<bool>,
    #[sqlx(try_from = "CatalogTime")]
    pub(super) created_at: Option<OffsetDateTime>,
    #[sqlx(try_from = "CatalogTime")]
    pub(super) updated_at: Option<OffsetDateTime>,
    pub(super) external_id: Option<String>,
    pub(super) revision: Option<Uuid>,
    /// Why there is no package, where the statement checks more than its existence.
    pub(super) error: Option<String>,
}

impl PackageRow {
    pub(super) fn into_package(self, tenant_id: TenantId) -> Option<Package> {
        Some(Package {
            id: PackageId::from_uuid(self.id?),
            tenant_id,
            segment_id: SegmentId::from_uuid(self.segment_id?),
            slug: self.slug?,
            name: self.name?,
            description: self.description?,
            base_price: self.base_price?,
            booking_type: self.booking_type?.parse().ok()?,
            grouping_order: self.grouping_order?,
            active: self.active?,
            created_at: self.created_at?,
            updated_at: self.updated_at?,
            external_id: self.external_id,
            revision: self.revision,
        })
    }
}
