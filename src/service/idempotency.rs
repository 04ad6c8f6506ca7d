//! Claims on request ids: what a repeat gets by them, and their end.

use secrecy::SecretString;
use time::OffsetDateTime;

use super::TenantService;
use crate::{
    domain::{
        RequestId,
        idempotency::{Fingerprint, IdempotencyRecord, IdempotentRpc},
    },
    error::{Error, Precondition, Result},
    secrets::{assemble_secret_key, derive_secret},
    telemetry::metrics,
};

/// Claims in a statement: few enough to keep nobody waiting.
const CLEANUP_BATCH_SIZE: i64 = 1_000;

/// The secret of the key that a call made which said the same by the same request id; none where it comes too late.
///
/// # Errors
/// [`Error::FailedPrecondition`] where it said something else.
pub(super) fn replayed_secret<Made>(
    rpc: IdempotentRpc,
    claim: &IdempotencyRecord<Made>,
    request_id: &RequestId,
    fingerprint: Fingerprint,
    now: OffsetDateTime,
) -> Result<Option<SecretString>> {
    if claim.fingerprint != fingerprint {
        return Err(Error::FailedPrecondition(Precondition::RequestIdReused));
    }
    metrics::count_replayed_request(rpc.as_str());
    let Some((salt, public_key)) = claim.secret_inputs(now) else { return Ok(None) };
    Ok(Some(assemble_secret_key(public_key, derive_secret(request_id, &salt)?)))
}

impl TenantService {
    /// Removes salts after 24 hours and claims after 30 days, until none is left.
    ///
    /// Answers do not hang on it: what is too old is passed over from the very moment. It is for a thief of the database,
    /// who finds no salt to try request ids with, and for the size of the table.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_expired_idempotency_records(&self) -> Result<()> {
        while self.store.delete_expired_idempotency_records(self.clock.now(), CLEANUP_BATCH_SIZE).await? {}
        Ok(())
    }
}
