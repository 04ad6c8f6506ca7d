//! Owners after sign-up: their passwords, their e-mail addresses and the tokens for both. `provisioning.rs` inserts an owner
//! together with its tenant, and `password_attempts.rs` finds one by its address.
//!
//! The statements find an owner by one of its keys, and then look its tenant up in a subquery. In a join, Postgres may read
//! all tenants or owners instead, by a plan from the time when there were few.

use time::OffsetDateTime;

use super::{
    Store,
    error::is_constraint_violation,
    tenants::{StoredLabels, into_tenant, select_tenants},
};
use crate::{
    domain::{Actor, Email, Tenant, TenantId, idempotency::Sha256Digest, log_in::email_hash, owner::OwnerTokenPurpose},
    error::{Error, Resource, Result, UniqueField},
};

/// The owner of a tenant that is not deleted.
#[derive(Debug)]
pub struct Owner {
    pub tenant_id: TenantId,
    /// Argon2id in PHC format, or bcrypt. `None` if the owner has no password yet.
    pub password_hash: Option<String>,
}

/// A reset token that has not expired, and its owner.
#[derive(Debug)]
pub struct ResetToken {
    pub tenant_id: TenantId,
    pub email: Option<Email>,
    /// The hash of the password that the reset set, if the token has been used. The token of an owner whose password has
    /// been changed since is void.
    pub used_for: Option<String>,
}

/// What a reset did besides setting the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetResult {
    pub is_email_verified: bool,
    pub api_keys_revoked: i64,
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

    /// Changes the owner's password and voids its reset token. Returns `false`, and changes nothing, if the stored hash has
    /// changed since it was read or the tenant has been deleted.
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

    /// Stores the hash of a new token, in place of an older one of the same purpose. Returns `None` if no owner of a tenant
    /// that is not deleted has the address.
    pub async fn create_owner_token(
        &self,
        email: Option<&Email>,
        purpose: OwnerTokenPurpose,
        token_hash: &Sha256Digest,
        expires_at: OffsetDateTime,
    ) -> Result<Option<TenantId>> {
        let tenant_id = sqlx::query_scalar!(
            r#"
            WITH updated AS (
                UPDATE owners
                   SET reset_token_hash = CASE WHEN $2 THEN $3 ELSE reset_token_hash END,
                       reset_token_expires_at = CASE WHEN $2 THEN $4 ELSE reset_token_expires_at END,
                       reset_token_used_at = CASE WHEN NOT $2 THEN reset_token_used_at END,
                       verification_token_hash = CASE WHEN $2 THEN verification_token_hash ELSE $3 END,
                       verification_token_expires_at = CASE WHEN $2 THEN verification_token_expires_at ELSE $4 END
                 WHERE canonical_email = $1 AND (SELECT deleted_at IS NULL FROM tenants WHERE id = tenant_id)
                RETURNING tenant_id
            ), equal_work AS MATERIALIZED (
                -- Otherwise an unknown address would save the wait for the disk at COMMIT, which takes longer than the rest.
                -- The message is empty, and no one reads it.
                SELECT CASE WHEN NOT EXISTS (SELECT FROM updated) THEN pg_logical_emit_message(true, 'turnkey', '') END
            )
            SELECT (SELECT tenant_id FROM updated) FROM equal_work
            "#,
            email.map(Email::canonical),
            purpose == OwnerTokenPurpose::ResetPassword,
            token_hash.as_slice(),
            expires_at,
        )
        .fetch_one(&mut self.acquire("create_owner_token").await?)
        .await?;
        Ok(tenant_id.map(TenantId::from_uuid))
    }

    /// Finds a reset token that has not expired, used or not, of a tenant that is not deleted.
    pub async fn find_reset_token(&self, token_hash: &Sha256Digest, now: OffsetDateTime) -> Result<Option<ResetToken>> {
        let row = sqlx::query!(
            r#"
            SELECT tenant_id, email,
                   CASE WHEN reset_token_used_at IS NOT NULL THEN coalesce(password_hash, '') END AS used_for
              FROM owners
             WHERE reset_token_hash = $1 AND reset_token_expires_at > $2
               AND (SELECT deleted_at IS NULL FROM tenants WHERE id = tenant_id)
            "#,
            token_hash.as_slice(),
            now,
        )
        .fetch_optional(&mut self.acquire("find_reset_token").await?)
        .await?;
        Ok(row.map(|row| ResetToken {
            tenant_id: TenantId::from_uuid(row.tenant_id),
            email: Email::parse(&row.email).ok(),
            used_for: row.used_for,
        }))
    }

    /// Uses a reset token: sets the password, verifies the address, and ends the count of wrong passwords for it. If the
    /// address was not verified before, revokes all keys. The tenant's lock keeps a concurrent rotation from adding a key
    /// that this statement does not see.
    ///
    /// Returns `None`, and changes nothing, if the token has been used or voided since it was found.
    pub async fn reset_password(
        &self,
        token: &ResetToken,
        token_hash: &Sha256Digest,
        new_hash: &str,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<Option<ResetResult>> {
        let email_hash = token.email.as_ref().map(email_hash);
        let mut transaction = self.begin_as_provisioner("reset_password", token.tenant_id).await?;
        let result = sqlx::query_as!(
            ResetResult,
            r#"
            WITH owner AS MATERIALIZED (
                SELECT email_verified_at IS NULL AS is_unverified
                  FROM owners
                 WHERE tenant_id = $1 AND reset_token_hash = $2 AND reset_token_used_at IS NULL
                   AND reset_token_expires_at > $3
                   AND (SELECT deleted_at IS NULL FROM tenants WHERE id = $1)
                   FOR UPDATE
            ), new_password AS (
                UPDATE owners
                   SET password_hash = $4, reset_token_used_at = $3, email_verified_at = coalesce(email_verified_at, $3)
                 WHERE tenant_id = $1 AND EXISTS (SELECT FROM owner)
            ), changed_tenant AS (
                UPDATE tenants SET updated_at = $3 WHERE id = $1 AND (SELECT is_unverified FROM owner)
            ), revoked_key AS (
                -- Revoked keys still count as keys of the tenant.
                UPDATE api_keys
                   SET revoked_at = $3
                 WHERE tenant_id = $1 AND revoked_at IS NULL AND (SELECT is_unverified FROM owner)
                RETURNING public_key
            ), ended_count AS (
                DELETE FROM password_attempts WHERE email_hash = $5 AND EXISTS (SELECT FROM owner)
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT type, $3, $1, $6, $7, data
                  FROM (SELECT 'owner.password_changed', '{}'::jsonb FROM owner
                         UNION ALL
                        SELECT 'owner.email_verified', '{}' FROM owner WHERE is_unverified
                         UNION ALL
                        SELECT 'api_key.revoked', jsonb_build_object('public_key', public_key) FROM revoked_key
                       ) AS event (type, data)
            )
            SELECT is_unverified AS "is_email_verified!", (SELECT count(*) FROM revoked_key) AS "api_keys_revoked!"
              FROM owner
            "#,
            token.tenant_id.as_uuid(),
            token_hash.as_slice(),
            now,
            new_hash,
            email_hash.as_ref().map(Sha256Digest::as_slice),
            &*actor.event_caller(),
            actor.trace_id(),
        )
        .fetch_optional(transaction.connection())
        .await?;
        transaction.commit().await?;
        Ok(result)
    }

    /// Verifies the address of the owner with this token. Returns its tenant and whether the address was not verified
    /// before; `None` if no owner of a tenant that is not deleted has the token, or if it has expired.
    pub async fn verify_email(
        &self,
        token_hash: &Sha256Digest,
        actor: &Actor,
        now: OffsetDateTime,
    ) -> Result<Option<(TenantId, bool)>> {
        let row = sqlx::query!(
            r#"
            WITH locked AS MATERIALIZED (
                -- Before the first write, which is a row lock, too: see the table of events.
                SELECT pg_advisory_xact_lock(tenant_lock_key(tenant_id))
                  FROM owners
                 WHERE verification_token_hash = $1
            ), living_tenant AS MATERIALIZED (
                -- Locked, and so read as it is once the lock is held: the snapshot of the statement is older.
                SELECT id
                  FROM tenants
                 WHERE id = (SELECT tenant_id FROM owners WHERE verification_token_hash = $1)
                   AND deleted_at IS NULL AND (SELECT count(*) FROM locked) = 1
                   FOR NO KEY UPDATE
            ), owner AS MATERIALIZED (
                SELECT tenant_id, email_verified_at IS NULL AS is_unverified
                  FROM owners
                 WHERE EXISTS (SELECT FROM living_tenant)
                   AND verification_token_hash = $1 AND verification_token_expires_at > $2
                   FOR UPDATE
            ), verified AS (
                UPDATE owners SET email_verified_at = $2
                 WHERE tenant_id = (SELECT tenant_id FROM owner WHERE is_unverified)
            ), changed_tenant AS (
                UPDATE tenants SET updated_at = $2 WHERE id = (SELECT tenant_id FROM owner WHERE is_unverified)
            ), new_event AS (
                INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
                SELECT 'owner.email_verified', $2, tenant_id, $3, $4, '{}' FROM owner WHERE is_unverified
            )
            SELECT tenant_id, is_unverified AS "is_unverified!" FROM owner
            "#,
            token_hash.as_slice(),
            now,
            &*actor.event_caller(),
            actor.trace_id(),
        )
        .fetch_optional(&mut self.acquire("verify_email").await?)
        .await?;
        Ok(row.map(|row| (TenantId::from_uuid(row.tenant_id), row.is_unverified)))
    }

    /// Gives the tenant this owner, in place of an earlier one, and voids the tokens of the earlier one. The address stays
    /// verified only if it is the same. An owner whose own tenant does not exist does not keep the address.
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
