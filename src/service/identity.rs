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
