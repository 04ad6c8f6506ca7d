//! Packages of one tenant: read, listed and deleted.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, catalog_read::catalog_query, error::is_constraint_violation};
use crate::{
    domain::{BookingType, Package, PackageId, SegmentId, TenantId, catalog::ListPackages},
    error::{Error, Precondition, Resource, Result},
};

/// The package in a row, whatever else the row has; `None` where an outer join found none.
macro_rules! package_from_row {
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
pub(super) use package_from_row;

impl Store {
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the package; those of the database.
    pub async fn get_package(&self, tenant_id: TenantId, package_id: PackageId) -> Result<Package> {
        let rows = catalog_query!(
            self,
            "get_package",
            tenant_id,
            PackageRow,
            "
            SELECT packages.id, segment_id, slug, name, description, base_price, booking_type, grouping_order, active,
                   created_at, updated_at, true AS has_segment
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS tenant
              LEFT JOIN packages ON packages.tenant_id = $1 AND packages.id = $2
            ",
            package_id.as_uuid(),
        )
        .await?;
        let row = rows.into_iter().next().ok_or(Error::not_found(Resource::Tenant))?;
        package_from_row!(row, tenant_id).ok_or(Error::not_found(Resource::Package))
    }

    /// Up to `limit` packages by `grouping_order`, then by id.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the segment of the filter; those of the database.
    pub async fn list_packages(&self, tenant_id: TenantId, list: &ListPackages, limit: usize) -> Result<Vec<Package>> {
        let limit = i64::try_from(limit).map_err(Error::internal)?;
        let rows = catalog_query!(
            self,
            "list_packages",
            tenant_id,
            PackageRow,
            "
            SELECT $2::uuid IS NULL OR EXISTS (SELECT FROM segments WHERE tenant_id = $1 AND id = $2) AS has_segment,
                   package.*
              FROM (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL) AS tenant
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
            ",
            list.filter.segment_id.map(SegmentId::as_uuid),
            list.filter.active,
            list.after.map(|after| after.order),
            list.after.map(|after| after.id),
            limit,
        )
        .await?;
        let first = rows.first().ok_or(Error::not_found(Resource::Tenant))?;
        if first.has_segment == Some(false) {
            return Err(Error::not_found(Resource::Segment));
        }
        Ok(rows.into_iter().filter_map(|row| package_from_row!(row, tenant_id)).collect())
    }

    /// Deletes a package that is not the tenant's last.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the package, [`Error::FailedPrecondition`]; those of the database.
    pub async fn delete_package(&self, tenant_id: TenantId, package_id: PackageId) -> Result<()> {
        let mut transaction = self.begin_as_catalog("delete_package", tenant_id).await?;
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
                   EXISTS (SELECT FROM packages WHERE tenant_id = $1 AND id = $2) AS "existed!",
                   EXISTS (SELECT FROM deleted) AS "is_deleted!"
            "#,
            tenant_id.as_uuid(),
            package_id.as_uuid(),
        )
        .fetch_one(transaction.connection())
        .await?;
        transaction.commit().await.map_err(|error| {
            // A concurrent change outside the service deleted the other packages.
            if is_constraint_violation(&error, "tenant_fully_provisioned") {
                Error::FailedPrecondition(Precondition::LastPackage)
            } else {
                error.into()
            }
        })?;
        match (row.has_tenant, row.existed, row.is_deleted) {
            (false, ..) => Err(Error::not_found(Resource::Tenant)),
            (true, false, _) => Err(Error::not_found(Resource::Package)),
            (true, true, false) => Err(Error::FailedPrecondition(Precondition::LastPackage)),
            (true, true, true) => Ok(()),
        }
    }
}

/// A package, or the tenant alone where it has no such package.
#[derive(sqlx::FromRow)]
struct PackageRow {
    id: Option<Uuid>,
    segment_id: Option<Uuid>,
    slug: Option<String>,
    name: Option<String>,
    description: Option<String>,
    base_price: Option<i64>,
    booking_type: Option<String>,
    grouping_order: Option<i32>,
    active: Option<bool>,
    created_at: Option<OffsetDateTime>,
    updated_at: Option<OffsetDateTime>,
    /// Whether the segment that was asked for is there.
    has_segment: Option<bool>,
}
