//! The tokens of owners: one to reset the password, one to verify the e-mail address. Only their hashes are stored.
//!
//! The statements look the tenant up in a subquery, as those of `owners.rs`.

use time::OffsetDateTime;

use super::Store;
use crate::{
    domain::{Actor, Email, TenantId, idempotency::Sha256Digest, log_in::email_hash, owner::OwnerTokenPurpose},
    error::Result,
};

/// A reset token that has not expired, and its owner.
#[derive(Debug)]
pub struct ResetToken {
    pub tenant_id: TenantId,
    pub email: Option<Email>,
    /// The hash of the password that the reset set, if the token has been used. The token of an owner whose password
    /// has been changed since is void.
    pub used_for: Option<String>,
}

/// What a reset did besides setting the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetResult {
    pub is_email_verified: bool,
    pub api_keys_revoked: i64,
}

impl Store {
    /// Stores the hash of a new token, in place of an older one of the same purpose. Returns `None` if no owner of a
    /// tenant that is not deleted has the address.
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

    /// Uses a reset token: sets the password, verifies the address, and ends the count of wrong passwords for it. If
    /// the address was not verified before, revokes all keys. The tenant's lock keeps a concurrent rotation from adding
    /// a key that this statement does not see.
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
}
