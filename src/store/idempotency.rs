//! Idempotency records: finds those of repeated calls and deletes the expired ones. The statements in `provisioning.rs`
//! and `api_keys.rs` write them.

use sqlx::types::Json;
use time::OffsetDateTime;

use super::{
    Store,
    citus::{self, Engine},
    column,
    pool::PooledConnection,
    tenants::{StoredLabels, into_tenant, select_tenants},
};
use crate::{
    domain::{
        ApiKey, Package, Segment, TenantId,
        idempotency::{
            CreatedTenant, Fingerprint, IdempotencyRecord, IdempotencyScope, RECORD_LIFETIME, SECRET_LIFETIME,
            Sha256Digest,
        },
        paging::MAX_PAGE_BYTES,
    },
    error::{Error, Result},
};

/// The advisory lock that the replica holds while it deletes expired records. The value is `claims` in ASCII.
const CLEANUP_LOCK_KEY: i64 = 0x63_6c_61_69_6d_73;

impl Store {
    /// Returns the records of these request ids, with the current state of what their calls created. A request id that
    /// is repeated has its record repeatedly, as the response does. A record whose tenant does not exist is left out.
    ///
    /// Returns `None` if there are several records and the texts of what their calls created have [`MAX_PAGE_BYTES`] or
    /// more. With the other fields, this leaves the response below 4 MiB.
    pub async fn find_tenant_records(
        &self,
        scope: &IdempotencyScope,
        request_hashes: &[Sha256Digest],
        now: OffsetDateTime,
    ) -> Result<Option<Vec<IdempotencyRecord<CreatedTenant>>>> {
        let mut connection = self.acquire("find_tenant_records").await?;
        let records = select_tenant_records(&mut connection, scope, request_hashes, now).await?;
        let found = records.as_deref().unwrap_or_default();
        if connection.pool.engine() == Engine::Postgres || found.is_empty() {
            return Ok(records);
        }
        citus::wait_for_tenants(&mut connection, &column(found, |record| record.created.tenant.id.as_uuid())).await?;
        select_tenant_records(&mut connection, scope, request_hashes, now).await
    }

    /// Returns the record of this request id, with the current state of the key that its call created, unless its
    /// tenant does not exist. `tenant_id` is the tenant of the repeated call, whose turn it uses.
    pub async fn find_key_record(
        &self,
        tenant_id: TenantId,
        scope: &IdempotencyScope,
        request_hash: &Sha256Digest,
        now: OffsetDateTime,
    ) -> Result<Option<IdempotencyRecord<()>>> {
        let row = sqlx::query!(
            r#"
            SELECT request_hash, fingerprint, salt, created_at,
                   coalesce((SELECT to_jsonb(api_keys) - 'secret_hash'
                               FROM api_keys
                              WHERE key_id = record.key_id AND tenant_id = record.tenant_id),
                            deleted_key) AS "api_key: Json<ApiKey>"
              FROM idempotency_records AS record
             WHERE request_hash = $1 AND caller = $2 AND rpc = $3 AND created_at > $4
               AND EXISTS (SELECT FROM tenants WHERE id = record.tenant_id)
            "#,
            request_hash.as_slice(),
            scope.actor.caller.name(),
            scope.rpc.as_str(),
            now - RECORD_LIFETIME,
        )
        .fetch_optional(&mut self.acquire_for(tenant_id, "find_key_record").await?)
        .await?;
        row.map(|row| {
            Ok(IdempotencyRecord {
                request_hash: to_array(row.request_hash)?,
                fingerprint: Fingerprint(to_array(row.fingerprint)?),
                salt: row.salt.map(to_array).transpose()?,
                created_at: row.created_at,
                key: row.api_key.map(|key| key.0),
                created: (),
            })
        })
        .transpose()
    }

    /// Deletes up to `limit` expired salts and as many expired records. Returns whether there may be more. Does nothing
    /// while another replica does the same.
    pub async fn delete_expired_idempotency_records(&self, now: OffsetDateTime, limit: i64) -> Result<bool> {
        let counts = sqlx::query!(
            r#"
            WITH lock AS MATERIALIZED (
                -- One replica at a time. The others do not wait.
                SELECT pg_try_advisory_xact_lock($1) AS acquired
            ), unsalted AS (
                -- Without its salt, a record still identifies a repeated call but no longer leads to the secret.
                UPDATE idempotency_records SET salt = NULL
                 WHERE (request_hash, caller, rpc) IN (
                       SELECT request_hash, caller, rpc
                         FROM idempotency_records
                        WHERE salt IS NOT NULL AND created_at <= $2 AND (SELECT acquired FROM lock)
                        ORDER BY created_at
                        LIMIT $4)
                RETURNING 1
            ), deleted AS (
                -- Only records without a salt: no row is both updated and deleted.
                DELETE FROM idempotency_records
                 WHERE (request_hash, caller, rpc) IN (
                       SELECT request_hash, caller, rpc
                         FROM idempotency_records
                        WHERE salt IS NULL AND created_at <= $3 AND (SELECT acquired FROM lock)
                        ORDER BY created_at
                        LIMIT $4)
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM unsalted) AS "unsalted!", (SELECT count(*) FROM deleted) AS "deleted!"
            "#,
            CLEANUP_LOCK_KEY,
            now - SECRET_LIFETIME,
            now - RECORD_LIFETIME,
            limit,
        )
        .fetch_one(&mut self.acquire("delete_expired_idempotency_records").await?)
        .await?;
        Ok(counts.unsalted == limit || counts.deleted == limit)
    }
}

#[expect(clippy::too_many_lines, reason = "most of it is one statement")]
async fn select_tenant_records(
    connection: &mut PooledConnection,
    scope: &IdempotencyScope,
    request_hashes: &[Sha256Digest],
    now: OffsetDateTime,
) -> Result<Option<Vec<IdempotencyRecord<CreatedTenant>>>> {
    let hashes: Vec<&[u8]> = request_hashes.iter().map(Sha256Digest::as_slice).collect();
    let rows = select_tenants!(
        with: "WITH request_record AS MATERIALIZED (
            SELECT record.*, position
              FROM unnest($2::bytea[]) WITH ORDINALITY AS request (hash, position)
             CROSS JOIN LATERAL (
                   -- Without OFFSET 0 the planner may compare all records of the caller with every hash, instead of
                   -- using the index.
                   SELECT *
                     FROM idempotency_records
                    WHERE request_hash = hash AND caller = $3 AND rpc = $4 AND created_at > $5
                   OFFSET 0) AS record
        ), segment_of_record AS MATERIALIZED (
            -- GROUP BY: Postgres searches each row by its key. Otherwise it may read all packages of the tenant, which
            -- is less work if it has few.
            SELECT position, segment.*,
                   octet_length(name) + octet_length(hero_title) + octet_length(description)
                   + coalesce(octet_length(external_id), 0) AS bytes
              FROM request_record AS record
             CROSS JOIN LATERAL (
                   SELECT *
                     FROM segments
                    WHERE segments.tenant_id = record.tenant_id AND segments.id = record.segment_id
                    GROUP BY tenant_id, id) AS segment
        ), counted_segment AS MATERIALIZED (
            -- The segments that do not have the number of their packages.
            SELECT position, packages
              FROM (SELECT position, tenant_id, id FROM segment_of_record WHERE package_count IS NULL) AS segment
             CROSS JOIN LATERAL (
                   SELECT tenant_id, segment_id, count(*) AS packages
                     FROM packages
                    WHERE packages.tenant_id = segment.tenant_id AND packages.segment_id = segment.id
                    GROUP BY tenant_id, segment_id) AS counted
        ), package_of_record AS MATERIALIZED (
            SELECT position, package.*,
                   octet_length(name) + octet_length(description) + coalesce(octet_length(external_id), 0) AS bytes
              FROM (SELECT position, tenant_id, unnest(package_ids) AS id FROM request_record) AS created
             CROSS JOIN LATERAL (
                   SELECT *
                     FROM packages
                    WHERE packages.tenant_id = created.tenant_id AND packages.id = created.id
                    GROUP BY tenant_id, id) AS package
        ), measured_record AS MATERIALIZED (
            -- With the size of the texts of what the call created, and of those before it.
            SELECT record.*, sum(bytes) OVER (ORDER BY position) - bytes AS bytes_before
              FROM (SELECT record.*,
                           octet_length(name) + branding_bytes + coalesce(octet_length(external_id), 0)
                           + octet_length(labels::text) + coalesce(segment.bytes, 0) + coalesce(packages.bytes, 0) AS bytes
                      FROM request_record AS record
                      JOIN tenants ON tenants.id = record.tenant_id
                      LEFT JOIN (SELECT position, bytes FROM segment_of_record) AS segment USING (position)
                      LEFT JOIN (SELECT position, sum(bytes)::int4 AS bytes FROM package_of_record GROUP BY position)
                           AS packages USING (position)) AS record
        )",
        columns: r#", bytes AS "bytes!", bytes_before + bytes AS "total_bytes!",
           request_hash, fingerprint, salt, record.created_at AS recorded_at,
           password_hash AS "password_hash?",
           (SELECT to_jsonb(api_keys) - 'secret_hash'
              FROM api_keys
             WHERE key_id = record.key_id AND tenant_id = record.tenant_id) AS "api_key: Json<ApiKey>",
           segment AS "segment: Json<Segment>", packages AS "packages: Json<Vec<Package>>"
        "#,
        from: "FROM measured_record AS record
         LEFT JOIN (SELECT position,
                           to_jsonb(segment)
                           || jsonb_build_object('package_count', coalesce(package_count, packages, 0)) AS segment
                      FROM segment_of_record AS segment
                      LEFT JOIN counted_segment USING (position)) AS segment USING (position)
         LEFT JOIN (SELECT position, jsonb_agg(to_jsonb(package) ORDER BY grouping_order, id) AS packages
                      FROM package_of_record AS package
                     WHERE position IN (SELECT position FROM measured_record WHERE bytes_before < $6)
                     GROUP BY position) AS packages USING (position)
         JOIN tenants ON tenants.id = record.tenant_id
         LEFT JOIN owners ON owners.tenant_id = tenants.id
        WHERE bytes_before < $6",
        now,
        &hashes as _,
        scope.actor.caller.name(),
        scope.rpc.as_str(),
        now - RECORD_LIFETIME,
        MAX_PAGE_BYTES,
    );
    let rows = rows.fetch_all(connection).await?;
    if rows.len() > 1 && rows.iter().any(|row| row.total_bytes >= MAX_PAGE_BYTES) {
        return Ok(None);
    }
    rows.into_iter()
        .map(|row| {
            Ok(IdempotencyRecord {
                request_hash: to_array(row.request_hash)?,
                fingerprint: Fingerprint(to_array(row.fingerprint)?),
                salt: row.salt.map(to_array).transpose()?,
                created_at: row.recorded_at,
                key: row.api_key.map(|key| key.0),
                created: CreatedTenant {
                    tenant: into_tenant!(row)?,
                    segment: row.segment.map(|segment| segment.0),
                    packages: row.packages.map(|packages| packages.0).unwrap_or_default(),
                    password_hash: row.password_hash,
                    text_bytes: usize::try_from(row.bytes).map_err(Error::internal)?,
                },
            })
        })
        .collect::<Result<_>>()
        .map(Some)
}

fn to_array(bytes: Vec<u8>) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_bytes| Error::internal("a hash or salt in an idempotency record is not 32 bytes long"))
}
