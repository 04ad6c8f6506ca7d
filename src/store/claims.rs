//! Claims on request ids: found again when a call is repeated, and forgotten when their time is over.

use serde::Deserialize;
use serde_json::{Map, Value};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Store,
    tenants::{TenantRow, tenants},
};
use crate::{
    domain::{
        ApiKey, BookingType, Package, PackageId, Segment, SegmentId, TenantId,
        claim::{Bytes32, CLAIM_LIFETIME, Fingerprint, FoundClaim, MadeTenant, SECRET_LIFETIME, Scope},
    },
    error::{Error, Result},
};

/// `claims` in ASCII: the advisory lock of whoever forgets claims at the moment.
const FORGETTING_LOCK: i64 = 0x63_6c_61_69_6d_73;

impl Store {
    /// The claims on these request ids, with what their calls made, as it is now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find_creations(
        &self,
        scope: &Scope,
        request_hashes: &[Bytes32],
        now: OffsetDateTime,
    ) -> Result<Vec<FoundClaim<MadeTenant>>> {
        let hashes: Vec<&[u8]> = request_hashes.iter().map(Bytes32::as_slice).collect();
        let rows = tenants!(
            CreationRow,
            "",
            r#", request_hash, fingerprint, salt, claim.created_at AS claimed_at, password_hash AS "password_hash?",
               (SELECT to_jsonb(api_keys) - 'secret_hash' FROM api_keys WHERE key_id = claim.key_id)
                   AS "api_key: Json<KeyJson>",
               (SELECT to_jsonb(segments) FROM segments WHERE tenant_id = claim.tenant_id AND id = claim.segment_id)
                   AS "segment: Json<SegmentJson>",
               (SELECT jsonb_agg(to_jsonb(packages) ORDER BY grouping_order, id)
                  FROM packages
                 WHERE tenant_id = claim.tenant_id AND id = ANY (claim.package_ids)) AS "packages: Json<Vec<PackageJson>>"
            "#,
            "FROM request_claims AS claim
             JOIN tenants ON tenants.id = claim.tenant_id
             LEFT JOIN owners ON owners.tenant_id = tenants.id
            WHERE claim.request_hash = ANY ($2) AND claim.caller = $3 AND claim.rpc = $4 AND claim.created_at > $5",
            now,
            &hashes as _,
            scope.caller.name(),
            scope.rpc.as_str(),
            now - CLAIM_LIFETIME,
        );
        let rows =
            rows.fetch_all(&mut self.connection("find_creations").await?).await.map_err(|error| self.error(error))?;
        rows.into_iter().map(CreationRow::into_claim).collect()
    }

    /// The claim on this request id, with the key that its call made.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find_rotation(
        &self,
        scope: &Scope,
        request_hash: &Bytes32,
        now: OffsetDateTime,
    ) -> Result<Option<FoundClaim<()>>> {
        let row = sqlx::query_as!(
            RotationRow,
            r#"
            SELECT request_hash, fingerprint, salt, created_at,
                   (SELECT to_jsonb(api_keys) - 'secret_hash' FROM api_keys WHERE key_id = claim.key_id)
                       AS "api_key: Json<KeyJson>"
              FROM request_claims AS claim
             WHERE request_hash = $1 AND caller = $2 AND rpc = $3 AND created_at > $4
            "#,
            request_hash.as_slice(),
            scope.caller.name(),
            scope.rpc.as_str(),
            now - CLAIM_LIFETIME,
        )
        .fetch_optional(&mut self.connection("find_rotation").await?)
        .await
        .map_err(|error| self.error(error))?;
        row.map(RotationRow::into_claim).transpose()
    }

    /// Removes up to `limit` salts and as many claims whose time is over, and answers whether there may be more. Does
    /// nothing while another replica is at it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_claims(&self, now: OffsetDateTime, limit: i64) -> Result<bool> {
        let forgotten = sqlx::query!(
            r#"
            WITH turn AS MATERIALIZED (
                SELECT pg_try_advisory_xact_lock($1) AS is_mine
            ), unsalted AS (
                UPDATE request_claims SET salt = NULL
                 WHERE (request_hash, caller, rpc) IN (
                       SELECT request_hash, caller, rpc
                         FROM request_claims
                        WHERE salt IS NOT NULL AND created_at <= $2 AND (SELECT is_mine FROM turn)
                        ORDER BY created_at
                        LIMIT $4)
                RETURNING 1
            ), forgotten AS (
                DELETE FROM request_claims
                 WHERE (request_hash, caller, rpc) IN (
                       SELECT request_hash, caller, rpc
                         FROM request_claims
                        WHERE salt IS NULL AND created_at <= $3 AND (SELECT is_mine FROM turn)
                        ORDER BY created_at
                        LIMIT $4)
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM unsalted) AS "unsalted!", (SELECT count(*) FROM forgotten) AS "forgotten!"
            "#,
            FORGETTING_LOCK,
            now - SECRET_LIFETIME,
            now - CLAIM_LIFETIME,
            limit,
        )
        .fetch_one(&mut self.connection("forget_claims").await?)
        .await
        .map_err(|error| self.error(error))?;
        Ok(forgotten.unsalted == limit || forgotten.forgotten == limit)
    }
}

/// A tenant's row, a claim's, and what it made in the form that one column can hold.
pub(super) struct CreationRow {
    id: Uuid,
    slug: String,
    name: String,
    commission_hundredths: i32,
    branding: Json<Map<String, Value>>,
    is_active: bool,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    deleted_at: Option<OffsetDateTime>,
    owner_email: Option<String>,
    api_key_public: Option<String>,
    request_hash: Vec<u8>,
    fingerprint: Vec<u8>,
    salt: Option<Vec<u8>>,
    claimed_at: OffsetDateTime,
    password_hash: Option<String>,
    api_key: Option<Json<KeyJson>>,
    segment: Option<Json<SegmentJson>>,
    packages: Option<Json<Vec<PackageJson>>>,
}

struct RotationRow {
    request_hash: Vec<u8>,
    fingerprint: Vec<u8>,
    salt: Option<Vec<u8>>,
    created_at: OffsetDateTime,
    api_key: Option<Json<KeyJson>>,
}

#[derive(Deserialize)]
struct KeyJson {
    tenant_id: Uuid,
    public_key: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    revoked_at: Option<OffsetDateTime>,
}

#[derive(Deserialize)]
struct SegmentJson {
    tenant_id: Uuid,
    id: Uuid,
    slug: String,
    name: String,
    hero_title: String,
    description: String,
    sort_order: i32,
    active: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

#[derive(Deserialize)]
struct PackageJson {
    tenant_id: Uuid,
    id: Uuid,
    segment_id: Uuid,
    slug: String,
    name: String,
    description: String,
    base_price: i64,
    booking_type: String,
    grouping_order: i32,
    active: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl CreationRow {
    fn into_claim(self) -> Result<FoundClaim<MadeTenant>> {
        let packages = self.packages.map_or_else(Vec::new, |packages| packages.0);
        let tenant = TenantRow {
            id: self.id,
            slug: self.slug,
            name: self.name,
            commission_hundredths: self.commission_hundredths,
            branding: self.branding,
            is_active: self.is_active,
            created_at: self.created_at,
            updated_at: self.updated_at,
            deleted_at: self.deleted_at,
            owner_email: self.owner_email,
            api_key_public: self.api_key_public,
        };
        Ok(FoundClaim {
            request_hash: bytes_32(self.request_hash)?,
            fingerprint: Fingerprint(bytes_32(self.fingerprint)?),
            salt: self.salt.map(bytes_32).transpose()?,
            created_at: self.claimed_at,
            key: self.api_key.map(|key| key.0.into_api_key()),
            made: MadeTenant {
                tenant: tenant.into_tenant()?,
                segment: self.segment.map(|segment| segment.0.into_segment()),
                packages: packages.into_iter().filter_map(PackageJson::into_package).collect(),
                password_hash: self.password_hash,
            },
        })
    }
}

impl RotationRow {
    fn into_claim(self) -> Result<FoundClaim<()>> {
        Ok(FoundClaim {
            request_hash: bytes_32(self.request_hash)?,
            fingerprint: Fingerprint(bytes_32(self.fingerprint)?),
            salt: self.salt.map(bytes_32).transpose()?,
            created_at: self.created_at,
            key: self.api_key.map(|key| key.0.into_api_key()),
            made: (),
        })
    }
}

impl KeyJson {
    fn into_api_key(self) -> ApiKey {
        ApiKey {
            public_key: self.public_key,
            tenant_id: TenantId::from_uuid(self.tenant_id),
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        }
    }
}

impl SegmentJson {
    fn into_segment(self) -> Segment {
        Segment {
            id: SegmentId::from_uuid(self.id),
            tenant_id: TenantId::from_uuid(self.tenant_id),
            slug: self.slug,
            name: self.name,
            hero_title: self.hero_title,
            description: self.description,
            sort_order: self.sort_order,
            active: self.active,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

impl PackageJson {
    fn into_package(self) -> Option<Package> {
        Some(Package {
            id: PackageId::from_uuid(self.id),
            tenant_id: TenantId::from_uuid(self.tenant_id),
            segment_id: SegmentId::from_uuid(self.segment_id),
            slug: self.slug,
            name: self.name,
            description: self.description,
            base_price: self.base_price,
            booking_type: BookingType::from_name(&self.booking_type)?,
            grouping_order: self.grouping_order,
            active: self.active,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

fn bytes_32(bytes: Vec<u8>) -> Result<Bytes32> {
    bytes.try_into().map_err(|_unfit| Error::internal("a claim's bytes are not 32"))
}
