//! Repairs one damaged tenant, or deletes the rows that refer to a tenant that does not exist. [`super::integrity`]
//! finds the damage.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, citus, error::is_constraint_violation};
use crate::{
    domain::{Actor, Email, TenantId, defaults, provisioning::NewApiKey},
    error::{Error, Result},
};

/// The ids and the key for everything that a repair may have to create.
#[derive(Debug)]
pub struct RepairPlan {
    pub segment_id: Uuid,
    pub package_ids: Vec<Uuid>,
    /// `None` creates no key, even if the tenant has none.
    pub key: Option<NewApiKey>,
    /// The owner's address as it is stored, and its canonical form. `None` if there is no owner, or no canonical form.
    pub owner_email: Option<(String, Email)>,
}

/// How many rows a repair of a tenant created, changed and deleted.
#[derive(Debug)]
pub struct RepairResult {
    /// The General segment, existing or new.
    pub general_id: Uuid,
    pub segments_created: i64,
    pub packages_created: i64,
    pub api_keys_created: i64,
    /// Packages that were not in a segment of the tenant and were moved to General.
    pub packages_moved: i64,
    pub usage_counts_corrected: i64,
    pub emails_corrected: i64,
    /// Sign-ups without an owner, which no longer count as sign-ups.
    pub signups_cleared: i64,
    pub idempotency_records_deleted: i64,
}

impl RepairResult {
    pub const fn has_changes(&self) -> bool {
        let created = self.segments_created + self.packages_created + self.api_keys_created;
        let changed = self.packages_moved + self.usage_counts_corrected + self.emails_corrected + self.signups_cleared;
        created + changed + self.idempotency_records_deleted > 0
    }
}

impl Store {
    /// Creates what the tenant lacks, corrects what is wrong and deletes dangling records, in one transaction under the
    /// tenant's lock, so that two concurrent repairs create the missing parts once. Returns `None` if the tenant does
    /// not exist.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a sign-up has used the owner's address meanwhile.
    #[expect(clippy::too_many_lines, reason = "it is one statement")]
    pub async fn repair_tenant(
        &self,
        tenant_id: TenantId,
        plan: &RepairPlan,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<Option<RepairResult>> {
        let (segment, packages, key) = (&defaults::SEGMENT, &defaults::PACKAGES, plan.key.as_ref());
        let owner_email = plan.owner_email.as_ref();
        let mut transaction = self.begin_as_provisioner("repair_tenant", tenant_id).await?;
        citus::restore_tenant(transaction.connection(), tenant_id).await?;
        let result = sqlx::query_as!(
            RepairResult,
            r#"
            WITH tenant AS MATERIALIZED (
                -- Locked, so that it is not purged meanwhile.
                SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE
            ), cleared_signup AS (
                -- A missing owner cannot be created again: from now on the tenant counts as created by an
                -- administrator.
                UPDATE tenants SET is_signup = false
                 WHERE id = $1 AND is_signup AND NOT EXISTS (SELECT 1 FROM owners WHERE tenant_id = $1)
                RETURNING 1
            ), corrected_email AS (
                -- Unless another owner has this address.
                UPDATE owners SET canonical_email = $20
                 WHERE tenant_id = $1 AND email = $19 AND canonical_email <> $20
                   AND NOT EXISTS (SELECT 1 FROM owners AS other WHERE other.canonical_email = $20)
                RETURNING 1
            ), found AS MATERIALIZED (
                -- Before the insertions, which later steps see on Citus.
                SELECT (SELECT count(*) FROM packages WHERE tenant_id = $1) AS packages,
                       (SELECT count(*) FROM segments WHERE tenant_id = $1) AS segments
            ), found_segment AS MATERIALIZED (
                SELECT id, slug, (SELECT count(*) FROM packages WHERE tenant_id = $1 AND segment_id = segments.id) AS packages
                  FROM segments
                 WHERE tenant_id = $1
            ), general AS (
                SELECT segments.id FROM segments JOIN tenant ON tenant_id = tenant.id WHERE slug = $2
            ), misplaced AS MATERIALIZED (
                -- Packages without a segment, or in the segment of another tenant.
                SELECT id
                  FROM packages
                 WHERE tenant_id = $1
                   AND NOT EXISTS (SELECT 1 FROM segments
                                    WHERE segments.tenant_id = $1 AND segments.id = packages.segment_id)
            ), new_segment AS (
                INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                      created_at, updated_at, package_count)
                SELECT id, $3, $2, $4, $5, $6, $7, true, $8, $8,
                       -- The packages that are moved to it or created in it.
                       CASE WHEN EXISTS (SELECT 1 FROM packages WHERE tenant_id = $1)
                            THEN (SELECT count(*) FROM misplaced) ELSE cardinality($10::uuid[]) END
                  FROM tenant
                 WHERE NOT EXISTS (SELECT 1 FROM general)
                RETURNING id
            ), target_segment AS MATERIALIZED (
                -- The General segment; no row if the tenant does not exist.
                SELECT id FROM general UNION ALL SELECT id FROM new_segment
            ), moved_package AS (
                UPDATE packages
                   SET segment_id = target_segment.id, updated_at = $8
                  FROM target_segment
                 WHERE tenant_id = $1 AND packages.id IN (SELECT id FROM misplaced)
                RETURNING 1
            ), new_package AS (
                -- The default packages, only if the tenant has no package.
                INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                      grouping_order, active, created_at, updated_at)
                SELECT $1, new.id, target_segment.id, new.slug, new.name, new.description, new.base_price, $9::text::booking_type,
                       new.grouping_order, true, $8, $8
                  FROM target_segment
                 CROSS JOIN unnest($10::uuid[], $11::text[], $12::text[], $13::text[], $14::int8[], $15::int4[])
                       AS new (id, slug, name, description, base_price, grouping_order)
                 WHERE NOT EXISTS (SELECT 1 FROM packages WHERE tenant_id = $1)
                RETURNING 1
            ), corrected_usage AS (
                -- Wrong counters, and those of the rows created above.
                UPDATE tenant_usage
                   SET package_count = actual.package_count, segment_count = actual.segment_count
                  FROM (SELECT packages + (SELECT count(*) FROM new_package), segments + (SELECT count(*) FROM new_segment)
                          FROM found) AS actual (package_count, segment_count)
                 WHERE tenant_id = $1
                   AND (tenant_usage.package_count, tenant_usage.segment_count)
                       IS DISTINCT FROM (actual.package_count, actual.segment_count)
                RETURNING 1
            ), corrected_segment AS (
                -- As above, for each segment that was found.
                UPDATE segments
                   SET package_count = actual.package_count
                  FROM (SELECT id,
                               packages + CASE WHEN slug = $2 THEN (SELECT count(*) FROM moved_package)
                                                                   + (SELECT count(*) FROM new_package)
                                               ELSE 0 END AS package_count
                          FROM found_segment) AS actual
                 WHERE tenant_id = $1 AND segments.id = actual.id AND segments.package_count <> actual.package_count
                RETURNING 1
            ), new_key AS (
                -- Only if the plan has a key and the tenant has none, not even an expired or revoked one.
                INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
                SELECT $16, id, $17, $18, $8
                  FROM tenant
                 WHERE $16::text IS NOT NULL AND NOT EXISTS (SELECT 1 FROM api_keys WHERE tenant_id = $1)
                RETURNING 1
            ), deleted_record AS (
                -- Idempotency records of keys that the tenant does not have: they cannot be replayed.
                DELETE FROM idempotency_records AS record USING tenant
                 WHERE record.tenant_id = tenant.id AND deleted_key IS NULL
                   AND NOT EXISTS (SELECT 1 FROM api_keys
                                    WHERE api_keys.key_id = record.key_id AND api_keys.tenant_id = tenant.id)
                RETURNING 1
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT 'tenant.repaired', $8, $1, $21, $22,
                       data || CASE WHEN EXISTS (SELECT 1 FROM new_key) THEN jsonb_build_object('public_key', $17)
                                    ELSE '{}' END
                  FROM (SELECT jsonb_build_object(
                                   'segments_created', (SELECT count(*) FROM new_segment),
                                   'packages_created', (SELECT count(*) FROM new_package),
                                   'api_keys_created', (SELECT count(*) FROM new_key),
                                   'packages_moved', (SELECT count(*) FROM moved_package),
                                   'usage_counts_corrected', (SELECT count(*) FROM corrected_usage)
                                                             + (SELECT count(*) FROM corrected_segment),
                                   'emails_corrected', (SELECT count(*) FROM corrected_email),
                                   'signups_cleared', (SELECT count(*) FROM cleared_signup),
                                   'idempotency_records_deleted', (SELECT count(*) FROM deleted_record)) AS data
                          FROM target_segment) AS repair
                 WHERE EXISTS (SELECT 1 FROM jsonb_each_text(data) WHERE value <> '0')
            )
            SELECT target_segment.id AS "general_id!",
                   (SELECT count(*) FROM new_segment) AS "segments_created!",
                   (SELECT count(*) FROM new_package) AS "packages_created!",
                   (SELECT count(*) FROM new_key) AS "api_keys_created!",
                   (SELECT count(*) FROM moved_package) AS "packages_moved!",
                   (SELECT count(*) FROM corrected_usage)
                   + (SELECT count(*) FROM corrected_segment) AS "usage_counts_corrected!",
                   (SELECT count(*) FROM corrected_email) AS "emails_corrected!",
                   (SELECT count(*) FROM cleared_signup) AS "signups_cleared!",
                   (SELECT count(*) FROM deleted_record) AS "idempotency_records_deleted!"
              FROM target_segment
            "#,
            tenant_id.as_uuid(),
            segment.slug,
            plan.segment_id,
            segment.name,
            segment.hero_title,
            segment.description,
            segment.sort_order,
            now,
            defaults::BOOKING_TYPE.as_str(),
            &plan.package_ids,
            &packages.each_ref().map(|default| default.slug) as _,
            &packages.each_ref().map(|default| default.name) as _,
            &packages.each_ref().map(|default| default.description) as _,
            &packages.each_ref().map(|default| default.base_price),
            &packages.each_ref().map(|default| default.grouping_order),
            key.map(|key| key.key_id.as_str()),
            key.map(|key| key.public_key.as_str()),
            key.map(|key| key.secret_hash.as_str()),
            owner_email.map(|(stored, _)| stored.as_str()),
            owner_email.map(|(_, email)| email.canonical()),
            &*actor.event_caller(),
            actor.trace_id(),
        )
        .fetch_optional(transaction.connection())
        .await;
        let result = match result {
            Err(error) if is_constraint_violation(&error, "owners_email_key") => return Err(Error::Conflict),
            result => result?,
        };
        transaction.commit().await?;
        Ok(result)
    }

    /// Deletes all rows that refer to a tenant that does not exist, in one transaction, and returns their number. If
    /// the tenant exists, deletes nothing.
    pub async fn delete_stray_rows(&self, tenant_id: TenantId, actor: &Actor, now: OffsetDateTime) -> Result<i64> {
        let mut transaction = self.begin_as_provisioner("delete_stray_rows", tenant_id).await?;
        let deleted = sqlx::query_scalar!(
            r#"
            WITH missing_tenant AS (
                SELECT $1::uuid AS id WHERE NOT EXISTS (SELECT 1 FROM tenants WHERE id = $1)
            ), deleted_package AS (
                DELETE FROM packages USING missing_tenant WHERE tenant_id = missing_tenant.id RETURNING 1
            ), deleted_segment AS (
                DELETE FROM segments USING missing_tenant WHERE tenant_id = missing_tenant.id RETURNING 1
            ), deleted_key AS (
                DELETE FROM api_keys USING missing_tenant WHERE tenant_id = missing_tenant.id RETURNING 1
            ), deleted_owner AS (
                DELETE FROM owners USING missing_tenant WHERE tenant_id = missing_tenant.id RETURNING 1
            ), deleted_usage AS (
                DELETE FROM tenant_usage USING missing_tenant WHERE tenant_id = missing_tenant.id RETURNING 1
            ), deleted_record AS (
                DELETE FROM idempotency_records USING missing_tenant WHERE tenant_id = missing_tenant.id RETURNING 1
            ), total AS (
                SELECT (SELECT count(*) FROM deleted_package) + (SELECT count(*) FROM deleted_segment)
                       + (SELECT count(*) FROM deleted_key) + (SELECT count(*) FROM deleted_owner)
                       + (SELECT count(*) FROM deleted_usage) + (SELECT count(*) FROM deleted_record) AS deleted
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT 'tenant.repaired', $2, $1, $3, $4, jsonb_build_object('rows_deleted', deleted)
                  FROM total
                 WHERE deleted > 0
            )
            SELECT deleted AS "deleted!" FROM total
            "#,
            tenant_id.as_uuid(),
            now,
            &*actor.event_caller(),
            actor.trace_id(),
        );
        let deleted = deleted.fetch_one(transaction.connection()).await?;
        citus::restore_tenant(transaction.connection(), tenant_id).await?;
        transaction.commit().await?;
        Ok(deleted)
    }
}
