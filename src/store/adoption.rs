//! Adopts tenants of the platform's old database: finds those that exist, and inserts the others with all their rows in
//! shared statements, each completely or not at all.

use std::sync::Arc;

use sqlx::types::Json;
use time::OffsetDateTime;

use super::{
    ConnectionPool, Store, citus, column,
    error::{is_constraint_violation, is_rolled_back},
    pool::PooledConnection,
    shared_statements::{Lane, SharedStatement, StatementFailure},
};
use crate::{
    domain::{
        Actor, Email, ExternalId, LegacyKeyHash, PublicKey, TenantId, TenantSlug,
        adoption::{Adoption, UniqueField, UniqueFields},
    },
    error::{Error, Result},
};

/// The statement that inserts adopted tenants.
pub(super) struct AdoptionStatement(pub ConnectionPool);

/// A tenant to insert, and who inserts it.
pub(super) struct AdoptionItem {
    actor: Actor,
    adoption: Arc<Adoption>,
    now: OffsetDateTime,
}

/// What the statement did for one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdoptionOutcome {
    Adopted,
    /// A tenant has its external id. Nothing was written.
    AlreadyAdopted,
    /// Another tenant has the value of this field. Nothing was written.
    FieldExists(UniqueField),
}

/// What distinguishes the tenants of a statement. The slug comes first, so that it determines their order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AdoptionKey {
    Slug(String),
    ExternalId(String),
    Email(String),
    KeyId(String),
    KeyHash(String),
}

/// What the database already has of an old tenant.
#[derive(Debug, Clone, Default)]
pub struct ExistingParts {
    /// The tenant with its external id, and the slug of that tenant.
    pub adopted: Option<(TenantId, String)>,
    /// The fields whose values another tenant has.
    pub fields: Vec<UniqueField>,
}

impl Store {
    /// Inserts a tenant in a statement that it shares with concurrent calls.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it lost a race. Nothing was written.
    pub async fn adopt_tenant(
        &self,
        actor: &Actor,
        adoption: &Arc<Adoption>,
        now: OffsetDateTime,
    ) -> Result<AdoptionOutcome> {
        let item = AdoptionItem { actor: actor.clone(), adoption: Arc::clone(adoption), now };
        self.adoption.run(Lane::Batch, item).await
    }

    /// Returns what the database has of each of these old tenants, in their order. Owners whose own tenant does not
    /// exist do not count.
    pub async fn find_adopted(&self, tenants: &[(ExternalId, UniqueFields)]) -> Result<Vec<ExistingParts>> {
        let rows = sqlx::query!(
            r#"
            SELECT ordinal AS "ordinal!", adopted.id AS "id?", adopted.slug AS "adopted_slug?",
                   EXISTS (SELECT FROM tenants WHERE slug = requested.slug) AS "slug_taken!",
                   EXISTS (SELECT FROM owners
                            WHERE canonical_email = requested.email
                              AND EXISTS (SELECT FROM tenants WHERE id = owners.tenant_id)) AS "email_taken!",
                   EXISTS (SELECT FROM api_keys WHERE key_id = requested.key_id) AS "key_id_taken!",
                   EXISTS (SELECT FROM api_keys
                            WHERE secret_hash = requested.key_hash
                              AND starts_with(secret_hash, 'sha256:')) AS "key_hash_taken!"
              -- The subquery hides the array's length from the planner, as in `api_key_lookups.rs`.
              FROM unnest((SELECT $1::text[]), $2::text[], $3::text[], $4::text[], $5::text[])
                   WITH ORDINALITY AS requested (external_id, slug, email, key_id, key_hash, ordinal)
              LEFT JOIN LATERAL (
                   SELECT id, slug FROM tenants WHERE external_id = requested.external_id LIMIT 1) AS adopted ON true
             ORDER BY ordinal
            "#,
            &column(tenants, |(external_id, _)| external_id.as_str()) as _,
            &column(tenants, |(_, unique)| unique.slug.as_ref().map(TenantSlug::as_str)) as _,
            &column(tenants, |(_, unique)| unique.email.as_ref().map(Email::canonical)) as _,
            &column(tenants, |(_, unique)| unique.public_key.as_ref().map(PublicKey::key_id)) as _,
            &column(tenants, |(_, unique)| unique.key_hash.as_ref().map(LegacyKeyHash::as_str)) as _,
        )
        .fetch_all(&mut self.acquire("find_adopted").await?)
        .await?;
        let existing = rows.into_iter().map(|row| {
            let fields = [
                (row.slug_taken, UniqueField::Slug),
                (row.email_taken, UniqueField::Email),
                (row.key_id_taken, UniqueField::KeyId),
                (row.key_hash_taken, UniqueField::KeyHash),
            ];
            let adopted = row.id.map(TenantId::from_uuid).zip(row.adopted_slug);
            ExistingParts {
                adopted,
                fields: fields.into_iter().filter_map(|(exists, field)| exists.then_some(field)).collect(),
            }
        });
        Ok(existing.collect())
    }
}

impl SharedStatement for AdoptionStatement {
    type Item = AdoptionItem;
    type Key = AdoptionKey;
    type Output = AdoptionOutcome;
    type Connection = PooledConnection;

    const MAX_ITEMS: usize = 64;
    /// While Postgres executes one, the command prepares the next.
    const MAX_STATEMENTS: usize = 2;

    fn keys(AdoptionItem { adoption, .. }: &AdoptionItem) -> Vec<AdoptionKey> {
        let tenant = &adoption.tenant;
        let email = tenant.owner.as_ref().map(|owner| AdoptionKey::Email(owner.email.canonical().to_owned()));
        let keys = [
            AdoptionKey::Slug(tenant.slug.as_str().to_owned()),
            AdoptionKey::ExternalId(tenant.external_id.as_str().to_owned()),
            AdoptionKey::KeyId(tenant.key.key_id.clone()),
            AdoptionKey::KeyHash(tenant.key.secret_hash.clone()),
        ];
        keys.into_iter().chain(email).collect()
    }

    async fn connect(&self) -> Result<PooledConnection> {
        self.0.acquire("adopt_tenant").await
    }

    async fn run(
        &self,
        mut connection: PooledConnection,
        items: &[&AdoptionItem],
    ) -> std::result::Result<Vec<AdoptionOutcome>, StatementFailure> {
        match insert(&mut connection, items).await {
            Ok(()) => Ok(vec![AdoptionOutcome::Adopted; items.len()]),
            Err(error) => match outcome_of_violation(&error) {
                Some(outcome) if items.len() == 1 => Ok(vec![outcome]),
                _ => Err(StatementFailure { retry_alone: is_rolled_back(&error), error: error.into() }),
            },
        }
    }

    fn wait_timed_out(&self) -> Error {
        self.0.wait_timed_out()
    }
}

/// Returns the outcome of a tenant that was in a statement alone, if a constraint refused it.
fn outcome_of_violation(error: &sqlx::Error) -> Option<AdoptionOutcome> {
    let outcomes = [
        ("tenants_external_id_key", AdoptionOutcome::AlreadyAdopted),
        ("tenants_slug_key", AdoptionOutcome::FieldExists(UniqueField::Slug)),
        ("owners_email_key", AdoptionOutcome::FieldExists(UniqueField::Email)),
        ("api_keys_pkey", AdoptionOutcome::FieldExists(UniqueField::KeyId)),
        ("api_keys_legacy_hash_key", AdoptionOutcome::FieldExists(UniqueField::KeyHash)),
    ];
    outcomes.into_iter().find_map(|(constraint, outcome)| is_constraint_violation(error, constraint).then_some(outcome))
}

#[expect(clippy::too_many_lines, reason = "it is one statement")]
async fn insert(connection: &mut PooledConnection, items: &[&AdoptionItem]) -> sqlx::Result<()> {
    let adoptions: Vec<&Adoption> = items.iter().map(|item| &*item.adoption).collect();
    let tenants: Vec<_> = adoptions.iter().map(|adoption| &adoption.tenant).collect();
    let segments: Vec<_> = adoptions.iter().flat_map(|adoption| &adoption.segments).collect();
    let packages: Vec<_> = adoptions.iter().flat_map(|adoption| &adoption.packages).collect();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let uuid = TenantId::as_uuid;
    citus::begin_creation(connection).await?;
    let result = sqlx::query!(
        r#"
        WITH input AS MATERIALIZED (
            -- One row per tenant. The subquery hides the array's length from the planner, as in `provisioning.rs`.
            SELECT *
              FROM unnest((SELECT $1::uuid[]), $2::text[], $3::text[], $4::int4[], $5::text[], $6::bool[], $7::text[],
                          $8::timestamptz[], $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::text[],
                          $14::text[], $15::text[], $16::timestamptz[], $17::int4[], $18::int4[], $19::text[], $20::text[],
                          $45::timestamptz[], $46::jsonb[])
                   WITH ORDINALITY AS tenant (tenant_id, slug, name, commission_hundredths, branding, is_active,
                                              external_id, created_at, updated_at, key_id, public_key, secret_hash,
                                              owner_email, canonical_email, password_hash, email_verified_at,
                                              segment_count, package_count, event_caller, trace_id, adopted_at, labels, ordinal)
        ), new_tenant AS (
            -- Without ON CONFLICT, which would skip a tenant but not its parts. At COMMIT a trigger checks that the tenant
            -- has a General segment, a package and a key.
            INSERT INTO tenants (id, slug, name, commission_percent, branding, is_active, created_at, updated_at,
                                 is_signup, external_id, labels)
            SELECT tenant_id, slug, name, commission_hundredths / 100.0, branding::jsonb, is_active, created_at,
                   updated_at, owner_email IS NOT NULL, external_id, labels
              FROM input
        ), new_segment AS (
            INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active, created_at,
                                  updated_at, external_id, package_count)
            SELECT * FROM unnest($21::uuid[], $22::uuid[], $23::text[], $24::text[], $25::text[], $26::text[],
                                 $27::int4[], $28::bool[], $29::timestamptz[], $30::timestamptz[], $31::text[], $47::int4[])
        ), new_package AS (
            INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                  grouping_order, active, created_at, updated_at, external_id)
            SELECT tenant_id, id, segment_id, slug, name, description, base_price, booking_type::booking_type,
                   grouping_order, active, created_at, updated_at, external_id
              FROM unnest($32::uuid[], $33::uuid[], $34::uuid[], $35::text[], $36::text[], $37::text[], $38::int8[],
                          $39::text[], $40::int4[], $41::bool[], $42::timestamptz[], $43::timestamptz[], $44::text[])
                   AS package (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                               grouping_order, active, created_at, updated_at, external_id)
        ), new_usage AS (
            INSERT INTO tenant_usage (tenant_id, package_count, segment_count)
            SELECT tenant_id, package_count, segment_count FROM input
        ), new_key AS (
            INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
            SELECT key_id, tenant_id, public_key, secret_hash, created_at FROM input
        ), deleted_owner AS (
            -- An owner whose tenant does not exist does not keep the address.
            DELETE FROM owners
             USING input
             WHERE owners.canonical_email = input.canonical_email
               AND NOT EXISTS (SELECT FROM tenants WHERE id = owners.tenant_id)
            RETURNING 1
        ), new_owner AS (
            -- After the deletion. Sorted, so that two statements cannot deadlock.
            INSERT INTO owners (tenant_id, email, canonical_email, password_hash, email_verified_at, revision)
            SELECT tenant_id, owner_email, canonical_email, password_hash, email_verified_at, tenant_id
              FROM input
             WHERE owner_email IS NOT NULL AND (SELECT count(*) FROM deleted_owner) >= 0
             ORDER BY canonical_email
        )
        -- One event for the whole of the tenant.
        INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
        SELECT 'tenant.adopted', adopted_at, tenant_id, event_caller, trace_id,
               jsonb_build_object('slug', slug, 'external_id', external_id, 'public_key', public_key,
                                  'segment_count', segment_count, 'package_count', package_count)
          FROM input
         ORDER BY ordinal
        "#,
        &column(&tenants, |tenant| uuid(tenant.id)),
        &column(&tenants, |tenant| tenant.slug.as_str()) as _,
        &column(&tenants, |tenant| tenant.name.as_str()) as _,
        &column(&tenants, |tenant| i32::from(tenant.commission.hundredths())),
        &column(&tenants, |tenant| tenant.branding.as_json()) as _,
        &column(&tenants, |tenant| tenant.is_active),
        &column(&tenants, |tenant| tenant.external_id.as_str()) as _,
        &column(&tenants, |tenant| tenant.created_at),
        &column(&tenants, |tenant| tenant.updated_at),
        &column(&tenants, |tenant| tenant.key.key_id.as_str()) as _,
        &column(&tenants, |tenant| tenant.key.public_key.as_str()) as _,
        &column(&tenants, |tenant| tenant.key.secret_hash.as_str()) as _,
        &column(&tenants, |tenant| tenant.owner.as_ref().map(|owner| owner.email.as_str())) as _,
        &column(&tenants, |tenant| tenant.owner.as_ref().map(|owner| owner.email.canonical())) as _,
        &column(&tenants, |tenant| Some(tenant.owner.as_ref()?.password_hash.as_ref()?.as_str())) as _,
        &column(&tenants, |tenant| tenant.owner.as_ref()?.email_verified_at) as _,
        &column(&adoptions, |adoption| count(adoption.segments.len())),
        &column(&adoptions, |adoption| count(adoption.packages.len())),
        &column(items, |item| item.actor.event_caller()) as _,
        &column(items, |item| item.actor.trace_id()) as _,
        &column(&segments, |segment| uuid(segment.tenant_id)),
        &column(&segments, |segment| segment.id.as_uuid()),
        &column(&segments, |segment| segment.slug.as_str()) as _,
        &column(&segments, |segment| segment.name.as_str()) as _,
        &column(&segments, |segment| segment.hero_title.as_str()) as _,
        &column(&segments, |segment| segment.description.as_str()) as _,
        &column(&segments, |segment| segment.sort_order),
        &column(&segments, |segment| segment.active),
        &column(&segments, |segment| segment.created_at),
        &column(&segments, |segment| segment.updated_at),
        &column(&segments, |segment| segment.external_id.as_deref()) as _,
        &column(&packages, |package| uuid(package.tenant_id)),
        &column(&packages, |package| package.id.as_uuid()),
        &column(&packages, |package| package.segment_id.as_uuid()),
        &column(&packages, |package| package.slug.as_str()) as _,
        &column(&packages, |package| package.name.as_str()) as _,
        &column(&packages, |package| package.description.as_str()) as _,
        &column(&packages, |package| package.base_price),
        &column(&packages, |package| package.booking_type.as_str()) as _,
        &column(&packages, |package| package.grouping_order),
        &column(&packages, |package| package.active),
        &column(&packages, |package| package.created_at),
        &column(&packages, |package| package.updated_at),
        &column(&packages, |package| package.external_id.as_deref()) as _,
        &column(items, |item| item.now),
        &column(&tenants, |tenant| Json(&tenant.labels)) as _,
        &column(&segments, |segment| segment.package_count),
    )
    .execute(&mut *connection)
    .await;
    citus::end_creation(connection).await;
    result.map(drop)
}
