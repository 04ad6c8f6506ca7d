//! Claims as rows, each with what its call made.

use serde::Deserialize;
use serde_json::{Map, Value};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::tenants::TenantRow;
use crate::{
    domain::{
        ApiKey, BookingType, Package, PackageId, Segment, SegmentId, TenantId,
        idempotency::{Bytes32, CreatedTenant, Fingerprint, IdempotencyRecord},
    },
    error::{Error, Result},
};

/// A tenant's row, a claim's, and what it made in the form that one column can hold.
pub(super) struct CreationRow {
    pub(super) id: Uuid,
    pub(super) slug: String,
    pub(super) name: String,
    pub(super) commission_hundredths: i32,
    pub(super) branding: Json<Map<String, Value>>,
    pub(super) is_active: bool,
    pub(super) created_at: OffsetDateTime,
    pub(super) updated_at: OffsetDateTime,
    pub(super) deleted_at: Option<OffsetDateTime>,
    pub(super) owner_email: Option<String>,
    pub(super) api_key_public: Option<String>,
    pub(super) request_hash: Vec<u8>,
    pub(super) fingerprint: Vec<u8>,
    pub(super) salt: Option<Vec<u8>>,
    pub(super) claimed_at: OffsetDateTime,
    pub(super) password_hash: Option<String>,
    pub(super) api_key: Option<Json<KeyJson>>,
    pub(super) segment: Option<Json<SegmentJson>>,
    pub(super) packages: Option<Json<Vec<PackageJson>>>,
}

pub(super) struct RotationRow {
    pub(super) request_hash: Vec<u8>,
    pub(super) fingerprint: Vec<u8>,
    pub(super) salt: Option<Vec<u8>>,
    pub(super) created_at: OffsetDateTime,
    pub(super) api_key: Option<Json<KeyJson>>,
}

#[derive(Deserialize)]
pub(super) struct KeyJson {
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
pub(super) struct SegmentJson {
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
pub(super) struct PackageJson {
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
    pub(super) fn into_claim(self) -> Result<IdempotencyRecord<CreatedTenant>> {
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
        Ok(IdempotencyRecord {
            request_hash: to_array(self.request_hash)?,
            fingerprint: Fingerprint(to_array(self.fingerprint)?),
            salt: self.salt.map(to_array).transpose()?,
            created_at: self.claimed_at,
            key: self.api_key.map(|key| key.0.into_api_key()),
            made: CreatedTenant {
                tenant: tenant.into_tenant()?,
                segment: self.segment.map(|segment| segment.0.into_segment()),
                packages: packages.into_iter().map(PackageJson::into_package).collect::<Result<_>>()?,
                password_hash: self.password_hash,
            },
        })
    }
}

impl RotationRow {
    pub(super) fn into_claim(self) -> Result<IdempotencyRecord<()>> {
        Ok(IdempotencyRecord {
            request_hash: to_array(self.request_hash)?,
            fingerprint: Fingerprint(to_array(self.fingerprint)?),
            salt: self.salt.map(to_array).transpose()?,
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
    fn into_package(self) -> Result<Package> {
        let booking_type = self.booking_type.parse::<BookingType>();
        Ok(Package {
            id: PackageId::from_uuid(self.id),
            tenant_id: TenantId::from_uuid(self.tenant_id),
            segment_id: SegmentId::from_uuid(self.segment_id),
            slug: self.slug,
            name: self.name,
            description: self.description,
            base_price: self.base_price,
            booking_type: booking_type.map_err(Error::internal)?,
            grouping_order: self.grouping_order,
            active: self.active,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

fn to_array(bytes: Vec<u8>) -> Result<Bytes32> {
    bytes.try_into().map_err(|_unfit| Error::internal("a claim's bytes are not 32"))
}
