//! Attempts to enter a password: counts them before the password is compared, so that the limit holds for concurrent
//! calls and for all replicas.

use time::OffsetDateTime;

use super::{Store, owners::Owner};
use crate::{
    domain::{
        Email, LogIn, TenantId,
        log_in::{ATTEMPT_WINDOW, AttemptPair, MAX_WRONG_ATTEMPTS, PENDING_LIFETIME},
    },
    error::Result,
};

/// The advisory lock that the replica holds while it deletes expired attempts. The value is `attempt` in ASCII.
const CLEANUP_LOCK_KEY: i64 = 0x61_74_74_65_6d_70_74;

/// Whether a password may be compared.
#[derive(Debug)]
pub enum AttemptStart {
    /// The attempt counts as pending. The owner is that of the address, if there is one.
    Pending(Option<Owner>),
    /// The pair has as many wrong and pending attempts as may be wrong. The pending ones end soon.
    Busy,
    /// The pair has too many wrong attempts until this time.
    Refused { until: OffsetDateTime },
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Ends the count of the pair.
    Right,
    Wrong,
    /// The password was not compared.
    Abandoned,
}

impl Store {
    /// Counts a pending attempt, unless its pair has too many, and finds the owner of its address. The work is the same
    /// whether or not there is one.
    pub async fn begin_password_attempt(&self, log_in: &LogIn, now: OffsetDateTime) -> Result<AttemptStart> {
        let AttemptPair { email_hash, pair_hash } = &log_in.pair;
        let row = sqlx::query!(
            r#"
            WITH refused AS MATERIALIZED (
                -- LIMIT 1: the row is searched by its key, and not by its time, whatever the planner knows.
                SELECT started_at
                  FROM (SELECT * FROM password_attempts WHERE email_hash = $1 AND pair_hash = $2 LIMIT 1) AS attempt
                 WHERE wrong >= $5 AND started_at > $4
            ), counted AS (
                -- A pair with too many wrong attempts is only read. Of concurrent calls, the second condition admits as many
                -- as the limit permits, under the lock of the row. A window that is over begins again.
                INSERT INTO password_attempts AS attempt (email_hash, pair_hash, wrong, pending, started_at,
                                                          last_attempt_at)
                SELECT $1, $2, 0, 1, $3, $3 WHERE NOT EXISTS (SELECT FROM refused)
                ON CONFLICT ON CONSTRAINT password_attempts_pkey DO UPDATE
                   SET wrong = CASE WHEN attempt.started_at > $4 THEN attempt.wrong ELSE 0 END,
                       pending = CASE WHEN attempt.started_at > $4 AND attempt.last_attempt_at > $7
                                      THEN attempt.pending + 1 ELSE 1 END,
                       started_at = CASE WHEN attempt.started_at > $4 THEN attempt.started_at
                                         ELSE excluded.started_at END,
                       last_attempt_at = excluded.last_attempt_at
                 WHERE attempt.started_at <= $4
                    OR attempt.wrong + CASE WHEN attempt.last_attempt_at > $7 THEN attempt.pending ELSE 0 END < $5
                RETURNING 1
            )
            SELECT EXISTS (SELECT FROM counted) AS "is_counted!", (SELECT started_at FROM refused) AS refused_since,
                   tenant_id AS "tenant_id?", password_hash
              FROM (VALUES (1)) AS always
              LEFT JOIN owners
                ON canonical_email = $6 AND (SELECT deleted_at IS NULL FROM tenants WHERE id = tenant_id)
            "#,
            email_hash.as_slice(),
            pair_hash.as_slice(),
            now,
            now - ATTEMPT_WINDOW,
            MAX_WRONG_ATTEMPTS,
            log_in.email.as_ref().map(Email::canonical),
            now - PENDING_LIFETIME,
        )
        .fetch_one(&mut self.acquire("begin_password_attempt").await?)
        .await?;
        Ok(match row.refused_since {
            _ if row.is_counted => AttemptStart::Pending(row.tenant_id.map(|tenant_id| Owner {
                tenant_id: TenantId::from_uuid(tenant_id),
                password_hash: row.password_hash,
            })),
            Some(since) => AttemptStart::Refused { until: since + ATTEMPT_WINDOW },
            None => AttemptStart::Busy,
        })
    }

    /// Ends a pending attempt. Another attempt of the pair may have ended its count before.
    pub async fn end_password_attempt(&self, pair: &AttemptPair, end: AttemptEnd) -> Result<()> {
        sqlx::query!(
            "
            WITH deleted AS (
                -- The row of an abandoned attempt that is the only one has no content.
                DELETE FROM password_attempts
                 WHERE email_hash = $1 AND pair_hash = $2 AND ($3 OR (NOT $4 AND wrong = 0 AND pending <= 1))
            )
            UPDATE password_attempts
               SET pending = greatest(pending - 1, 0), wrong = wrong + $4::bool::int4
             WHERE email_hash = $1 AND pair_hash = $2 AND NOT ($3 OR (NOT $4 AND wrong = 0 AND pending <= 1))
            ",
            pair.email_hash.as_slice(),
            pair.pair_hash.as_slice(),
            end == AttemptEnd::Right,
            end == AttemptEnd::Wrong,
        )
        .execute(&mut self.acquire("end_password_attempt").await?)
        .await?;
        Ok(())
    }

    /// Deletes up to `limit` pairs whose window is over. Returns whether there may be more. Does nothing while another
    /// replica does the same.
    pub async fn delete_expired_password_attempts(&self, now: OffsetDateTime, limit: i64) -> Result<bool> {
        let deleted = sqlx::query!(
            "
            WITH lock AS MATERIALIZED (
                -- One replica at a time. The others do not wait.
                SELECT pg_try_advisory_xact_lock($1) AS acquired
            )
            DELETE FROM password_attempts
             WHERE (email_hash, pair_hash) IN (
                   SELECT email_hash, pair_hash
                     FROM password_attempts
                    WHERE started_at <= $2 AND (SELECT acquired FROM lock)
                    ORDER BY started_at
                    LIMIT $3)
            ",
            CLEANUP_LOCK_KEY,
            now - ATTEMPT_WINDOW,
            limit,
        )
        .execute(&mut self.acquire("delete_expired_password_attempts").await?)
        .await?;
        Ok(i64::try_from(deleted.rows_affected()).is_ok_and(|deleted| deleted == limit))
    }
}
