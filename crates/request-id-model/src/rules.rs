//! The rules of the protocol. The contract needs each of them.

/// A rule. [`crate::scenarios`] checks that the contract is violated without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Two records of one scope and request id cannot exist: the second insert waits for the first, and inserts
    /// nothing.
    RecordIsUnique,
    ScopeHasCaller,
    ScopeHasRpc,
    /// The record and what it refers to are committed together.
    RecordIsCommittedWithTenant,
    /// A tenant whose slug exists writes no record.
    RefusedCallWritesNoRecord,
    /// The tenant is inserted without ON CONFLICT, so that a slug lost to a race rolls the statement back.
    LostSlugRollsBack,
    /// Of a statement that was rolled back, each tenant is tried again alone.
    RolledBackIsTriedAlone,
    /// A record counts as stray only if the statement's snapshot contains it, but not its tenant.
    StrayIsInSnapshot,
    /// The query for the record does not use the snapshot of the statement before it (READ COMMITTED).
    RecordIsReadAfterwards,
    FingerprintIsCompared,
    /// A replay derives the secret from the salt of the record.
    SaltIsThatOfRecord,
    /// The cleanup deletes salts that are 24 hours old, no others.
    SaltIsKeptFor24Hours,
    SecretEndsAfter24Hours,
    SecretEndsWithKey,
    RecordEndsAfter30Days,
    /// A record that is 30 days old is replaced by that of a new call.
    ExpiredRecordIsReplaced,
    ReplayIsMarked,
}
