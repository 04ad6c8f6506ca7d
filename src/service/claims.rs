//! Claims on request ids whose time is over.

use super::Provisioning;
use crate::error::Result;

/// Claims in a statement: few enough to keep nobody waiting.
const BATCH: i64 = 1_000;

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
