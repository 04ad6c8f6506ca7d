//! Tenants: read and change, including soft deletion. [`super::tenant_list`] lists them, [`super::provisioning`]
//! creates them, [`super::purge`] deletes them permanently.

use std::collections::BTreeMap;

use sqlx::types::Json;
use time::OffsetDateTime;

use super::{Store, error::is_constraint_violation};
use crate::{
    domain::{
        Actor, Branding, CommissionPercent, DisplayName, Etag, ExternalId, Labels, Tenant, TenantChange, TenantId,
        TenantIdentifier,
    },
    error::{Error, Precondition, Resource, Result, UniqueField},
};

/// The labels in a row of [`select_tenants!`].
pub(super) type StoredLabels = Json<BTreeMap<String, String>>;

/// A checked query that selects the columns of [`into_tenant!`] and further `columns`. `with` is an optional WITH
/// clause. The first argument, `$1`, is the current time, which determines the usable keys, which are read from `keys`.
macro_rules! select_tenants {
    (
        keys: $keys:tt,
        $(with: $with:tt,)?
        $(columns: $columns:tt,)?
        from: $from:tt $(+ $more:tt)*,
        $($argument:expr),* $(,)?
    ) => {
        sqlx::query!(
            $($with +)?
            r#"
            SELECT tenants.id AS "id!", slug AS "slug!", name AS "name!",
                   (commission_percent * 100)::int4 AS "commission_hundredths!",
                   branding::text AS "branding!", is_active AS "is_active!",
                   tenants.created_at AS "created_at!", updated_at AS "updated_at!", deleted_at,
                   owners.email AS "owner_email?", owners.email_verified_at AS "owner_email_verified_at?",
                   external_id, labels AS "labels!: StoredLabels", tenants.revision, owners.revision AS "owner_revision?",
                   (SELECT public_key
                      FROM "# + $keys + r#"
                     WHERE api_keys.tenant_id = tenants.id
                     ORDER BY (revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)) DESC,
                              created_at DESC, key_id DESC
                     LIMIT 1) AS "api_key_public?"
            "# + $($columns +)? $from $(+ $more)*,
            $($argument),*
        )
    };
    ($($query:tt)*) => {
        $crate::store::tenants::select_tenants!(keys: "api_keys", $($query)*)
    };
}

/// Converts a row of [`select_tenants!`], which moves the tenant's columns out of it. It is a macro because the type of
/// the row is anonymous.
macro_rules! into_tenant {
    ($row:ident) => {
        $crate::store::tenants::parse_commission($row.commission_hundredths).map(|commission| $crate::domain::Tenant {
            id: $crate::domain::TenantId::from_uuid($row.id),
            slug: $row.slug,
            name: $row.name,
            // A tenant without a key is damaged, but must still be readable.
            api_key_public: $row.api_key_public.unwrap_or_default(),
            commission,
            is_active: $row.is_active,
            branding: $crate::domain::StoredBranding::from_json($row.branding),
            owner_email: $row.owner_email,
            owner_email_verified_at: $row.owner_email_verified_at,
            created_at: $row.created_at,
            updated_at: $row.updated_at,
            deleted_at: $row.deleted_at,
            external_id: $row.external_id,
            labels: $row.labels.0,
            etag: $crate::domain::Etag {
                owner_revision: $row.owner_revision,
                ..$crate::domain::Etag::new($row.id, $row.revision)
            },
        })
    };
}

pub(super) use {into_tenant, select_tenants};

impl Store {
    /// Returns the tenant, deleted or not. `now` determines its usable keys.
    pub async fn get_tenant(&self, identifier: &TenantIdentifier, now: OffsetDateTime) -> Result<Option<Tenant>> {
        let (mut id, mut slug, mut external_id, mut public_key, mut email) = (None, None, None, None, None);
        match identifier {
            TenantIdentifier::Id(of_tenant) => id = Some(of_tenant.as_uuid()),
            TenantIdentifier::Slug(of_tenant) => slug = Some(of_tenant.as_str()),
            TenantIdentifier::ExternalId(of_tenant) => external_id = Some(of_tenant.as_str()),
            TenantIdentifier::PublicKey(of_key) => public_key = Some(of_key.as_str()),
            TenantIdentifier::OwnerEmail(of_owner) => email = Some(of_owner.canonical()),
        }
        let row = select_tenants!(
            from: "FROM tenants LEFT JOIN owners ON owners.tenant_id = tenants.id
            WHERE tenants.id = coalesce($2, (SELECT id FROM tenants WHERE slug = $3),
                                        (SELECT id FROM tenants WHERE external_id = $4::text),
                                        (SELECT tenant_id FROM api_keys
                                          WHERE key_id = right($5::text, 16) AND public_key = $5),
                                        (SELECT tenant_id FROM owners WHERE canonical_email = $6::text))",
            now,
            id,
            slug,
            external_id,
            public_key,
            email,
        );
        let connection = match identifier {
            TenantIdentifier::Id(id) => self.acquire_for(*id, "get_tenant").await,
            _ => self.acquire("get_tenant").await,
        };
        let row = row.fetch_optional(&mut connection?).await?;
        row.map(|row| into_tenant!(row)).transpose()
    }

    /// Changes the tenant and returns it. One statement does both, so that the result is what was written. A change to
    /// the same values does not modify `updated_at`.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a deleted tenant, unless the change is to delete or undelete it;
    /// [`Error::EtagMismatch`]; for the external id [`Error::AlreadyExists`] and [`Error::FailedPrecondition`].
    pub async fn change_tenant(
        &self,
        tenant_id: TenantId,
        change: &TenantChange,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<Tenant> {
        let columns = ChangedColumns::from(change);
        // The owner and the keys are read as they are once the lock is held: the snapshot of the statement is older.
        let row = select_tenants!(
            keys: "current_api_keys(tenants.id) AS api_keys",
            with: "WITH locked AS MATERIALIZED (
                -- Before the first write, which is a row lock, too: see the table of events.
                SELECT pg_advisory_xact_lock(tenant_lock_key($2))
            ), previous AS MATERIALIZED (
                SELECT * FROM tenants WHERE id = $2 AND (SELECT count(*) FROM locked) = 1 FOR NO KEY UPDATE
            ), changed AS (
                UPDATE tenants
                   SET name = coalesce($3, name),
                       commission_percent = coalesce($4::int4 / 100.0, commission_percent),
                       branding = coalesce($5::text::jsonb, branding),
                       is_active = coalesce($6, is_active),
                       external_id = coalesce(external_id, $10),
                       labels = coalesce($14, labels),
                       deleted_at = CASE WHEN $7 THEN coalesce(deleted_at, $1)
                                         WHEN NOT $7 THEN NULL
                                         ELSE deleted_at END,
                       updated_at = CASE WHEN name <> $3 OR commission_percent <> $4::int4 / 100.0
                                           OR branding <> $5::text::jsonb OR is_active <> $6
                                           OR (deleted_at IS NOT NULL) <> $7
                                           OR external_id IS DISTINCT FROM coalesce($10, external_id)
                                           OR labels <> $14::jsonb THEN $1
                                         ELSE updated_at END
                 WHERE id = $2 AND EXISTS (SELECT FROM previous) AND (deleted_at IS NULL OR $7::bool IS NOT NULL)
                   AND ($8::uuid IS NULL
                        OR (coalesce(revision, id) = $8
                            AND (SELECT owner.revision
                                   FROM previous
                                  CROSS JOIN LATERAL current_owner(previous.id) AS owner) IS NOT DISTINCT FROM $9::uuid))
                   AND coalesce(external_id = $10::text, true)
                RETURNING *
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT $11, $1, $2, $12, $13, data
                  FROM previous
                 CROSS JOIN changed
                 CROSS JOIN LATERAL changed_columns(to_jsonb(previous), to_jsonb(changed)) AS data
                 WHERE data -> 'fields' <> '[]'
            )",
            from: "FROM changed AS tenants LEFT JOIN LATERAL current_owner(tenants.id) AS owners ON true",
            now,
            tenant_id.as_uuid(),
            columns.name,
            columns.commission.map(|commission| i32::from(commission.hundredths())),
            columns.branding,
            columns.is_active,
            columns.is_deleted,
            columns.etag.map(|etag| etag.revision),
            columns.etag.and_then(|etag| etag.owner_revision),
            columns.external_id,
            change.event_type(),
            &*actor.event_caller(),
            actor.trace_id(),
            columns.labels.map(Json) as _,
        );
        let row = row.fetch_optional(&mut self.acquire_for(tenant_id, "change_tenant").await?).await;
        let row = match row {
            Err(error) if is_constraint_violation(&error, "tenants_external_id_key") => {
                return Err(Error::already_exists(UniqueField::TenantExternalId, columns.external_id));
            }
            row => row?,
        };
        let Some(row) = row else { return Err(self.unchanged_tenant_error(tenant_id, &columns, now).await?) };
        into_tenant!(row)
    }

    /// Returns why a change found no tenant to change.
    async fn unchanged_tenant_error(
        &self,
        tenant_id: TenantId,
        columns: &ChangedColumns<'_>,
        now: OffsetDateTime,
    ) -> Result<Error> {
        let not_found = Error::not_found(Resource::Tenant);
        if columns.etag.is_none() && columns.external_id.is_none() {
            return Ok(not_found);
        }
        let existing = self.get_tenant(&TenantIdentifier::Id(tenant_id), now).await?;
        let can_change = |tenant: &Tenant| tenant.deleted_at.is_none() || columns.is_deleted.is_some();
        let Some(existing) = existing.filter(can_change) else { return Ok(not_found) };
        Ok(if columns.etag.is_some_and(|etag| etag != existing.etag) {
            Error::EtagMismatch(Resource::Tenant)
        } else if columns.external_id.is_some() && existing.external_id.as_deref() != columns.external_id {
            Precondition::ExternalIdSet.into()
        } else {
            // It has been changed back since.
            Error::Conflict
        })
    }
}

/// The new value of each column; `None` leaves the column as it is.
#[derive(Default)]
struct ChangedColumns<'a> {
    name: Option<&'a str>,
    commission: Option<CommissionPercent>,
    branding: Option<&'a str>,
    is_active: Option<bool>,
    is_deleted: Option<bool>,
    /// Can be set once.
    external_id: Option<&'a str>,
    labels: Option<&'a Labels>,
    /// The etag that the tenant must have.
    etag: Option<Etag>,
}

impl<'a> From<&'a TenantChange> for ChangedColumns<'a> {
    fn from(change: &'a TenantChange) -> Self {
        let unchanged = Self::default();
        match change {
            TenantChange::Update(update) => Self {
                name: update.name.as_ref().map(DisplayName::as_str),
                commission: update.commission,
                branding: update.branding.as_ref().map(Branding::as_json),
                external_id: update.external_id.as_ref().map(ExternalId::as_str),
                labels: update.labels.as_ref(),
                etag: update.etag,
                ..unchanged
            },
            TenantChange::Suspend => Self { is_active: Some(false), ..unchanged },
            TenantChange::Reactivate => Self { is_active: Some(true), ..unchanged },
            TenantChange::Delete(etag) => Self { is_deleted: Some(true), etag: *etag, ..unchanged },
            TenantChange::Undelete => Self { is_deleted: Some(false), ..unchanged },
        }
    }
}

pub(super) fn parse_commission(hundredths: i32) -> Result<CommissionPercent> {
    let commission = u16::try_from(hundredths).ok().and_then(CommissionPercent::from_hundredths);
    commission.ok_or_else(|| Error::internal("commission out of range in the database"))
}
