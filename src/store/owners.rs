//! Owners after sign-up: their passwords and e-mail addresses. `provisioning.rs` inserts an owner together with its
//! tenant, `password_attempts.rs` finds one by its address, and `owner_tokens.rs` by a token.
//!
//! The statements find an owner by one of its keys, and then look its tenant up in a subquery. In a join, Postgres may
//! read all tenants or owners instead, by a plan from the time when there were few.

use time::OffsetDateTime;

use super::{
    Store,
    error::is_constraint_violation,
    tenants::{StoredLabels, into_tenant, select_tenants},
};
use crate::{
    domain::{Actor, Email, Tenant, TenantId},
    error::{Error, Resource, Result, UniqueField},
};

/// The owner of a tenant that is not deleted.
#[derive(Debug)]
pub struct Owner {
    pub tenant_id: TenantId,
    /// Argon2id in PHC format, or bcrypt. `None` if the owner has no password yet.
    pub password_hash: Option<String>,
}

/// The tenant after `SetOwner`.
#[derive(Debug)]
pub struct SetOwnerResult {
    pub tenant: Tenant,
    pub is_changed: bool,
}

impl Store {
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

    /// Changes the owner's password and voids its reset token. Returns `false`, and changes nothing, if the stored hash
    /// has changed since it was read or the tenant has been deleted.
    pub async fn change_password(
        &self,
        owner: &Owner,
        new_hash: &str,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<bool> {
        let changed = sqlx::query_scalar!(
            r#"
            WITH locked AS MATERIALIZED (
                -- Before the first write: see the table of events.
                SELECT pg_advisory_xact_lock(tenant_lock_key($2))
            ), living_tenant AS MATERIALIZED (
                -- Locked, and so read as it is once the lock is held: the snapshot of the statement is older.
                SELECT id
                  FROM tenants
                 WHERE id = $2 AND deleted_at IS NULL AND (SELECT count(*) FROM locked) = 1
                   FOR NO KEY UPDATE
            ), changed AS (
                UPDATE owners
                   SET password_hash = $1, reset_token_hash = NULL, reset_token_expires_at = NULL, reset_token_used_at = NULL
                 WHERE tenant_id = $2 AND password_hash = $3 AND EXISTS (SELECT FROM living_tenant)
                RETURNING tenant_id
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT 'owner.password_changed', $4, tenant_id, $5, $6, '{}' FROM changed
            )
            SELECT EXISTS (SELECT FROM changed) AS "is_changed!"
            "#,
            new_hash,
            owner.tenant_id.as_uuid(),
            owner.password_hash,
            now,
            &*actor.event_caller(),
            actor.trace_id(),
        )
        .fetch_one(&mut self.acquire_for(owner.tenant_id, "change_password").await?)
        .await?;
        Ok(changed)
    }

    /// Gives the tenant this owner, in place of an earlier one, and voids the tokens of the earlier one. The address
    /// stays verified only if it is the same. An owner whose own tenant does not exist does not keep the address.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a deleted tenant; [`Error::AlreadyExists`] if another owner has the address.
    pub async fn set_owner(
        &self,
        tenant_id: TenantId,
        email: &Email,
        password_hash: Option<&str>,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<SetOwnerResult> {
        let mut transaction = self.begin_as_provisioner("set_owner", tenant_id).await?;
        let row = select_tenants!(
            with: "WITH tenant AS MATERIALIZED (
                SELECT deleted_at IS NULL AS is_living FROM tenants WHERE id = $2 FOR NO KEY UPDATE
            ), deleted_owner AS MATERIALIZED (
                DELETE FROM owners
                 WHERE canonical_email = $4 AND (SELECT true FROM tenants WHERE id = owners.tenant_id) IS NULL
                   AND (SELECT is_living FROM tenant)
                RETURNING 1
            ), earlier AS MATERIALIZED (
                -- Locked, because a token is created without the tenant's lock.
                SELECT email,
                       email = $3 AND password_hash IS NOT DISTINCT FROM $5
                       AND reset_token_hash IS NULL AND verification_token_hash IS NULL AS is_same,
                       -- In another spelling, the address may be another mailbox.
                       CASE WHEN email = $3 THEN email_verified_at END AS still_verified_at
                  FROM owners
                 WHERE tenant_id = $2 AND (SELECT is_living FROM tenant)
                   FOR NO KEY UPDATE
            ), updated AS (
                -- After the deletion, as the insertion below.
                UPDATE owners
                   SET email = $3, canonical_email = $4, password_hash = $5,
                       email_verified_at = (SELECT still_verified_at FROM earlier),
                       reset_token_hash = NULL, reset_token_expires_at = NULL, reset_token_used_at = NULL,
                       verification_token_hash = NULL, verification_token_expires_at = NULL
                 WHERE tenant_id = $2 AND EXISTS (SELECT FROM earlier) AND (SELECT count(*) FROM deleted_owner) >= 0
                RETURNING tenant_id, email, email_verified_at, revision
            ), inserted AS (
                INSERT INTO owners (tenant_id, email, canonical_email, password_hash)
                SELECT $2, $3, $4, $5
                  FROM tenant
                 WHERE is_living AND NOT EXISTS (SELECT FROM earlier) AND (SELECT count(*) FROM deleted_owner) >= 0
                RETURNING tenant_id, email, email_verified_at, revision
            ), changed AS (
                UPDATE tenants
                   SET updated_at = CASE WHEN EXISTS (SELECT FROM earlier WHERE email = $3) THEN updated_at ELSE $1 END
                 WHERE id = $2 AND (SELECT is_living FROM tenant)
                RETURNING *
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT 'owner.set', $1, changed.id, $6, $7,
                       jsonb_build_object('is_new_address', NOT EXISTS (SELECT FROM earlier WHERE email = $3),
                                          'has_password', $5 IS NOT NULL)
                  FROM changed
                 WHERE NOT EXISTS (SELECT FROM earlier WHERE is_same)
            )",
            columns: r#", NOT EXISTS (SELECT FROM earlier WHERE is_same) AS "is_changed!""#,
            from: "FROM changed AS tenants
              JOIN (SELECT * FROM updated UNION ALL SELECT * FROM inserted) AS owners ON owners.tenant_id = tenants.id",
            now,
            tenant_id.as_uuid(),
            email.as_str(),
            email.canonical(),
            password_hash,
            &*actor.event_caller(),
            actor.trace_id(),
        );
        let row = match row.fetch_optional(transaction.connection()).await {
            Err(error) if is_constraint_violation(&error, "owners_email_key") => {
                transaction.rollback().await?;
                return Err(Error::already_exists(UniqueField::OwnerEmail, None));
            }
            row => row?,
        };
        transaction.commit().await?;
        let row = row.ok_or(Error::not_found(Resource::Tenant))?;
        let is_changed = row.is_changed;
        Ok(SetOwnerResult { tenant: into_tenant!(row)?, is_changed })
    }
}
