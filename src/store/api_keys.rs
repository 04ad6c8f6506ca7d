//! API keys: rotated, listed, revoked. How they are found is in [`super::api_key_lookups`].

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Store;
use crate::{
    domain::{
        ApiKey, PublicKey, TenantId,
        idempotency::{IdempotencyScope, NewIdempotencyRecord, RECORD_LIFETIME},
        provisioning::NewApiKey,
    },
    error::{Error, Resource, Result},
};

impl Store {
    /// The slug of a living tenant, for the name of a new key.
    ///
    /// # Errors
    /// [`Error::NotFound`]; those of the database.
    pub async fn find_slug(&self, tenant_id: TenantId) -> Result<String> {
        sqlx::query_scalar!("SELECT slug FROM tenants WHERE id = $1 AND deleted_at IS NULL", tenant_id.as_uuid())
            .fetch_optional(&mut self.acquire("find_slug").await?)
            .await?
            .ok_or(Error::not_found(Resource::Tenant))
    }

    /// Adds a key, and lets those that are usable now expire after the overlap, unless they do so sooner anyway.
    ///
    /// One at a time for a tenant: two that did not see each other's key would both leave theirs without an end. The new
    /// key is the newest even where another replica's clock is ahead.
    ///
    /// `None` where there is no such tenant, or where the request id is claimed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rotate_api_key(
        &self,
        scope: &IdempotencyScope,
        tenant_id: TenantId,
        new_key: &NewApiKey,
        claim: Option<&NewIdempotencyRecord>,
        overlap: Duration,
        now: OffsetDateTime,
    ) -> Result<Option<ApiKey>> {
        let mut transaction = self.begin_as_provisioner("rotate_api_key", tenant_id).await?;
        let row = sqlx::query_as!(
            ApiKeyRow,
            r#"
            WITH tenant AS (
                SELECT id FROM tenants WHERE id = $1 AND deleted_at IS NULL
            ), claimed AS (
                INSERT INTO idempotency_records AS claim (caller, rpc, request_hash, fingerprint, salt, tenant_id, key_id,
                                                     created_at)
                SELECT $7, $8, $9, $10, $11, id, $2, $5 FROM tenant WHERE $9::bytea IS NOT NULL
                ON CONFLICT ON CONSTRAINT idempotency_records_pkey DO UPDATE
                   SET fingerprint = excluded.fingerprint, salt = excluded.salt, tenant_id = excluded.tenant_id,
                       key_id = excluded.key_id, created_at = excluded.created_at
                 WHERE claim.created_at <= $12
                RETURNING tenant_id
            ), winner AS MATERIALIZED (
                SELECT id FROM tenant WHERE $9 IS NULL OR id IN (SELECT tenant_id FROM claimed)
            ), older AS (
                UPDATE api_keys
                   SET expires_at = least(expires_at, $6)
                  FROM winner
                 WHERE tenant_id = winner.id AND revoked_at IS NULL
            )
            INSERT INTO api_keys (tenant_id, key_id, public_key, secret_hash, created_at)
            SELECT id, $2, $3, $4,
                   greatest($5, (SELECT max(created_at) FROM api_keys WHERE api_keys.tenant_id = winner.id) + interval '1 microsecond')
              FROM winner
            RETURNING tenant_id, public_key, created_at, expires_at, revoked_at
            "#,
            tenant_id.as_uuid(),
            new_key.key_id,
            new_key.public_key,
            new_key.secret_hash,
            now,
            now + overlap,
            scope.caller.name(),
            scope.rpc.as_str(),
            claim.map(|claim| claim.request_hash.as_slice()),
            claim.map(|claim| claim.fingerprint.0.as_slice()),
            claim.map(|claim| claim.salt.as_slice()),
            now - RECORD_LIFETIME,
        )
        .fetch_optional(transaction.connection())
        .await?;
        transaction.commit().await?;
        Ok(row.and_then(ApiKeyRow::into_api_key))
    }

    /// All keys of a tenant, deleted or not, newest first.
    ///
    /// # Errors
    /// [`Error::NotFound`]; those of the database.
    pub async fn list_api_keys(&self, tenant_id: TenantId) -> Result<Vec<ApiKey>> {
        let rows = sqlx::query_as!(
            ApiKeyRow,
            r#"
            SELECT tenants.id AS tenant_id, public_key AS "public_key?", api_keys.created_at AS "created_at?",
                   expires_at, revoked_at
              FROM tenants
              LEFT JOIN api_keys ON api_keys.tenant_id = tenants.id
             WHERE tenants.id = $1
             ORDER BY api_keys.created_at DESC, key_id DESC
            "#,
            tenant_id.as_uuid(),
        )
        .fetch_all(&mut self.acquire("list_api_keys").await?)
        .await?;
        if rows.is_empty() {
            return Err(Error::not_found(Resource::Tenant));
        }
        Ok(rows.into_iter().filter_map(ApiKeyRow::into_api_key).collect())
    }

    /// Revokes a key of this tenant; one that is revoked already stays so since then.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant or the key; those of the database.
    pub async fn revoke_api_key(&self, tenant_id: TenantId, key: &PublicKey, now: OffsetDateTime) -> Result<ApiKey> {
        let row = sqlx::query_as!(
            ApiKeyRow,
            r#"
            WITH revoked AS (
                UPDATE api_keys
                   SET revoked_at = coalesce(revoked_at, $4)
                 WHERE key_id = $2 AND public_key = $3 AND tenant_id = $1
                RETURNING *
            )
            SELECT tenants.id AS tenant_id, public_key AS "public_key?", revoked.created_at AS "created_at?",
                   expires_at AS "expires_at?", revoked_at AS "revoked_at?"
              FROM tenants
              LEFT JOIN revoked ON true
             WHERE tenants.id = $1
            "#,
            tenant_id.as_uuid(),
            key.key_id(),
            key.as_str(),
            now,
        )
        .fetch_optional(&mut self.acquire("revoke_api_key").await?)
        .await?
        .ok_or(Error::not_found(Resource::Tenant))?;
        row.into_api_key().ok_or(Error::not_found(Resource::ApiKey))
    }
}

/// A key, or the tenant alone where it has no such key.
struct ApiKeyRow {
    tenant_id: Uuid,
    public_key: Option<String>,
    created_at: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
    revoked_at: Option<OffsetDateTime>,
}

impl ApiKeyRow {
    fn into_api_key(self) -> Option<ApiKey> {
        Some(ApiKey {
            public_key: self.public_key?,
            tenant_id: TenantId::from_uuid(self.tenant_id),
            created_at: self.created_at?,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        })
    }
}
