//! Claims on request ids: found again when a call is repeated, and forgotten when their time is over.

use serde_json::{Map, Value};
use sqlx::types::Json;
use time::OffsetDateTime;

use super::{
    Store,
    claim_rows::{CreationRow, KeyJson, PackageJson, RotationRow, SegmentJson},
    tenants::select_tenants,
};
use crate::{
    domain::idempotency::{
        Bytes32, CreatedTenant, IdempotencyRecord, IdempotencyScope, RECORD_LIFETIME, SECRET_LIFETIME,
    },
    error::Result,
};

/// `claims` in ASCII: the advisory lock of whoever forgets claims at the moment.
const CLEANUP_LOCK_KEY: i64 = 0x63_6c_61_69_6d_73;

impl Store {
    /// The claims on these request ids, with what their calls made, as it is now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find_tenant_records(
        &self,
        scope: &IdempotencyScope,
        request_hashes: &[Bytes32],
        now: OffsetDateTime,
    ) -> Result<Vec<IdempotencyRecord<CreatedTenant>>> {
        let hashes: Vec<&[u8]> = request_hashes.iter().map(Bytes32::as_slice).collect();
        let rows = select_tenants!(
            row: CreationRow,
            columns: r#", request_hash, fingerprint, salt, claim.created_at AS claimed_at, password_hash AS "password_hash?",
               (SELECT to_jsonb(api_keys) - 'secret_hash' FROM api_keys WHERE key_id = claim.key_id)
                   AS "api_key: Json<KeyJson>",
               (SELECT to_jsonb(segments) FROM segments WHERE tenant_id = claim.tenant_id AND id = claim.segment_id)
                   AS "segment: Json<SegmentJson>",
               (SELECT jsonb_agg(to_jsonb(packages) ORDER BY grouping_order, id)
                  FROM packages
                 WHERE tenant_id = claim.tenant_id AND id = ANY (claim.package_ids)) AS "packages: Json<Vec<PackageJson>>"
            "#,
            from: "FROM idempotency_records AS claim
             JOIN tenants ON tenants.id = claim.tenant_id
             LEFT JOIN owners ON owners.tenant_id = tenants.id
            WHERE claim.request_hash = ANY ($2) AND claim.caller = $3 AND claim.rpc = $4 AND claim.created_at > $5",
            now,
            &hashes as _,
            scope.caller.name(),
            scope.rpc.as_str(),
            now - RECORD_LIFETIME,
        );
        let rows = rows.fetch_all(&mut self.acquire("find_tenant_records").await?).await?;
        rows.into_iter().map(CreationRow::into_claim).collect()
    }

    /// The claim on this request id, with the key that its call made.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find_rotation_record(
        &self,
        scope: &IdempotencyScope,
        request_hash: &Bytes32,
        now: OffsetDateTime,
    ) -> Result<Option<IdempotencyRecord<()>>> {
        let row = sqlx::query_as!(
            RotationRow,
            r#"
            SELECT request_hash, fingerprint, salt, created_at,
                   (SELECT to_jsonb(api_keys) - 'secret_hash' FROM api_keys WHERE key_id = claim.key_id)
                       AS "api_key: Json<KeyJson>"
              FROM idempotency_records AS claim
             WHERE request_hash = $1 AND caller = $2 AND rpc = $3 AND created_at > $4
            "#,
            request_hash.as_slice(),
            scope.caller.name(),
            scope.rpc.as_str(),
            now - RECORD_LIFETIME,
        )
        .fetch_optional(&mut self.acquire("find_rotation_record").await?)
        .await?;
        row.map(RotationRow::into_claim).transpose()
    }

    /// Removes up to `limit` salts and as many claims whose time is over, and answers whether there may be more. Does
    /// nothing while another replica is at it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_expired_idempotency_records(&self, now: OffsetDateTime, limit: i64) -> Result<bool> {
        let forgotten = sqlx::query!(
            r#"
            WITH turn AS MATERIALIZED (
                SELECT pg_try_advisory_xact_lock($1) AS is_mine
            ), unsalted AS (
                UPDATE idempotency_records SET salt = NULL
                 WHERE (request_hash, caller, rpc) IN (
                       SELECT request_hash, caller, rpc
                         FROM idempotency_records
                        WHERE salt IS NOT NULL AND created_at <= $2 AND (SELECT is_mine FROM turn)
                        ORDER BY created_at
                        LIMIT $4)
                RETURNING 1
            ), forgotten AS (
                DELETE FROM idempotency_records
                 WHERE (request_hash, caller, rpc) IN (
                       SELECT request_hash, caller, rpc
                         FROM idempotency_records
                        WHERE salt IS NULL AND created_at <= $3 AND (SELECT is_mine FROM turn)
                        ORDER BY created_at
                        LIMIT $4)
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM unsalted) AS "unsalted!", (SELECT count(*) FROM forgotten) AS "forgotten!"
            "#,
            CLEANUP_LOCK_KEY,
            now - SECRET_LIFETIME,
            now - RECORD_LIFETIME,
            limit,
        )
        .fetch_one(&mut self.acquire("delete_expired_idempotency_records").await?)
        .await?;
        Ok(forgotten.unsalted == limit || forgotten.forgotten == limit)
    }
}
