//! New identities, from the time and the randomness that are handed in.

use rand::TryRng;
use time::OffsetDateTime;
use uuid::Uuid;

/// A UUIDv7 of this moment (RFC 9562, 5.7).
pub(super) fn new_id<R: TryRng>(now: OffsetDateTime, rng: &mut R) -> Result<Uuid, R::Error> {
    let mut random = [0_u8; 10];
    rng.try_fill_bytes(&mut random)?;
    let millis = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    Ok(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

/// Digits and consonants that nobody takes for another, and that spell no words.
const SUFFIX_ALPHABET: &[u8; 27] = b"23456789bcdfghjkmnpqrstvwxz";
const SUFFIX_LENGTH: usize = 6;

/// A short random ending for a slug that is taken without it.
pub(super) fn random_slug_suffix<R: TryRng>(rng: &mut R) -> Result<String, R::Error> {
    let mut number = rng.try_next_u64()?;
    let mut suffix = String::with_capacity(SUFFIX_LENGTH);
    for _ in 0..SUFFIX_LENGTH {
        // 27^6 goes into 2^64 so often that no ending is likelier than another to speak of.
        let (rest, digit) = (number / 27, number % 27);
        suffix.extend(SUFFIX_ALPHABET.get(usize::try_from(digit).unwrap_or_default()).map(|&ch| char::from(ch)));
        number = rest;
    }
    Ok(suffix)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn an_id_carries_its_moment_to_the_millisecond() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(1_234_567_890_123_456);
        let id = new_id(now, &mut StdRng::seed_from_u64(1)).unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_timestamp().unwrap().to_unix(), (1_234_567_890, 123_000_000));
    }

    #[test]
    fn endings_are_six_letters_and_differ() {
        let mut rng = StdRng::seed_from_u64(7);
        let suffixes: Vec<String> = (0..1_000).map(|_| random_slug_suffix(&mut rng).unwrap()).collect();
        assert!(suffixes.iter().all(|suffix| suffix.len() == 6));
        let distinct: std::collections::HashSet<&String> = suffixes.iter().collect();
        assert_eq!(distinct.len(), suffixes.len());
    }
}
