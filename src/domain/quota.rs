//! Upper bounds of what one tenant can have. The store counts and compares; see docs/adr/0013-usage-counters.md.

use std::num::NonZeroU32;

/// The quotas of every tenant. What a tenant is created with, and a General segment that is created again, is exempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    pub packages: NonZeroU32,
    pub segments: NonZeroU32,
    /// Keys that are not expired, not revoked and not replaced by a rotation.
    pub usable_api_keys: NonZeroU32,
}

impl Quotas {
    pub const DEFAULT: Self = Self {
        packages: NonZeroU32::new(1_000).unwrap(),
        segments: NonZeroU32::new(100).unwrap(),
        usable_api_keys: NonZeroU32::new(20).unwrap(),
    };
}
