//! Rotates, lists and revokes API keys. Lookups by key id are in [`super::api_key_lookups`].

use sqlx::types::Json;
use time::{Duration, OffsetDateTime};

use super::Store;
use crate::{
    domain::{
        ApiKey, PublicKey, TenantId,
        idempotency::{IdempotencyScope, NewIdempotencyRecord, RECORD_LIFETIME},
        provisioning::NewApiKey,
    },
    error::{Error, Resource, Result},
};

/// Upper bound of the keys of a list, which has no pages.
const MAX_LISTED: i64 = 500;

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

    /// Adds a key, and lets those that are not revoked expire after the overlap, or earlier if they already do.
    ///
    /// The tenant's lock serializes rotations: two that did not see each other's key would both leave theirs without an
    /// expiry.
    ///
    /// Returns `None` if there is no such tenant, or if the request id already has an idempotency record.
    pub async fn rotate_api_key(
        &self,
        scope: &IdempotencyScope,
        tenant_id: TenantId,
        new_key: &NewApiKey,
        record: Option<&NewIdempotencyRecord>,
        overlap: Duration,
        now: OffsetDateTime,
    ) -> Result<Option<ApiKey>> {
        let mut transaction = self.begin_as_provisioner("rotate_api_key", tenant_id).await?;
        let key = sqlx::query_scalar!(
            r#"
            WITH tenant AS (
                -- Empty if the tenant does not exist or is deleted.
                SELECT id FROM tenants WHERE id = $1 AND deleted_at IS NULL
            ), new_record AS (
                -- Empty if the request id has a record in force. An expired record is replaced, and a stray one as in
                -- `provisioning.rs`.
                INSERT INTO idempotency_records AS record
                            (caller, rpc, request_hash, fingerprint, salt, tenant_id, key_id, created_at)
                SELECT $2, $3, $4, $5, $6, id, $7, $8 FROM tenant WHERE $4::bytea IS NOT NULL
                ON CONFLICT ON CONSTRAINT idempotency_records_pkey DO UPDATE
                   SET fingerprint = excluded.fingerprint, salt = excluded.salt, tenant_id = excluded.tenant_id,
                       key_id = excluded.key_id, created_at = excluded.created_at
                 WHERE record.created_at <= $9
                    OR record.tenant_id = (SELECT stray.tenant_id
                                             FROM idempotency_records AS stray
                                            WHERE (stray.request_hash, stray.caller, stray.rpc)
                                                  = (excluded.request_hash, excluded.caller, excluded.rpc)
                                              AND NOT EXISTS (SELECT FROM tenants WHERE id = stray.tenant_id))
                RETURNING tenant_id
            ), rotated_tenant AS MATERIALIZED (
                -- The tenant, if the call has no request id or its record was inserted.
                SELECT id FROM tenant WHERE $4 IS NULL OR id IN (SELECT tenant_id FROM new_record)
            ), existing_key AS (
                -- Existing keys expire after the overlap. A revoked key stays as it is.
                UPDATE api_keys
                   SET expires_at = least(expires_at, $10)
                  FROM rotated_tenant
                 WHERE tenant_id = rotated_tenant.id AND revoked_at IS NULL
            )
            -- The new key gets the latest timestamp, even if another replica's clock is ahead.
            INSERT INTO api_keys (tenant_id, key_id, public_key, secret_hash, created_at)
            SELECT id, $7, $11, $12,
                   greatest($8, (SELECT max(created_at) FROM api_keys WHERE tenant_id = rotated_tenant.id)
                                + interval '1 microsecond')
              FROM rotated_tenant
            RETURNING to_jsonb(api_keys) - 'secret_hash' AS "key!: Json<ApiKey>"
            "#,
            tenant_id.as_uuid(),
            scope.caller.name(),
            scope.rpc.as_str(),
            record.map(|record| record.request_hash.as_slice()),
            record.map(|record| record.fingerprint.0.as_slice()),
            record.map(|record| record.salt.as_slice()),
            new_key.key_id,
            now,
            now - RECORD_LIFETIME,
            now + overlap,
            new_key.public_key,
            new_key.secret_hash,
        )
        .fetch_optional(transaction.connection())
        .await?;
        transaction.commit().await?;
        Ok(key.map(|key| key.0))
    }

    /// Lists the newest keys of a tenant, deleted or not, newest first.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn list_api_keys(&self, tenant_id: TenantId) -> Result<Vec<ApiKey>> {
        let keys = sqlx::query_scalar!(
            r#"
            SELECT to_jsonb(api_keys) - 'secret_hash' AS "key: Json<ApiKey>"
              FROM tenants
              LEFT JOIN api_keys ON api_keys.tenant_id = tenants.id
             WHERE tenants.id = $1
             ORDER BY api_keys.created_at DESC, key_id DESC
             LIMIT $2
            "#,
            tenant_id.as_uuid(),
            MAX_LISTED,
        )
        .fetch_all(&mut self.acquire_for(tenant_id, "list_api_keys").await?)
        .await?;
        // A tenant without a key has one row, whose key is NULL.
        if keys.is_empty() {
            return Err(Error::not_found(Resource::Tenant));
        }
        Ok(keys.into_iter().flatten().map(|key| key.0).collect())
    }

    /// Revokes a key of this tenant. A key that is already revoked keeps its timestamp.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the key.
    pub async fn revoke_api_key(&self, tenant_id: TenantId, key: &PublicKey, now: OffsetDateTime) -> Result<ApiKey> {
        let key = sqlx::query_scalar!(
            r#"
            WITH revoked AS (
                -- Empty if the tenant has no such key.
                UPDATE api_keys
                   SET revoked_at = coalesce(revoked_at, $1)
                 WHERE key_id = $2 AND public_key = $3 AND tenant_id = $4
                RETURNING to_jsonb(api_keys) - 'secret_hash' AS key
            )
            SELECT (SELECT key FROM revoked) AS "key: Json<ApiKey>" FROM tenants WHERE id = $4
            "#,
            now,
            key.key_id(),
            key.as_str(),
            tenant_id.as_uuid(),
        )
        .fetch_optional(&mut self.acquire_for(tenant_id, "revoke_api_key").await?)
        .await?
        .ok_or(Error::not_found(Resource::Tenant))?;
        key.map(|key| key.0).ok_or(Error::not_found(Resource::ApiKey))
    }
}
