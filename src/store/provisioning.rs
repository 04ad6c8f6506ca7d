//! The statement that makes tenants, whole or not at all.

use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, error::violates};
use crate::{
    domain::{
        TenantSlug, defaults,
        provisioning::{NewApiKey, NewTenant},
    },
    error::{Error, Result, Taken},
};

/// A slug that was free when the statement looked can be taken when it writes. Looking again settles it, unless yet
/// another slug of the batch is lost in between: so a few times, not for ever.
const ATTEMPTS: usize = 5;

impl Store {
    /// Makes each tenant with its General segment, packages, key and owner, if any, in one statement and so in one transaction, and
    /// answers which were made: a tenant whose slug is taken is left out and spoils no other.
    ///
    /// The slugs are distinct, and all tenants are of one moment.
    ///
    /// # Errors
    /// [`Error::Taken`] for an owner's e-mail address; [`Error::Conflict`] where races were lost again and again; else
    /// those of the database.
    pub async fn create_fully_provisioned(&self, tenants: &[(NewTenant, NewApiKey)]) -> Result<Vec<bool>> {
        let Some((first, _)) = tenants.first() else { return Ok(Vec::new()) };
        let items = Items::new(tenants);
        for _ in 0..ATTEMPTS {
            match items.insert(&self.pool, first.created_at).await {
                Ok(made) => {
                    let mut created = vec![false; tenants.len()];
                    for number in made {
                        let index = usize::try_from(number - 1).map_err(Error::internal)?;
                        created[index] = true;
                    }
                    return Ok(created);
                }
                Err(error) if violates(&error, "tenants_slug_key") => {}
                Err(error) if violates(&error, "owners_email_key") => return Err(Error::taken(Taken::OwnerEmail, "")),
                Err(error) => return Err(self.error(error)),
            }
        }
        Err(Error::Conflict)
    }

    /// Whether a tenant, deleted ones included, has this slug.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_slug_taken(&self, slug: &TenantSlug) -> Result<bool> {
        sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM tenants WHERE slug = $1) AS "taken!""#, slug.as_str())
            .fetch_one(&self.pool)
            .await
            .map_err(|error| self.error(error))
    }
}

/// The tenants as columns, the way `unnest` takes them.
#[derive(Default)]
struct Items<'a> {
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
}

impl<'a> Items<'a> {
    fn new(tenants: &'a [(NewTenant, NewApiKey)]) -> Self {
        let mut items = Self::default();
        for (tenant, key) in tenants {
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
        }
        items
    }

    /// The numbers, from 1, of the items that were made.
    ///
    /// Tenants go in without ON CONFLICT: the parts are inserted from the same list, so one that was skipped there would
    /// get a segment without a tenant. A slug lost to a race fails the statement instead, by the constraint's name.
    async fn insert(&self, pool: &PgPool, created_at: OffsetDateTime) -> sqlx::Result<Vec<i64>> {
        let segment = &defaults::SEGMENT;
        let package = &defaults::PACKAGES;
        sqlx::query_scalar!(
            r#"
            WITH item AS (
                SELECT *
                  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int4[], $5::uuid[], $6::text[], $7::text[],
                              $8::text[], $22::text[], $23::text[])
                       WITH ORDINALITY AS item (tenant_id, slug, name, commission_hundredths, segment_id, key_id,
                                                public_key, secret_hash, owner_email, password_hash, number)
            ), free AS MATERIALIZED (
                SELECT * FROM item WHERE NOT EXISTS (SELECT FROM tenants WHERE tenants.slug = item.slug)
            ), new_tenant AS (
                INSERT INTO tenants (id, slug, name, commission_percent, branding, is_active, created_at, updated_at)
                SELECT tenant_id, slug, name, commission_hundredths / 100.0, '{}', true, $9, $9 FROM free
            ), new_segment AS (
                INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                      created_at, updated_at)
                SELECT tenant_id, segment_id, $10, $11, $12, $13, $14, true, $9, $9 FROM free
            ), new_package AS (
                INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                      grouping_order, active, created_at, updated_at)
                SELECT free.tenant_id, ($15::uuid[])[(free.number - 1) * cardinality($16::text[]) + preset.position],
                       free.segment_id, preset.slug, preset.name, preset.description, preset.base_price, $21,
                       preset.grouping_order, true, $9, $9
                  FROM free
                 CROSS JOIN unnest($16::text[], $17::text[], $18::text[], $19::int8[], $20::int4[])
                       WITH ORDINALITY AS preset (slug, name, description, base_price, grouping_order, position)
            ), new_key AS (
                INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
                SELECT key_id, tenant_id, public_key, secret_hash, $9 FROM free
            ), new_owner AS (
                INSERT INTO owners (tenant_id, email, password_hash)
                SELECT tenant_id, owner_email, password_hash FROM free WHERE owner_email IS NOT NULL
            )
            SELECT number AS "number!" FROM free
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
        )
        .fetch_all(pool)
        .await
    }
}
