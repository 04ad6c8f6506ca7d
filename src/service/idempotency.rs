//! Replays: what a repeated call returns, and the deletion of expired idempotency records.

use secrecy::SecretString;
use time::OffsetDateTime;

use super::TenantService;
use crate::{
    domain::{
        RequestId,
        idempotency::{Fingerprint, IdempotencyRecord, IdempotentRpc},
    },
    error::{Precondition, Result},
    secrets::{assemble_secret_key, derive_secret},
    telemetry::metrics,
};

/// Records per statement. Few, so that no other statement waits long for their locks.
const CLEANUP_BATCH_SIZE: i64 = 1_000;

/// Returns the secret key that the recorded call created, or `None` if it can no longer be derived.
///
/// # Errors
/// [`Precondition::RequestIdReused`] if the recorded call had a different content.
pub(super) fn replayed_secret<T>(
    rpc: IdempotentRpc,
    record: &IdempotencyRecord<T>,
    request_id: &RequestId,
    fingerprint: Fingerprint,
    now: OffsetDateTime,
) -> Result<Option<SecretString>> {
    if record.fingerprint != fingerprint {
        return Err(Precondition::RequestIdReused.into());
    }
    metrics::count_replayed_request(rpc.as_str());
    let Some((salt, public_key)) = record.secret_inputs(now) else { return Ok(None) };
    Ok(Some(assemble_secret_key(public_key, derive_secret(request_id, &salt)?)))
}

impl TenantService {
    /// Deletes salts after 24 hours and records after 30 days.
    ///
    /// Correctness does not depend on this: expired records are ignored from the moment they expire. Deletion limits
    /// the table's size and what an attacker with a copy of the database can attempt.
    pub async fn delete_expired_idempotency_records(&self) -> Result<()> {
        while self.store.delete_expired_idempotency_records(self.clock.now(), CLEANUP_BATCH_SIZE).await? {}
        Ok(())
    }
}
