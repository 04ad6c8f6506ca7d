//! Creates, rotates, lists and revokes API keys. Lookups by key id are in [`super::api_key_lookups`].

use std::num::NonZeroU32;

use sqlx::types::Json;
use time::{Duration, OffsetDateTime};

use super::{Store, column};
use crate::{
    domain::{
        Actor, ApiKey, ApiKeyScope, DisplayName, PublicKey, TenantId,
        api_key::{AddApiKey, CreateApiKey, ListApiKeys, RotateApiKey},
        idempotency::{IdempotencyScope, NewIdempotencyRecord, RECORD_LIFETIME},
        paging::ListRow,
        provisioning::NewApiKey,
    },
    error::{Error, Precondition, Resource, Result},
};

/// How many expired, revoked and replaced keys of a tenant are kept.
const MAX_ENDED_KEYS: i64 = 200;

/// The properties of a new key, and which keys it replaces.
struct Properties<'a> {
    name: Option<&'a str>,
    scope: ApiKeyScope,
    expires_at: Option<OffsetDateTime>,
    /// `None` for a key that replaces none.
    overlap_ends_at: Option<OffsetDateTime>,
    /// The key to replace, whose properties precede the others. `None` for a key that replaces all or none.
    replaced: Option<&'a PublicKey>,
}

impl<'a> Properties<'a> {
    fn new(request: &'a AddApiKey, now: OffsetDateTime) -> Self {
        match request {
            AddApiKey::Create(CreateApiKey { name, scope, expires_at, .. }) => Self {
                name: name.as_ref().map(DisplayName::as_str),
                scope: *scope,
                expires_at: *expires_at,
                overlap_ends_at: None,
                replaced: None,
            },
            AddApiKey::Rotate(RotateApiKey { public_key, overlap, .. }) => Self {
                name: None,
                scope: ApiKeyScope::default(),
                expires_at: None,
                overlap_ends_at: Some(now + *overlap),
                replaced: public_key.as_ref(),
            },
        }
    }
}

impl Store {
    /// Finds the slug of a tenant that is not deleted, for the stem of a new key.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn find_slug(&self, tenant_id: TenantId) -> Result<String> {
        sqlx::query_scalar!("SELECT slug FROM tenants WHERE id = $1 AND deleted_at IS NULL", tenant_id.as_uuid())
            .fetch_optional(&mut self.acquire_for(tenant_id, "find_slug").await?)
            .await?
            .ok_or(Error::not_found(Resource::Tenant))
    }

    /// Adds a key to the tenant, unless it then has more usable keys than `max_usable`. A rotation also lets the keys
    /// that it replaces expire after the overlap, or earlier if they already do. Deletes the oldest of the ended keys,
    /// if there are more than [`MAX_ENDED_KEYS`]; their idempotency records keep them as they were.
    ///
    /// The tenant's lock serializes the calls. Two rotations that did not see each other's key would both leave theirs
    /// without an expiry, and two creations would exceed the quota. The keys are counted, not their number maintained
    /// as those of packages and segments: a key also ends by the clock, and there are few to count.
    ///
    /// Returns `None` if the request id already has an idempotency record.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the key; [`Precondition::ApiKeyEnded`]; [`Error::QuotaExceeded`].
    #[expect(clippy::too_many_lines, reason = "it is one statement")]
    pub async fn add_api_key(
        &self,
        scope: &IdempotencyScope,
        request: &AddApiKey,
        new_key: &NewApiKey,
        record: Option<&NewIdempotencyRecord>,
        max_usable: NonZeroU32,
        now: OffsetDateTime,
    ) -> Result<Option<ApiKey>> {
        let tenant_id = request.tenant_id();
        let properties = Properties::new(request, now);
        let mut transaction = self.begin_as_provisioner("add_api_key", tenant_id).await?;
        let row = sqlx::query!(
            r#"
            WITH tenant AS (
                -- Empty if the tenant does not exist or is deleted.
                SELECT id FROM tenants WHERE id = $1 AND deleted_at IS NULL
            ), existing_key AS MATERIALIZED (
                -- The tenant's keys. A key that a rotation replaced earlier may still verify, but is not usable. This call
                -- replaces the key in $11, all that verify if only $10 is given, or none.
                SELECT *, verifies AND rotated_at IS NULL AS is_usable,
                       verifies AND $10::timestamptz IS NOT NULL AND ($11::text IS NULL OR key_id = $11) AS is_replaced
                  FROM (SELECT *, revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $8) AS verifies
                          FROM api_keys
                         WHERE tenant_id = $1) AS key
            ), named_key AS (
                SELECT * FROM existing_key WHERE key_id = $11 AND public_key = $12
            ), checked_tenant AS MATERIALIZED (
                SELECT id,
                       CASE
                           WHEN $11 IS NOT NULL AND NOT EXISTS (SELECT FROM named_key) THEN 'API_KEY_NOT_FOUND'
                           WHEN EXISTS (SELECT FROM named_key WHERE NOT is_usable) THEN 'API_KEY_ENDED'
                           WHEN $10 IS NULL AND (SELECT count(*) FROM existing_key WHERE is_usable) >= $16
                               THEN 'QUOTA_EXCEEDED'
                       END AS refusal
                  FROM tenant
            ), new_record AS (
                -- Empty if the request id has a record in force. An expired record is replaced, and a stray one as in
                -- `provisioning.rs`.
                INSERT INTO idempotency_records AS record
                            (caller, rpc, request_hash, fingerprint, salt, tenant_id, key_id, created_at)
                SELECT $2, $3, $4, $5, $6, id, $7, $8
                  FROM checked_tenant
                 WHERE refusal IS NULL AND $4::bytea IS NOT NULL
                ON CONFLICT ON CONSTRAINT idempotency_records_pkey DO UPDATE
                   SET fingerprint = excluded.fingerprint, salt = excluded.salt, tenant_id = excluded.tenant_id,
                       key_id = excluded.key_id, deleted_key = NULL, created_at = excluded.created_at
                 WHERE record.created_at <= $9
                    OR record.tenant_id = (SELECT stray.tenant_id
                                             FROM idempotency_records AS stray
                                            WHERE (stray.request_hash, stray.caller, stray.rpc)
                                                  = (excluded.request_hash, excluded.caller, excluded.rpc)
                                              AND NOT EXISTS (SELECT FROM tenants WHERE id = stray.tenant_id))
                RETURNING tenant_id
            ), target_tenant AS MATERIALIZED (
                -- The tenant, if nothing refuses the call and it has no request id or its record was inserted.
                SELECT id
                  FROM checked_tenant
                 WHERE refusal IS NULL AND ($4 IS NULL OR id IN (SELECT tenant_id FROM new_record))
            ), surplus_key AS MATERIALIZED (
                -- Of the keys that are not usable once this call has replaced some: all but the newest. Those that verify
                -- precede those that do not.
                SELECT key_id
                  FROM target_tenant
                  JOIN existing_key ON tenant_id = id
                 WHERE NOT is_usable OR is_replaced
                 ORDER BY verifies DESC, existing_key.created_at DESC, key_id DESC
                OFFSET $19
            ), deleted_key AS (
                DELETE FROM api_keys
                 WHERE key_id IN (SELECT key_id FROM surplus_key)
                RETURNING key_id, to_jsonb(api_keys) - 'secret_hash' AS key
            ), record_of_deleted_key AS (
                -- A replay returns the deleted key, without its secret. Not for an expired record, which this statement
                -- may replace.
                UPDATE idempotency_records AS record
                   SET deleted_key = deleted_key.key, salt = NULL
                  FROM deleted_key
                 WHERE record.tenant_id = $1 AND record.key_id = deleted_key.key_id AND record.created_at > $9
            ), replaced_key AS (
                -- A key that was revoked meanwhile stays as it is.
                UPDATE api_keys
                   SET expires_at = least(api_keys.expires_at, $10), rotated_at = coalesce(api_keys.rotated_at, $8)
                  FROM target_tenant
                  JOIN existing_key ON tenant_id = id AND is_replaced
                 WHERE api_keys.key_id = existing_key.key_id AND api_keys.revoked_at IS NULL
                   AND api_keys.key_id NOT IN (SELECT key_id FROM surplus_key)
            ), new_key AS (
                -- It gets the latest timestamp, even if another replica's clock is ahead.
                INSERT INTO api_keys (tenant_id, key_id, public_key, secret_hash, created_at, name, scope, expires_at)
                SELECT id, $7, $17, $18,
                       greatest($8, (SELECT max(created_at) FROM existing_key) + interval '1 microsecond'),
                       coalesce(named_key.name, $13), coalesce(named_key.scope, $14), coalesce(named_key.expires_at, $15)
                  FROM target_tenant
                  LEFT JOIN named_key ON true
                RETURNING to_jsonb(api_keys) - 'secret_hash' AS key
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT $20, $8, $1, $21, $22,
                       jsonb_strip_nulls(jsonb_build_object(
                           'public_key', key -> 'public_key', 'name', key -> 'name', 'scope', key -> 'scope',
                           'expires_at', key -> 'expires_at',
                           'replaced', (SELECT jsonb_agg(public_key ORDER BY created_at)
                                          FROM existing_key WHERE is_replaced)))
                  FROM new_key
            )
            SELECT refusal, (SELECT key FROM new_key) AS "key: Json<ApiKey>" FROM checked_tenant
            "#,
            tenant_id.as_uuid(),
            scope.actor.caller.name(),
            scope.rpc.as_str(),
            record.map(|record| record.request_hash.as_slice()),
            record.map(|record| record.fingerprint.0.as_slice()),
            record.map(|record| record.salt.as_slice()),
            new_key.key_id,
            now,
            now - RECORD_LIFETIME,
            properties.overlap_ends_at,
            properties.replaced.map(PublicKey::key_id),
            properties.replaced.map(PublicKey::as_str),
            properties.name,
            properties.scope.as_str(),
            properties.expires_at,
            i64::from(max_usable.get()),
            new_key.public_key,
            new_key.secret_hash,
            MAX_ENDED_KEYS,
            if properties.overlap_ends_at.is_some() { "api_key.rotated" } else { "api_key.created" },
            &*scope.actor.event_caller(),
            scope.actor.trace_id(),
        )
        .fetch_optional(transaction.connection())
        .await?;
        // A refused call has written nothing.
        transaction.commit().await?;
        let row = row.ok_or(Error::not_found(Resource::Tenant))?;
        match row.refusal.as_deref() {
            None => Ok(row.key.map(|key| key.0)),
            Some("API_KEY_NOT_FOUND") => Err(Error::not_found(Resource::ApiKey)),
            Some("API_KEY_ENDED") => Err(Precondition::ApiKeyEnded.into()),
            Some(_) => Err(Error::QuotaExceeded { tenant_id, resource: Resource::ApiKey, limit: max_usable }),
        }
    }

    /// Returns up to `limit` keys of a tenant, deleted or not, newest first.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn list_api_keys(
        &self,
        tenant_id: TenantId,
        list: &ListApiKeys,
        limit: usize,
    ) -> Result<Vec<ListRow<ApiKey>>> {
        let after = list.after.as_ref();
        let rows = sqlx::query!(
            r#"
            SELECT key AS "key: Json<ApiKey>", has_next
              FROM tenants
              LEFT JOIN LATERAL (
                    SELECT to_jsonb(candidate) - 'secret_hash' AS key, created_at, key_id,
                           lead(true) OVER (ORDER BY created_at DESC, key_id DESC) IS NOT NULL AS has_next
                      FROM (SELECT *
                              FROM api_keys
                             WHERE tenant_id = $1
                               AND (created_at, key_id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
                             ORDER BY created_at DESC, key_id DESC
                             LIMIT $4) AS candidate
                   ) AS listed ON true
             WHERE tenants.id = $1
             ORDER BY listed.created_at DESC, key_id DESC
            "#,
            tenant_id.as_uuid(),
            after.map(|after| after.created_at),
            after.map(|after| after.key_id.as_str()),
            i64::try_from(limit).map_err(Error::internal)?,
        )
        .fetch_all(&mut self.acquire_for(tenant_id, "list_api_keys").await?)
        .await?;
        // A tenant without a key on this page has one row, whose key is NULL.
        if rows.is_empty() {
            return Err(Error::not_found(Resource::Tenant));
        }
        let keys = rows.into_iter().filter_map(|row| {
            let Json(item) = row.key?;
            Some(ListRow { item, has_next: row.has_next.unwrap_or_default() })
        });
        Ok(keys.collect())
    }

    /// Revokes a key of this tenant. A key that is already revoked keeps its timestamp.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the key.
    pub async fn revoke_api_key(
        &self,
        tenant_id: TenantId,
        key: &PublicKey,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<ApiKey> {
        let key = sqlx::query_scalar!(
            r#"
            WITH locked AS MATERIALIZED (
                -- Before the first write, which is a row lock, too: see the table of events.
                SELECT pg_advisory_xact_lock(tenant_lock_key($4))
            ), tenant AS MATERIALIZED (
                -- Locked, and so read as it is once the lock is held: the snapshot of the statement is older.
                SELECT id FROM tenants WHERE id = $4 AND (SELECT count(*) FROM locked) = 1 FOR KEY SHARE
            ), previous AS MATERIALIZED (
                -- Empty if the tenant has no such key.
                SELECT key_id, revoked_at IS NOT NULL AS is_revoked
                  FROM api_keys
                 WHERE key_id = $2 AND public_key = $3 AND tenant_id = (SELECT id FROM tenant)
                   FOR NO KEY UPDATE
            ), revoked AS (
                UPDATE api_keys
                   SET revoked_at = coalesce(revoked_at, $1)
                 WHERE key_id = (SELECT key_id FROM previous)
                RETURNING to_jsonb(api_keys) - 'secret_hash' AS key
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT 'api_key.revoked', $1, $4, $5, $6, jsonb_build_object('public_key', $3::text)
                  FROM previous
                 WHERE NOT is_revoked
            )
            SELECT (SELECT key FROM revoked) AS "key: Json<ApiKey>" FROM tenant
            "#,
            now,
            key.key_id(),
            key.as_str(),
            tenant_id.as_uuid(),
            &*actor.event_caller(),
            actor.trace_id(),
        )
        .fetch_optional(&mut self.acquire_for(tenant_id, "revoke_api_key").await?)
        .await?
        .ok_or(Error::not_found(Resource::Tenant))?;
        key.map(|key| key.0).ok_or(Error::not_found(Resource::ApiKey))
    }

    /// Stores when these keys were used, except where the stored time is within `interval` before that. Skips a key
    /// that another transaction is changing, so that the statement never waits for a lock.
    pub async fn store_key_uses(&self, uses: &[(String, OffsetDateTime)], interval: Duration) -> Result<()> {
        sqlx::query!(
            r#"
            UPDATE api_keys
               SET last_used_at = used.at
              FROM (SELECT stored.key_id, requested.at
                      -- The subquery hides the array's length from the planner, as in `api_key_lookups.rs`.
                      FROM unnest((SELECT $1::text[]), $2::timestamptz[]) AS requested (key_id, at)
                     CROSS JOIN LATERAL (
                           SELECT key_id
                             FROM api_keys
                            WHERE key_id = requested.key_id
                              AND (last_used_at IS NULL OR last_used_at <= requested.at - $3::interval)
                              FOR NO KEY UPDATE SKIP LOCKED) AS stored
                   ) AS used
             WHERE api_keys.key_id = used.key_id
            "#,
            &column(uses, |(key_id, _)| key_id.as_str()) as _,
            &column(uses, |(_, at)| *at),
            interval as _,
        )
        .execute(&mut self.acquire("store_key_uses").await?)
        .await?;
        Ok(())
    }
}
