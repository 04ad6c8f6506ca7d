//! The statement that creates tenants, each completely or not at all (docs/adr/0001-one-statement.md). It writes
//! idempotency records but does not read them: that is in `idempotency.rs`.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, column, error::is_constraint_violation, pool::PooledConnection};
use crate::{
    domain::{
        TenantSlug, defaults,
        idempotency::{IdempotencyScope, RECORD_LIFETIME},
        provisioning::TenantInsert,
    },
    error::{Error, Result, UniqueField},
};

/// Upper bound of retries. Another transaction can take a slug between the check and the insert; the statement then
/// runs again. With many tenants this can happen in several runs.
const MAX_SLUG_RACE_RETRIES: usize = 4;

impl Store {
    /// Creates each tenant with its General segment, packages and key, and with its owner and idempotency record if it
    /// has them, in one statement and therefore in one transaction. Returns which tenants were created. A tenant whose
    /// slug already exists, or whose request id has a record, is not created and does not affect the others. Records and
    /// owners whose own tenant does not exist (see `integrity.rs`) do not count.
    ///
    /// No two tenants may have the same request id, or the same slug unless it already exists. All tenants must have
    /// the same `created_at`.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if an owner's e-mail address already exists, [`Error::Conflict`] if every run lost a race.
    pub async fn create_fully_provisioned(
        &self,
        scope: &IdempotencyScope,
        tenants: &[&TenantInsert],
    ) -> Result<Vec<bool>> {
        let Some(first) = tenants.first() else { return Ok(Vec::new()) };
        for _ in 0..=MAX_SLUG_RACE_RETRIES {
            let connection = &mut self.acquire("create_fully_provisioned").await?;
            match insert(connection, scope, tenants, first.tenant.created_at).await {
                Ok(ordinals) => {
                    let mut created = vec![false; tenants.len()];
                    for ordinal in ordinals {
                        created[usize::try_from(ordinal - 1).map_err(Error::internal)?] = true;
                    }
                    return Ok(created);
                }
                // Another call took a slug in between: run the statement again.
                Err(error) if is_constraint_violation(&error, "tenants_slug_key") => {}
                Err(error) if is_constraint_violation(&error, "owners_email_key") => {
                    return Err(Error::already_exists(UniqueField::OwnerEmail, None));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Conflict)
    }

    /// Returns whether a tenant, deleted or not, has this slug.
    pub async fn slug_exists(&self, slug: &TenantSlug) -> Result<bool> {
        let exists =
            sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM tenants WHERE slug = $1) AS "exists!""#, slug.as_str());
        Ok(exists.fetch_one(&mut self.acquire("slug_exists").await?).await?)
    }
}

/// Returns the ordinals, counted from 1, of the tenants that were created.
///
/// `tenants` is inserted without ON CONFLICT, which would skip a tenant but not its parts. A slug lost to a race violates
/// `tenants_slug_key` instead, and the caller retries.
#[expect(clippy::too_many_lines, reason = "it is one statement")]
async fn insert(
    connection: &mut PooledConnection,
    scope: &IdempotencyScope,
    tenants: &[&TenantInsert],
    created_at: OffsetDateTime,
) -> sqlx::Result<Vec<i64>> {
    let (segment, packages) = (&defaults::SEGMENT, &defaults::PACKAGES);
    // The ids of the first tenant's packages, then those of the second, and so on.
    let package_ids = tenants.iter().flat_map(|item| &item.tenant.package_ids).map(|id| id.as_uuid());
    let package_ids: Vec<Uuid> = package_ids.collect();
    sqlx::query_scalar!(
        r#"
        WITH input AS (
            -- One row per tenant. The first array is in a subquery, so that the planner cannot see its length.
            -- Otherwise Postgres prefers a custom plan for each execution, and planning costs more than executing.
            -- Of the package ids, each tenant gets the group at its ordinal; a group is as long as $25.
            SELECT tenant.*,
                   ($15::uuid[])[(ordinal - 1) * cardinality($25::text[]) + 1 : ordinal * cardinality($25::text[])]
                       AS package_ids
              FROM unnest((SELECT $1::uuid[]), $2::text[], $3::text[], $4::int4[], $5::uuid[], $6::text[],
                          $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[],
                          $13::bytea[], $14::bytea[])
                   WITH ORDINALITY AS tenant (tenant_id, slug, name, commission_hundredths, segment_id, key_id,
                                              public_key, secret_hash, owner_email, canonical_email, password_hash,
                                              request_hash, fingerprint, salt, ordinal)
        ), available AS MATERIALIZED (
            -- Tenants whose slug is free now. If it no longer is at the insert, the statement fails and is retried.
            SELECT * FROM input WHERE NOT EXISTS (SELECT FROM tenants WHERE tenants.slug = input.slug)
        ), new_record AS (
            -- The first writer wins. A second identical call blocks on the index and then writes nothing.
            -- An expired record is replaced, and a stray one, whose tenant does not exist. Only a record in this
            -- statement's snapshot can be stray: if a concurrent call has just written it, the snapshot lacks its tenant.
            -- Sorted, so that two batches cannot deadlock.
            INSERT INTO idempotency_records AS record (caller, rpc, request_hash, fingerprint, salt, tenant_id,
                                                       key_id, segment_id, package_ids, created_at)
            SELECT $17, $18, request_hash, fingerprint, salt, tenant_id, key_id, segment_id, package_ids, $16
              FROM available
             WHERE request_hash IS NOT NULL
             ORDER BY request_hash
            ON CONFLICT ON CONSTRAINT idempotency_records_pkey DO UPDATE
               SET fingerprint = excluded.fingerprint, salt = excluded.salt, tenant_id = excluded.tenant_id,
                   key_id = excluded.key_id, segment_id = excluded.segment_id,
                   package_ids = excluded.package_ids, created_at = excluded.created_at
             WHERE record.created_at <= $19
                OR record.tenant_id = (SELECT stray.tenant_id
                                         FROM idempotency_records AS stray
                                        WHERE (stray.request_hash, stray.caller, stray.rpc)
                                              = (excluded.request_hash, excluded.caller, excluded.rpc)
                                          AND NOT EXISTS (SELECT FROM tenants WHERE id = stray.tenant_id))
            RETURNING tenant_id
        ), to_insert AS MATERIALIZED (
            -- The tenants to create: those without a request id and those whose record was just written.
            SELECT * FROM available WHERE request_hash IS NULL OR tenant_id IN (SELECT tenant_id FROM new_record)
        ), new_tenant AS (
            -- At COMMIT a trigger checks that the tenant has a General segment, a package and a key.
            INSERT INTO tenants (id, slug, name, commission_percent, branding, is_active, created_at, updated_at,
                                 is_signup)
            SELECT tenant_id, slug, name, commission_hundredths / 100.0, '{}', true, $16, $16,
                   owner_email IS NOT NULL FROM to_insert
        ), new_segment AS (
            -- The General segment.
            INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                  created_at, updated_at)
            SELECT tenant_id, segment_id, $20, $21, $22, $23, $24, true, $16, $16 FROM to_insert
        ), new_package AS (
            -- All default packages for each tenant.
            INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                  grouping_order, active, created_at, updated_at)
            SELECT tenant_id, package_ids[default_package.position], segment_id, default_package.slug,
                   default_package.name, description, base_price, $30, grouping_order, true, $16, $16
              FROM to_insert
             CROSS JOIN unnest($25::text[], $26::text[], $27::text[], $28::int8[], $29::int4[]) WITH ORDINALITY
                   AS default_package (slug, name, description, base_price, grouping_order, position)
        ), new_usage AS (
            INSERT INTO tenant_usage (tenant_id, package_count, segment_count)
            SELECT tenant_id, cardinality($25::text[]), 1 FROM to_insert
        ), new_key AS (
            -- Only the hash of the secret is stored.
            INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
            SELECT key_id, tenant_id, public_key, secret_hash, $16 FROM to_insert
        ), deleted_owner AS (
            -- An owner whose tenant does not exist does not keep the address.
            DELETE FROM owners
             USING to_insert
             WHERE owners.canonical_email = to_insert.canonical_email
               AND NOT EXISTS (SELECT FROM tenants WHERE id = owners.tenant_id)
            RETURNING 1
        ), new_owner AS (
            -- Sign-ups only, after the deletion.
            INSERT INTO owners (tenant_id, email, canonical_email, password_hash)
            SELECT tenant_id, owner_email, canonical_email, password_hash
              FROM to_insert
             WHERE owner_email IS NOT NULL AND (SELECT count(*) FROM deleted_owner) >= 0
        )
        SELECT ordinal AS "ordinal!" FROM to_insert
        "#,
        &column(tenants, |item| item.tenant.id.as_uuid()),
        &column(tenants, |item| item.tenant.slug.as_str()) as _,
        &column(tenants, |item| item.tenant.name.as_str()) as _,
        &column(tenants, |item| i32::from(item.tenant.commission.hundredths())),
        &column(tenants, |item| item.tenant.segment_id.as_uuid()),
        &column(tenants, |item| item.key.key_id.as_str()) as _,
        &column(tenants, |item| item.key.public_key.as_str()) as _,
        &column(tenants, |item| item.key.secret_hash.as_str()) as _,
        &column(tenants, |item| item.tenant.owner.as_ref().map(|owner| owner.email.as_str())) as _,
        &column(tenants, |item| item.tenant.owner.as_ref().map(|owner| owner.email.canonical())) as _,
        &column(tenants, |item| item.tenant.owner.as_ref().map(|owner| owner.password_hash.as_str())) as _,
        &column(tenants, |item| item.record.as_ref().map(|record| record.request_hash.as_slice())) as _,
        &column(tenants, |item| item.record.as_ref().map(|record| record.fingerprint.0.as_slice())) as _,
        &column(tenants, |item| item.record.as_ref().map(|record| record.salt.as_slice())) as _,
        &package_ids,
        created_at,
        scope.caller.name(),
        scope.rpc.as_str(),
        created_at - RECORD_LIFETIME,
        segment.slug,
        segment.name,
        segment.hero_title,
        segment.description,
        segment.sort_order,
        &packages.each_ref().map(|package| package.slug) as _,
        &packages.each_ref().map(|package| package.name) as _,
        &packages.each_ref().map(|package| package.description) as _,
        &packages.each_ref().map(|package| package.base_price),
        &packages.each_ref().map(|package| package.grouping_order),
        defaults::BOOKING_TYPE.as_str(),
    )
    .fetch_all(connection)
    .await
}
