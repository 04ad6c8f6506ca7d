//! New ids and slug suffixes, from the time and the random generator that are passed in. Also returns that generator.

use rand::{Rng, RngExt as _, rand_core::UnwrapErr, rngs::SysRng};
use time::OffsetDateTime;
use uuid::Uuid;

/// Returns the operating system's random generator.
///
/// The generator panics if the system provides no randomness. No call can continue without it; the call layer turns the
/// panic into `INTERNAL`.
pub(super) const fn system_rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// Returns a UUIDv7 of this moment (RFC 9562, 5.7).
pub(super) fn new_id(now: OffsetDateTime, rng: &mut impl Rng) -> Uuid {
    let mut random = [0_u8; 10];
    rng.fill_bytes(&mut random);
    let millis = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// Digits and consonants that are not easily confused and do not spell words.
const SUFFIX_ALPHABET: &[u8; 27] = b"23456789bcdfghjkmnpqrstvwxz";
const SUFFIX_LENGTH: usize = 6;

/// Returns a short random suffix for a slug that already exists without one.
pub(super) fn random_slug_suffix(rng: &mut impl Rng) -> String {
    let ch = |_| char::from(SUFFIX_ALPHABET[rng.random_range(0..SUFFIX_ALPHABET.len())]);
    (0..SUFFIX_LENGTH).map(ch).collect()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn an_id_contains_its_time_in_milliseconds() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(1_234_567_890_123_456);
        let id = new_id(now, &mut StdRng::seed_from_u64(1));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_timestamp().unwrap().to_unix(), (1_234_567_890, 123_000_000));
    }

    #[test]
    fn slug_suffixes_have_six_characters_and_differ() {
        let mut rng = StdRng::seed_from_u64(7);
        let suffixes: Vec<String> = (0..1_000).map(|_| random_slug_suffix(&mut rng)).collect();
        assert!(suffixes.iter().all(|suffix| suffix.len() == 6));
        let distinct: std::collections::HashSet<&String> = suffixes.iter().collect();
        assert_eq!(distinct.len(), suffixes.len());
    }
}
