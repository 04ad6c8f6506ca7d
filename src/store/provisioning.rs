//! The statement that creates tenants, each completely or not at all (docs/adr/0001-one-statement.md). Concurrent calls
//! share it. It writes idempotency records but does not read them: that is in `idempotency.rs`.

use std::sync::Arc;

use sqlx::types::Json;
use strum::{EnumString, ParseError};
use uuid::Uuid;

use super::{
    ConnectionPool, Store, citus, column,
    error::{is_constraint_violation, is_rolled_back},
    pool::PooledConnection,
    shared_statements::{Lane, SharedStatement, StatementFailure},
};
use crate::{
    domain::{
        ExternalId, TenantSlug, defaults,
        idempotency::{IdempotencyScope, RECORD_LIFETIME, Sha256Digest},
        provisioning::TenantInsert,
    },
    error::{Error, Result, UniqueField},
};

/// What the statement did for one tenant. Parses from the name that the statement gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Insertion {
    Created,
    /// Its slug already exists, or its request id has a record. Nothing was written.
    Exists,
    /// The e-mail address of its owner already exists. Nothing was written.
    EmailExists,
    /// Its external id already exists. Nothing was written.
    ExternalIdExists,
}

/// The statement that creates tenants.
pub(super) struct Provisioning(pub ConnectionPool);

/// A tenant to create.
pub(super) struct TenantCreation {
    scope: IdempotencyScope,
    tenant: Arc<TenantInsert>,
}

/// What distinguishes the tenants of a statement. The slug comes first, so that it determines their order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CreationKey {
    Slug(String),
    /// The names of caller and RPC, and the hash of the request id.
    Request(Arc<str>, &'static str, Sha256Digest),
    Email(String),
    ExternalId(String),
}

impl Store {
    /// Creates a tenant with its General segment, packages and key, and with its owner and idempotency record if it has
    /// them, in one statement and therefore in one transaction. Concurrent calls share the statement, and none of them
    /// affects the result of another. Records and owners whose own tenant does not exist (see `integrity.rs`) do not
    /// count.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the tenant lost a race, [`Error::AlreadyExists`] if it lost one for the e-mail address of
    /// its owner. Nothing was written in either case.
    pub async fn create_fully_provisioned(
        &self,
        scope: &IdempotencyScope,
        lane: Lane,
        tenant: &Arc<TenantInsert>,
    ) -> Result<Insertion> {
        let creation = TenantCreation { scope: scope.clone(), tenant: Arc::clone(tenant) };
        self.provisioning.run(lane, creation).await
    }

    /// Returns the number of tenants that wait for the statement that creates them.
    pub fn waiting_creations(&self) -> u64 {
        u64::try_from(self.provisioning.waiting()).unwrap_or(u64::MAX)
    }

    /// Returns which of the slug and the external id a tenant has, deleted or not.
    pub async fn existing_field(
        &self,
        slug: &TenantSlug,
        external_id: Option<&ExternalId>,
    ) -> Result<Option<UniqueField>> {
        let exists = sqlx::query!(
            r#"
            SELECT EXISTS (SELECT FROM tenants WHERE slug = $1) AS "slug!",
                   EXISTS (SELECT FROM tenants WHERE external_id = $2::text) AS "external_id!"
            "#,
            slug.as_str(),
            external_id.map(ExternalId::as_str),
        );
        let exists = exists.fetch_one(&mut self.acquire("existing_field").await?).await?;
        let external_id = exists.external_id.then_some(UniqueField::TenantExternalId);
        Ok(exists.slug.then_some(UniqueField::TenantSlug).or(external_id))
    }
}

impl SharedStatement for Provisioning {
    type Item = TenantCreation;
    type Key = CreationKey;
    type Output = Insertion;
    type Connection = PooledConnection;

    const MAX_ITEMS: usize = 32;
    const MAX_STATEMENTS: usize = 2;

    fn keys(TenantCreation { scope, tenant }: &TenantCreation) -> Vec<CreationKey> {
        let slug = CreationKey::Slug(tenant.tenant.slug.to_string());
        let request = tenant.record.as_ref().map(|record| {
            CreationKey::Request(Arc::clone(scope.actor.caller.name()), scope.rpc.as_str(), record.request_hash)
        });
        let email = tenant.tenant.owner.as_ref().map(|owner| CreationKey::Email(owner.email.canonical().to_owned()));
        let external_id = tenant.tenant.external_id.as_ref().map(|id| CreationKey::ExternalId(id.as_str().to_owned()));
        [Some(slug), request, email, external_id].into_iter().flatten().collect()
    }

    async fn connect(&self) -> Result<PooledConnection> {
        self.0.acquire("create_fully_provisioned").await
    }

    async fn run(
        &self,
        mut connection: PooledConnection,
        tenants: &[&TenantCreation],
    ) -> std::result::Result<Vec<Insertion>, StatementFailure> {
        let rows = insert(&mut connection, tenants)
            .await
            .map_err(|error| StatementFailure { retry_alone: is_rolled_back(&error), error: creation_error(error) })?;
        let mut insertions = vec![Insertion::Exists; tenants.len()];
        for Row { ordinal, outcome } in rows {
            let insertion = usize::try_from(ordinal - 1).ok().and_then(|index| insertions.get_mut(index));
            if let Some(insertion) = insertion {
                let unknown =
                    |error: ParseError| StatementFailure { retry_alone: false, error: Error::internal(error) };
                *insertion = outcome.parse().map_err(unknown)?;
            }
        }
        Ok(insertions)
    }

    fn wait_timed_out(&self) -> Error {
        self.0.wait_timed_out()
    }
}

/// Returns the error of a tenant that was in a statement alone.
fn creation_error(error: sqlx::Error) -> Error {
    if is_constraint_violation(&error, "tenants_slug_key") {
        // Another replica took the slug between the check and the insert. The next try will find its tenant.
        Error::Conflict
    } else if is_constraint_violation(&error, "tenants_external_id_key") {
        Error::already_exists(UniqueField::TenantExternalId, None)
    } else if is_constraint_violation(&error, "owners_email_key") {
        Error::already_exists(UniqueField::OwnerEmail, None)
    } else {
        error.into()
    }
}

/// A tenant that was created, or whose external id or owner's e-mail address already exists.
struct Row {
    /// Its position among the tenants, counted from 1.
    ordinal: i64,
    /// The name of an [`Insertion`].
    outcome: String,
}

/// Returns a row for each tenant, except those whose slug already exists or whose request id has a record.
///
/// `tenants` is inserted without ON CONFLICT, which would skip a tenant but not its parts. A slug or an address lost to
/// a race violates its unique constraint instead, and each tenant is tried again alone.
#[expect(clippy::too_many_lines, reason = "it is one statement")]
async fn insert(connection: &mut PooledConnection, tenants: &[&TenantCreation]) -> sqlx::Result<Vec<Row>> {
    let scopes: Vec<&IdempotencyScope> = tenants.iter().map(|creation| &creation.scope).collect();
    let tenants: Vec<&TenantInsert> = tenants.iter().map(|creation| &*creation.tenant).collect();
    let (scopes, tenants) = (scopes.as_slice(), tenants.as_slice());
    let (segment, packages) = (&defaults::SEGMENT, &defaults::PACKAGES);
    // The ids of the first tenant's packages, then those of the second, and so on.
    let package_ids = tenants.iter().flat_map(|item| &item.tenant.package_ids).map(|id| id.as_uuid());
    let package_ids: Vec<Uuid> = package_ids.collect();
    citus::begin_creation(connection).await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        WITH input AS (
            -- One row per tenant. The first array is in a subquery, so that the planner cannot see its length.
            -- Otherwise Postgres prefers a custom plan for each execution, and planning costs more than executing.
            -- Of the package ids, each tenant gets the group at its ordinal; a group is as long as $25.
            SELECT tenant.*,
                   ($18::uuid[])[(ordinal - 1) * cardinality($25::text[]) + 1 : ordinal * cardinality($25::text[])]
                       AS package_ids
              FROM unnest((SELECT $1::uuid[]), $2::text[], $3::text[], $4::int4[], $5::timestamptz[], $6::uuid[],
                          $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
                          $13::text[], $14::text[], $15::bytea[], $16::bytea[], $17::bytea[], $31::text[],
                          $32::text[], $33::text[], $34::jsonb[])
                   WITH ORDINALITY AS tenant (tenant_id, slug, name, commission_hundredths, created_at, segment_id,
                                              key_id, public_key, secret_hash, owner_email, canonical_email,
                                              password_hash, caller, rpc, request_hash, fingerprint, salt, external_id,
                                              event_caller, trace_id, labels, ordinal)
        ), free_slug AS MATERIALIZED (
            -- Tenants whose slug is free now. If it no longer is at the insert, the statement fails.
            SELECT * FROM input WHERE NOT EXISTS (SELECT FROM tenants WHERE tenants.slug = input.slug)
        ), existing_email AS MATERIALIZED (
            -- LIMIT 1: the indexes are searched for each address, whatever the planner knows about the tables.
            SELECT ordinal
              FROM free_slug
             CROSS JOIN LATERAL (
                   SELECT tenant_id FROM owners WHERE canonical_email = free_slug.canonical_email LIMIT 1) AS owner
             CROSS JOIN LATERAL (SELECT FROM tenants WHERE id = owner.tenant_id LIMIT 1) AS existing
        ), existing_external_id AS MATERIALIZED (
            SELECT ordinal
              FROM free_slug
             CROSS JOIN LATERAL (SELECT FROM tenants WHERE external_id = free_slug.external_id LIMIT 1) AS existing
        ), available AS MATERIALIZED (
            SELECT *
              FROM free_slug
             WHERE ordinal NOT IN (SELECT ordinal FROM existing_email UNION ALL SELECT ordinal FROM existing_external_id)
        ), new_record AS (
            -- The first writer wins. A second identical call of another replica blocks on the index and then writes
            -- nothing. An expired record is replaced, and a stray one, whose tenant does not exist. Only a record in this
            -- statement's snapshot can be stray: if a concurrent call has just written it, the snapshot lacks its tenant.
            -- Sorted, so that two statements cannot deadlock.
            INSERT INTO idempotency_records AS record (caller, rpc, request_hash, fingerprint, salt, tenant_id,
                                                       key_id, segment_id, package_ids, created_at)
            SELECT caller, rpc, request_hash, fingerprint, salt, tenant_id, key_id, segment_id, package_ids,
                   created_at
              FROM available
             WHERE request_hash IS NOT NULL
             ORDER BY request_hash, caller, rpc
            ON CONFLICT ON CONSTRAINT idempotency_records_pkey DO UPDATE
               SET fingerprint = excluded.fingerprint, salt = excluded.salt, tenant_id = excluded.tenant_id,
                   key_id = excluded.key_id, deleted_key = NULL, segment_id = excluded.segment_id,
                   package_ids = excluded.package_ids, created_at = excluded.created_at
             WHERE record.created_at <= excluded.created_at - $19::interval
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
                                 is_signup, external_id, labels)
            SELECT tenant_id, slug, name, commission_hundredths / 100.0, '{}', true, created_at, created_at,
                   owner_email IS NOT NULL, external_id, labels FROM to_insert
        ), new_segment AS (
            -- The General segment.
            INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                  created_at, updated_at, package_count)
            SELECT tenant_id, segment_id, $20, $21, $22, $23, $24, true, created_at, created_at,
                   cardinality($25::text[])
              FROM to_insert
        ), new_package AS (
            -- All default packages for each tenant.
            INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                  grouping_order, active, created_at, updated_at)
            SELECT tenant_id, package_ids[default_package.position], segment_id, default_package.slug,
                   default_package.name, description, base_price, $30::text::booking_type, grouping_order, true, created_at, created_at
              FROM to_insert
             CROSS JOIN unnest($25::text[], $26::text[], $27::text[], $28::int8[], $29::int4[]) WITH ORDINALITY
                   AS default_package (slug, name, description, base_price, grouping_order, position)
        ), new_usage AS (
            INSERT INTO tenant_usage (tenant_id, package_count, segment_count)
            SELECT tenant_id, cardinality($25::text[]), 1 FROM to_insert
        ), new_key AS (
            -- Only the hash of the secret is stored.
            INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
            SELECT key_id, tenant_id, public_key, secret_hash, created_at FROM to_insert
        ), deleted_owner AS (
            -- An owner whose tenant does not exist does not keep the address.
            DELETE FROM owners
             USING to_insert
             WHERE owners.canonical_email = to_insert.canonical_email
               AND NOT EXISTS (SELECT FROM tenants WHERE id = owners.tenant_id)
            RETURNING 1
        ), new_owner AS (
            -- Sign-ups only, after the deletion. Sorted, so that two statements cannot deadlock.
            INSERT INTO owners (tenant_id, email, canonical_email, password_hash, revision)
            SELECT tenant_id, owner_email, canonical_email, password_hash, tenant_id
              FROM to_insert
             WHERE owner_email IS NOT NULL AND (SELECT count(*) FROM deleted_owner) >= 0
             ORDER BY canonical_email
        ), new_event AS (
            -- One for the whole of the tenant.
            INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
            SELECT 'tenant.created', created_at, tenant_id, event_caller, trace_id,
                   -- Short, because it is a large part of what a creation writes.
                   jsonb_build_object('slug', slug, 'segment_id', segment_id, 'package_ids', package_ids,
                                      'public_key', public_key)
              FROM to_insert
             ORDER BY ordinal
        )
        SELECT ordinal AS "ordinal!", 'CREATED' AS "outcome!" FROM to_insert
         UNION ALL
        SELECT ordinal, 'EMAIL_EXISTS' FROM existing_email
         UNION ALL
        SELECT ordinal, 'EXTERNAL_ID_EXISTS' FROM existing_external_id
        "#,
        &column(tenants, |item| item.tenant.id.as_uuid()),
        &column(tenants, |item| item.tenant.slug.as_str()) as _,
        &column(tenants, |item| item.tenant.name.as_str()) as _,
        &column(tenants, |item| i32::from(item.tenant.commission.hundredths())),
        &column(tenants, |item| item.tenant.created_at),
        &column(tenants, |item| item.tenant.segment_id.as_uuid()),
        &column(tenants, |item| item.key.key_id.as_str()) as _,
        &column(tenants, |item| item.key.public_key.as_str()) as _,
        &column(tenants, |item| item.key.secret_hash.as_str()) as _,
        &column(tenants, |item| item.tenant.owner.as_ref().map(|owner| owner.email.as_str())) as _,
        &column(tenants, |item| item.tenant.owner.as_ref().map(|owner| owner.email.canonical())) as _,
        &column(tenants, |item| item.tenant.owner.as_ref().map(|owner| owner.password_hash.as_str())) as _,
        &column(scopes, |scope| &**scope.actor.caller.name()) as _,
        &column(scopes, |scope| scope.rpc.as_str()) as _,
        &column(tenants, |item| item.record.as_ref().map(|record| record.request_hash.as_slice())) as _,
        &column(tenants, |item| item.record.as_ref().map(|record| record.fingerprint.0.as_slice())) as _,
        &column(tenants, |item| item.record.as_ref().map(|record| record.salt.as_slice())) as _,
        &package_ids,
        RECORD_LIFETIME as _,
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
        &column(tenants, |item| item.tenant.external_id.as_ref().map(ExternalId::as_str)) as _,
        &column(scopes, |scope| scope.actor.event_caller()) as _,
        &column(scopes, |scope| scope.actor.trace_id()) as _,
        &column(tenants, |item| Json(&item.tenant.labels)) as _,
    )
    .fetch_all(&mut *connection)
    .await;
    citus::end_creation(connection).await;
    rows
}
