//! Finds owners and replaces their password hashes. `provisioning.rs` inserts an owner together with its tenant.

use super::Store;
use crate::{
    domain::{Email, TenantId},
    error::Result,
};

/// The owner of a tenant that is not deleted.
#[derive(Debug)]
pub struct Owner {
    pub tenant_id: TenantId,
    /// Argon2id in PHC format.
    pub password_hash: String,
}

impl Store {
    /// Finds the owner with this address by its canonical form. Skips owners of deleted tenants.
    pub async fn find_owner(&self, email: &Email) -> Result<Option<Owner>> {
        let row = sqlx::query!(
            r#"
            SELECT tenant_id, password_hash
              FROM owners
              JOIN tenants ON tenants.id = owners.tenant_id AND tenants.deleted_at IS NULL
             WHERE canonical_email = $1
            "#,
            email.canonical(),
        )
        .fetch_optional(&mut self.acquire("find_owner").await?)
        .await?;
        Ok(row.map(|row| Owner { tenant_id: TenantId::from_uuid(row.tenant_id), password_hash: row.password_hash }))
    }

    /// Replaces the hash of the owner's password, unless the stored hash has changed since it was read.
    pub async fn replace_password_hash(&self, owner: &Owner, new_hash: &str) -> Result<()> {
        sqlx::query!(
            "UPDATE owners SET password_hash = $1 WHERE tenant_id = $2 AND password_hash = $3",
            new_hash,
            owner.tenant_id.as_uuid(),
            owner.password_hash,
        )
        .execute(&mut self.acquire_for(owner.tenant_id, "replace_password_hash").await?)
        .await?;
        Ok(())
    }
}
