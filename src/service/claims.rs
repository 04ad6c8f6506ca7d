//! Claims on request ids: what a repeat gets by them, and their end.

use secrecy::SecretString;
use time::OffsetDateTime;

use super::Provisioning;
use crate::{
    domain::{
        RequestId,
        claim::{ClaimedRpc, Fingerprint, FoundClaim},
    },
    error::{Error, Result, Rule},
    secrets::{derive_secret, secret_key_again},
    telemetry::metrics,
};

/// Claims in a statement: few enough to keep nobody waiting.
const BATCH: i64 = 1_000;

/// The secret of the key that a call made which said the same by the same request id; none where it comes too late.
///
/// # Errors
/// [`Error::Refused`] where it said something else.
pub(super) fn replayed_secret<Made>(
    rpc: ClaimedRpc,
    claim: &FoundClaim<Made>,
    request_id: &RequestId,
    fingerprint: Fingerprint,
    now: OffsetDateTime,
) -> Result<Option<SecretString>> {
    if claim.fingerprint != fingerprint {
        return Err(Error::Refused(Rule::RequestIdReused));
    }
    metrics::call_replayed(rpc.as_str());
    let Some((salt, public_key)) = claim.way_back(now) else { return Ok(None) };
    Ok(Some(secret_key_again(public_key, derive_secret(request_id, &salt)?)))
}

impl Provisioning {
    /// Removes salts after 24 hours and claims after 30 days, until none is left.
    ///
    /// Answers do not hang on it: what is too old is passed over from the very moment. It is for a thief of the database,
    /// who finds no salt to try request ids with, and for the size of the table.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn forget_claims(&self) -> Result<()> {
        while self.store.forget_claims(self.clock.now(), BATCH).await? {}
        Ok(())
    }
}
