//! Owners: who signed up, and the hash of a password.

use uuid::Uuid;

use super::Store;
use crate::{
    domain::{Email, TenantId},
    error::Result,
};

/// The owner of a living tenant.
#[derive(Debug)]
pub struct Owner {
    pub tenant_id: TenantId,
    /// Argon2id in PHC form.
    pub password_hash: String,
}

struct OwnerRow {
    tenant_id: Uuid,
    password_hash: String,
}

impl Store {
    /// The owner with this address, without regard to case; none of a deleted tenant.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn find_owner(&self, email: &Email) -> Result<Option<Owner>> {
        let row = sqlx::query_as!(
            OwnerRow,
            r#"SELECT tenant_id, password_hash
               FROM owners
               JOIN tenants ON tenants.id = owners.tenant_id AND tenants.deleted_at IS NULL
              WHERE lower(email COLLATE "C") = lower($1 COLLATE "C")"#,
            email.as_str(),
        )
        .fetch_optional(&mut self.acquire("find_owner").await?)
        .await?;
        Ok(row.map(|row| Owner { tenant_id: TenantId::from_uuid(row.tenant_id), password_hash: row.password_hash }))
    }

    /// Puts a new hash of the same password in place of the old one, unless that is gone by now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn replace_password_hash(&self, owner: &Owner, new_hash: &str) -> Result<()> {
        sqlx::query!(
            "UPDATE owners SET password_hash = $3 WHERE tenant_id = $1 AND password_hash = $2",
            owner.tenant_id.as_uuid(),
            owner.password_hash,
            new_hash,
        )
        .execute(&mut self.acquire("replace_password_hash").await?)
        .await?;
        Ok(())
    }
}
