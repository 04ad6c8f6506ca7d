//! Tenants as they are read.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Store;
use crate::{
    domain::{CommissionPercent, Tenant, TenantId, TenantIdentifier},
    error::{Error, Result},
};

impl Store {
    /// The tenant, deleted or not, as it is at `now`: which of its keys is usable hangs on the time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn get_tenant(&self, identifier: &TenantIdentifier, now: OffsetDateTime) -> Result<Option<Tenant>> {
        let (id, slug) = match identifier {
            TenantIdentifier::Id(id) => (Some(id.as_uuid()), None),
            TenantIdentifier::Slug(slug) => (None, Some(slug.as_str())),
        };
        sqlx::query_as!(
            TenantRow,
            r#"
            SELECT tenants.id, slug, name, (commission_percent * 100)::int4 AS "commission_hundredths!",
                   branding AS "branding: sqlx::types::Json<Map<String, Value>>", is_active,
                   tenants.created_at, updated_at, deleted_at,
                   owners.email AS "owner_email?", newest_key.public_key AS "api_key_public?"
              FROM tenants
              LEFT JOIN owners ON owners.tenant_id = tenants.id
              LEFT JOIN LATERAL (
                    SELECT public_key
                      FROM api_keys
                     WHERE api_keys.tenant_id = tenants.id
                     ORDER BY (revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)) DESC,
                              created_at DESC, key_id DESC
                     LIMIT 1
                   ) AS newest_key ON true
             WHERE tenants.id = coalesce($1, (SELECT id FROM tenants WHERE slug = $2))
            "#,
            id,
            slug,
            now,
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.error(error))?
        .map(TenantRow::into_tenant)
        .transpose()
    }
}

struct TenantRow {
    id: Uuid,
    slug: String,
    name: String,
    commission_hundredths: i32,
    branding: sqlx::types::Json<Map<String, Value>>,
    is_active: bool,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    deleted_at: Option<OffsetDateTime>,
    owner_email: Option<String>,
    api_key_public: Option<String>,
}

impl TenantRow {
    fn into_tenant(self) -> Result<Tenant> {
        let commission = u16::try_from(self.commission_hundredths).ok().and_then(CommissionPercent::from_hundredths);
        Ok(Tenant {
            id: TenantId::from_uuid(self.id),
            slug: self.slug,
            name: self.name,
            // No key at all is damage from outside; it must not hide the rest of the tenant.
            api_key_public: self.api_key_public.unwrap_or_default(),
            commission: commission.ok_or_else(|| Error::internal("commission out of range in the database"))?,
            is_active: self.is_active,
            branding: self.branding.0,
            owner_email: self.owner_email,
            created_at: self.created_at,
            updated_at: self.updated_at,
            deleted_at: self.deleted_at,
        })
    }
}
