//! Packages of one tenant: read, listed and deleted.

use super::{Store, tenant_transaction::Turn};
use crate::{
    domain::{BookingType, Package, PackageId, SegmentId, TenantId, catalog::ListPackages},
    error::{Error, Resource, Result, Rule},
};

/// The package in a row, whatever else the row has; `None` where an outer join found none.
macro_rules! package_in {
    ($row:expr, $tenant_id:expr) => {
        (|| {
            Some(Package {
                id: PackageId::from_uuid($row.id?),
                tenant_id: $tenant_id,
                segment_id: SegmentId::from_uuid($row.segment_id?),
                slug: $row.slug?,
                name: $row.name?,
                description: $row.description?,
                base_price: $row.base_price?,
                booking_type: BookingType::from_name(&$row.booking_type?)?,
                grouping_order: $row.grouping_order?,
                active: $row.active?,
                created_at: $row.created_at?,
                updated_at: $row.updated_at?,
            })
        })()
    };
}
pub(super) use package_in;

impl Store {
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the package; those of the database.
    pub async fn get_package(&self, tenant_id: TenantId, package_id: PackageId) -> Result<Package> {
        let mut transaction = self.begin_for("get_package", tenant_id, Turn::Shared).await?;
        let row = sqlx::query!(
            r#"
            SELECT packages.id AS "id?", segment_id AS "segment_id?", slug AS "slug?", name AS "name?",
                   description AS "description?", base_price AS "base_price?", booking_type AS "booking_type?",
                   grouping_order AS "grouping_order?", active AS "active?", created_at AS "created_at?",
                   updated_at AS "updated_at?"
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS living
              LEFT JOIN packages ON packages.tenant_id = $1 AND packages.id = $2
            "#,
            tenant_id.as_uuid(),
            package_id.as_uuid(),
        )
        .fetch_optional(transaction.connection())
        .await
        .map_err(|error| self.error(error))?;
        transaction.commit().await?;
        let row = row.ok_or(Error::not_found(Resource::Tenant))?;
        package_in!(row, tenant_id).ok_or(Error::not_found(Resource::Package))
    }

    /// Up to `limit` packages by `grouping_order`, then by id.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the segment of the filter; those of the database.
    pub async fn list_packages(&self, tenant_id: TenantId, list: &ListPackages, limit: usize) -> Result<Vec<Package>> {
        let mut transaction = self.begin_for("list_packages", tenant_id, Turn::Shared).await?;
        let rows = sqlx::query!(
            r#"
            SELECT ($2::uuid IS NULL OR EXISTS (SELECT FROM segments WHERE tenant_id = $1 AND id = $2))
                       AS "has_segment!",
                   package.id AS "id?", segment_id AS "segment_id?", slug AS "slug?", name AS "name?",
                   description AS "description?", base_price AS "base_price?", booking_type AS "booking_type?",
                   grouping_order AS "grouping_order?", active AS "active?", created_at AS "created_at?",
                   updated_at AS "updated_at?"
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS living
              LEFT JOIN LATERAL (
                    SELECT id, segment_id, slug, name, description, base_price, booking_type, grouping_order, active,
                           created_at, updated_at
                      FROM packages
                     WHERE tenant_id = $1
                       AND ($2::uuid IS NULL OR segment_id = $2)
                       AND ($3::bool IS NULL OR active = $3)
                       AND ($4::int8 IS NULL OR (grouping_order, id) > ($4, $5::uuid))
                     ORDER BY grouping_order, id
                     LIMIT $6
                   ) AS package ON true
             ORDER BY grouping_order, package.id
            "#,
            tenant_id.as_uuid(),
            list.filter.segment_id.map(SegmentId::as_uuid),
            list.filter.active,
            list.after.map(|after| after.order),
            list.after.map(|after| after.id),
            i64::try_from(limit).map_err(Error::internal)?,
        )
        .fetch_all(transaction.connection())
        .await
        .map_err(|error| self.error(error))?;
        transaction.commit().await?;
        let first = rows.first().ok_or(Error::not_found(Resource::Tenant))?;
        if !first.has_segment {
            return Err(Error::not_found(Resource::Segment));
        }
        Ok(rows.into_iter().filter_map(|row| package_in!(row, tenant_id)).collect())
    }

    /// Deletes a package that is not the tenant's last.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the package, [`Error::Refused`]; those of the database.
    pub async fn delete_package(&self, tenant_id: TenantId, package_id: PackageId) -> Result<()> {
        let mut transaction = self.begin_for("delete_package", tenant_id, Turn::Alone).await?;
        let row = sqlx::query!(
            r#"
            WITH deleted AS (
                DELETE FROM packages
                 WHERE tenant_id = $1 AND id = $2
                   AND EXISTS (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL)
                   AND EXISTS (SELECT FROM packages AS other WHERE other.tenant_id = $1 AND other.id <> $2)
                RETURNING id
            )
            SELECT EXISTS (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS "has_tenant!",
                   EXISTS (SELECT FROM packages WHERE tenant_id = $1 AND id = $2) AS "was_there!",
                   EXISTS (SELECT FROM deleted) AS "is_deleted!"
            "#,
            tenant_id.as_uuid(),
            package_id.as_uuid(),
        )
        .fetch_one(transaction.connection())
        .await
        .map_err(|error| self.error(error))?;
        transaction.commit().await?;
        match (row.has_tenant, row.was_there, row.is_deleted) {
            (false, ..) => Err(Error::not_found(Resource::Tenant)),
            (true, false, _) => Err(Error::not_found(Resource::Package)),
            (true, true, false) => Err(Error::Refused(Rule::LastPackage)),
            (true, true, true) => Ok(()),
        }
    }
}
