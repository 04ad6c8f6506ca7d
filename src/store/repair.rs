//! Damage mended, tenant by tenant.

use time::OffsetDateTime;
use uuid::Uuid;

use super::Store;
use crate::{
    domain::{TenantId, defaults, provisioning::NewApiKey},
    error::Result,
};

/// What a repair may need.
#[derive(Debug)]
pub struct RepairPlan {
    pub segment_id: Uuid,
    pub package_ids: Vec<Uuid>,
    /// Without one no key is made.
    pub key: Option<NewApiKey>,
}

/// What a repair made.
#[derive(Debug)]
pub struct RepairResult {
    /// The General segment, found or made.
    pub general_id: Uuid,
    pub has_new_segment: bool,
    pub has_new_packages: bool,
    pub has_new_key: bool,
    /// Packages that were in no segment of the tenant, and are in General now.
    pub packages_moved: i64,
}

impl Store {
    /// Makes what the tenant lacks, in one transaction, alone with it: two repairs at once do it once. `None` where there
    /// is no such tenant.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn repair_tenant(
        &self,
        tenant_id: TenantId,
        plan: &RepairPlan,
        now: OffsetDateTime,
    ) -> Result<Option<RepairResult>> {
        let (segment, packages, key) = (&defaults::SEGMENT, &defaults::PACKAGES, plan.key.as_ref());
        let mut transaction = self.begin_as_provisioner("repair_tenant", tenant_id).await?;
        let repair = sqlx::query_as!(
            RepairResult,
            r#"
            WITH tenant AS (
                UPDATE tenants
                   SET is_signup = is_signup AND EXISTS (SELECT FROM owners WHERE tenant_id = $1)
                 WHERE id = $1
                RETURNING id
            ), general AS (
                SELECT segments.id FROM segments JOIN tenant ON tenant_id = tenant.id WHERE slug = $3
            ), new_segment AS (
                INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                      created_at, updated_at)
                SELECT id, $2, $3, $4, $5, $6, $7, true, $8, $8 FROM tenant WHERE NOT EXISTS (SELECT FROM general)
                RETURNING id
            ), target_segment AS MATERIALIZED (
                SELECT id FROM general UNION ALL SELECT id FROM new_segment
            ), moved AS (
                UPDATE packages
                   SET segment_id = target_segment.id, updated_at = $8
                  FROM target_segment
                 WHERE tenant_id = $1
                   AND NOT EXISTS (SELECT FROM segments
                                    WHERE segments.tenant_id = $1 AND segments.id = packages.segment_id)
                RETURNING 1
            ), new_package AS (
                INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                      grouping_order, active, created_at, updated_at)
                SELECT $1, preset.id, target_segment.id, preset.slug, preset.name, preset.description, preset.base_price, $9,
                       preset.grouping_order, true, $8, $8
                  FROM target_segment
                 CROSS JOIN unnest($10::uuid[], $11::text[], $12::text[], $13::text[], $14::int8[], $15::int4[])
                       AS preset (id, slug, name, description, base_price, grouping_order)
                 WHERE NOT EXISTS (SELECT FROM packages WHERE tenant_id = $1)
                RETURNING 1
            ), new_key AS (
                INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
                SELECT $16, id, $17, $18, $8
                  FROM tenant
                 WHERE $16::text IS NOT NULL AND NOT EXISTS (SELECT FROM api_keys WHERE tenant_id = $1)
                RETURNING 1
            ), forgotten AS (
                DELETE FROM idempotency_records AS claim USING tenant
                 WHERE claim.tenant_id = tenant.id
                   AND NOT EXISTS (SELECT FROM api_keys WHERE api_keys.key_id = claim.key_id)
            )
            SELECT target_segment.id AS "general_id!",
                   EXISTS (SELECT FROM new_segment) AS "has_new_segment!",
                   EXISTS (SELECT FROM new_package) AS "has_new_packages!",
                   EXISTS (SELECT FROM new_key) AS "has_new_key!",
                   (SELECT count(*) FROM moved) AS "packages_moved!"
              FROM target_segment
            "#,
            tenant_id.as_uuid(),
            plan.segment_id,
            segment.slug,
            segment.name,
            segment.hero_title,
            segment.description,
            segment.sort_order,
            now,
            defaults::BOOKING_TYPE.as_str(),
            &plan.package_ids,
            &packages.each_ref().map(|preset| preset.slug) as _,
            &packages.each_ref().map(|preset| preset.name) as _,
            &packages.each_ref().map(|preset| preset.description) as _,
            &packages.each_ref().map(|preset| preset.base_price),
            &packages.each_ref().map(|preset| preset.grouping_order),
            key.map(|key| key.key_id.as_str()),
            key.map(|key| key.public_key.as_str()),
            key.map(|key| key.secret_hash.as_str()),
        )
        .fetch_optional(transaction.connection())
        .await?;
        transaction.commit().await?;
        Ok(repair)
    }

    /// Removes what points at this tenant although there is none: an owner, and claims.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_dangling_rows(&self, tenant_id: TenantId) -> Result<()> {
        sqlx::query!(
            "WITH missing_tenant AS (
                SELECT $1::uuid AS id WHERE NOT EXISTS (SELECT FROM tenants WHERE id = $1)
            ), deleted_owner AS (
                DELETE FROM owners USING missing_tenant WHERE owners.tenant_id = missing_tenant.id
            )
            DELETE FROM idempotency_records USING missing_tenant WHERE idempotency_records.tenant_id = missing_tenant.id",
            tenant_id.as_uuid(),
        )
        .execute(&mut self.acquire("delete_dangling_rows").await?)
        .await?;
        Ok(())
    }
}
