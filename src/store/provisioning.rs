//! The statement that makes tenants, whole or not at all.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, error::is_constraint_violation, pool::PooledConnection};
use crate::{
    domain::{
        TenantSlug, defaults,
        idempotency::{IdempotencyScope, RECORD_LIFETIME},
        provisioning::TenantInsert,
    },
    error::{Error, Result, UniqueField},
};

/// A slug that was free when the statement looked can be taken when it writes. Looking again settles it, unless yet
/// another slug of the batch is lost in between: so a few times, not for ever.
const MAX_SLUG_RACE_RETRIES: usize = 5;

impl Store {
    /// Makes each tenant with its General segment, packages and key, its owner and its claim, if any, in one statement
    /// and so in one transaction, and answers which were made: a tenant whose slug is taken, or whose request id is
    /// claimed, is left out and spoils no other.
    ///
    /// Slugs that are free, and request ids, are distinct; all tenants are of one moment.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] for an owner's e-mail address; [`Error::Conflict`] where races were lost again and again; else
    /// those of the database.
    pub async fn create_fully_provisioned(
        &self,
        scope: &IdempotencyScope,
        tenants: &[TenantInsert],
    ) -> Result<Vec<bool>> {
        let Some(first) = tenants.first() else { return Ok(Vec::new()) };
        let items = UnnestColumns::new(tenants);
        for _ in 0..MAX_SLUG_RACE_RETRIES {
            match items
                .insert(&mut self.acquire("create_fully_provisioned").await?, scope, first.tenant.created_at)
                .await
            {
                Ok(made) => {
                    let mut created = vec![false; tenants.len()];
                    for number in made {
                        let index = usize::try_from(number - 1).map_err(Error::internal)?;
                        created[index] = true;
                    }
                    return Ok(created);
                }
                Err(error) if is_constraint_violation(&error, "tenants_slug_key") => {}
                Err(error) if is_constraint_violation(&error, "owners_email_key") => {
                    return Err(Error::already_exists(UniqueField::OwnerEmail, None));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Conflict)
    }

    /// Whether a tenant, deleted ones included, has this slug.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_slug_taken(&self, slug: &TenantSlug) -> Result<bool> {
        let exists =
            sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM tenants WHERE slug = $1) AS "taken!""#, slug.as_str())
                .fetch_one(&mut self.acquire("is_slug_taken").await?)
                .await?;
        Ok(exists)
    }
}

/// The tenants as columns, the way `unnest` takes them.
#[derive(Default)]
struct UnnestColumns<'a> {
    tenant_ids: Vec<Uuid>,
    slugs: Vec<&'a str>,
    names: Vec<&'a str>,
    commissions_hundredths: Vec<i32>,
    segment_ids: Vec<Uuid>,
    /// As many for each tenant as there are default packages, tenant after tenant.
    package_ids: Vec<Uuid>,
    key_ids: Vec<&'a str>,
    public_keys: Vec<&'a str>,
    secret_hashes: Vec<&'a str>,
    owner_emails: Vec<Option<&'a str>>,
    password_hashes: Vec<Option<&'a str>>,
    request_hashes: Vec<Option<&'a [u8]>>,
    fingerprints: Vec<Option<&'a [u8]>>,
    salts: Vec<Option<&'a [u8]>>,
}

impl<'a> UnnestColumns<'a> {
    fn new(tenants: &'a [TenantInsert]) -> Self {
        let mut items = Self::default();
        for TenantInsert { tenant, key, claim } in tenants {
            items.tenant_ids.push(tenant.id.as_uuid());
            items.slugs.push(tenant.slug.as_str());
            items.names.push(tenant.name.as_str());
            items.commissions_hundredths.push(i32::from(tenant.commission.hundredths()));
            items.segment_ids.push(tenant.segment_id.as_uuid());
            items.package_ids.extend(tenant.package_ids.iter().map(|id| id.as_uuid()));
            items.key_ids.push(&key.key_id);
            items.public_keys.push(&key.public_key);
            items.secret_hashes.push(&key.secret_hash);
            items.owner_emails.push(tenant.owner.as_ref().map(|owner| owner.email.as_str()));
            items.password_hashes.push(tenant.owner.as_ref().map(|owner| owner.password_hash.as_str()));
            items.request_hashes.push(claim.as_ref().map(|claim| claim.request_hash.as_slice()));
            items.fingerprints.push(claim.as_ref().map(|claim| claim.fingerprint.0.as_slice()));
            items.salts.push(claim.as_ref().map(|claim| claim.salt.as_slice()));
        }
        items
    }

    /// The numbers, from 1, of the items that were made.
    ///
    /// Whoever claims a request id first wins it: the loser waits at the index for the winner's end, and then has nothing
    /// to write. A claim that ought to be forgotten is taken over. An item is known by its tenant's id, which is new.
    ///
    /// The first column is hidden in a subquery, so that the planner never sees how many items there are: else it would find a
    /// plan of its own for each execution a little better than the one it has, and planning costs more than the rest.
    ///
    /// Tenants go in without ON CONFLICT: the parts are inserted from the same list, so one that was skipped there would
    /// get a segment without a tenant, and a claim for nothing. A slug lost to a race fails the statement instead, by the
    /// constraint's name.
    async fn insert(
        &self,
        connection: &mut PooledConnection,
        scope: &IdempotencyScope,
        created_at: OffsetDateTime,
    ) -> sqlx::Result<Vec<i64>> {
        let segment = &defaults::SEGMENT;
        let package = &defaults::PACKAGES;
        sqlx::query_scalar!(
            r#"
            WITH item AS (
                SELECT *
                  FROM unnest((SELECT $1::uuid[]), $2::text[], $3::text[], $4::int4[], $5::uuid[], $6::text[], $7::text[],
                              $8::text[], $22::text[], $23::text[], $24::bytea[], $25::bytea[], $26::bytea[])
                       WITH ORDINALITY AS item (tenant_id, slug, name, commission_hundredths, segment_id, key_id,
                                                public_key, secret_hash, owner_email, password_hash,
                                                request_hash, fingerprint, salt, number)
            ), free AS MATERIALIZED (
                SELECT * FROM item WHERE NOT EXISTS (SELECT FROM tenants WHERE tenants.slug = item.slug)
            ), claimed AS (
                INSERT INTO idempotency_records AS claim (caller, rpc, request_hash, fingerprint, salt, tenant_id, key_id,
                                                     segment_id, package_ids, created_at)
                SELECT $27, $28, request_hash, fingerprint, salt, tenant_id, key_id, segment_id,
                       ($15::uuid[])[(number - 1) * cardinality($16::text[]) + 1 : number * cardinality($16::text[])], $9
                  FROM free
                 WHERE request_hash IS NOT NULL
                 ORDER BY request_hash
                ON CONFLICT ON CONSTRAINT idempotency_records_pkey DO UPDATE
                   SET fingerprint = excluded.fingerprint, salt = excluded.salt, tenant_id = excluded.tenant_id,
                       key_id = excluded.key_id, segment_id = excluded.segment_id,
                       package_ids = excluded.package_ids, created_at = excluded.created_at
                 WHERE claim.created_at <= $29
                RETURNING tenant_id
            ), winner AS MATERIALIZED (
                SELECT * FROM free WHERE request_hash IS NULL OR tenant_id IN (SELECT tenant_id FROM claimed)
            ), new_tenant AS (
                INSERT INTO tenants (id, slug, name, commission_percent, branding, is_active, created_at, updated_at,
                                     is_signup)
                SELECT tenant_id, slug, name, commission_hundredths / 100.0, '{}', true, $9, $9, owner_email IS NOT NULL
                  FROM winner
            ), new_segment AS (
                INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                      created_at, updated_at)
                SELECT tenant_id, segment_id, $10, $11, $12, $13, $14, true, $9, $9 FROM winner
            ), new_package AS (
                INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                      grouping_order, active, created_at, updated_at)
                SELECT winner.tenant_id, ($15::uuid[])[(winner.number - 1) * cardinality($16::text[]) + preset.position],
                       winner.segment_id, preset.slug, preset.name, preset.description, preset.base_price, $21,
                       preset.grouping_order, true, $9, $9
                  FROM winner
                 CROSS JOIN unnest($16::text[], $17::text[], $18::text[], $19::int8[], $20::int4[])
                       WITH ORDINALITY AS preset (slug, name, description, base_price, grouping_order, position)
            ), new_key AS (
                INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
                SELECT key_id, tenant_id, public_key, secret_hash, $9 FROM winner
            ), new_owner AS (
                INSERT INTO owners (tenant_id, email, password_hash)
                SELECT tenant_id, owner_email, password_hash FROM winner WHERE owner_email IS NOT NULL
            )
            SELECT number AS "number!" FROM winner
            "#,
            &self.tenant_ids,
            &self.slugs as _,
            &self.names as _,
            &self.commissions_hundredths,
            &self.segment_ids,
            &self.key_ids as _,
            &self.public_keys as _,
            &self.secret_hashes as _,
            created_at,
            segment.slug,
            segment.name,
            segment.hero_title,
            segment.description,
            segment.sort_order,
            &self.package_ids,
            &package.each_ref().map(|preset| preset.slug) as _,
            &package.each_ref().map(|preset| preset.name) as _,
            &package.each_ref().map(|preset| preset.description) as _,
            &package.each_ref().map(|preset| preset.base_price),
            &package.each_ref().map(|preset| preset.grouping_order),
            defaults::BOOKING_TYPE.as_str(),
            &self.owner_emails as _,
            &self.password_hashes as _,
            &self.request_hashes as _,
            &self.fingerprints as _,
            &self.salts as _,
            scope.caller.name(),
            scope.rpc.as_str(),
            created_at - RECORD_LIFETIME,
        )
        .fetch_all(connection)
        .await
    }
}
