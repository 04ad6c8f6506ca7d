//! When API keys were last used, for `last_used_at`. Verifications only note a use here; a background task stores the
//! notes ([`TenantService::store_key_uses`]), so that no verification waits for a write.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use time::{Duration, OffsetDateTime};

use super::TenantService;
use crate::error::Result;

/// How old the stored time of a key becomes before the next use is stored. With several replicas, a key in constant use
/// is still written once in this time: each reads the stored time with the key, and the statement compares it again.
const STORE_INTERVAL: Duration = Duration::hours(1);
/// Keys whose use waits to be stored: about 1 MiB. Further uses are not noted until some are stored; the keys' next
/// uses are.
const MAX_NOTED: usize = 10_000;
/// Keys per statement. Few, so that no other statement waits long for their locks.
const STORE_BATCH_SIZE: usize = 1_000;

/// The keys whose use waits to be stored, by key id, with the time of the use.
#[derive(Debug, Default)]
pub(super) struct KeyUsage(Mutex<HashMap<String, OffsetDateTime>>);

impl KeyUsage {
    /// Notes the use of a key, unless the stored time is recent.
    pub(super) fn note(&self, key_id: String, last_used_at: Option<OffsetDateTime>, now: OffsetDateTime) {
        if last_used_at.is_some_and(|stored| now - stored < STORE_INTERVAL) {
            return;
        }
        let mut noted = self.lock();
        let has_room = noted.len() < MAX_NOTED;
        if let Entry::Vacant(entry) = noted.entry(key_id)
            && has_room
        {
            entry.insert(now);
        }
    }

    fn take(&self) -> Vec<(String, OffsetDateTime)> {
        std::mem::take(&mut *self.lock()).into_iter().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, OffsetDateTime>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TenantService {
    /// Stores when keys were used. Uses that cannot be stored are lost: the keys' next uses are stored instead.
    pub async fn store_key_uses(&self) -> Result<()> {
        for uses in self.key_usage.take().chunks(STORE_BATCH_SIZE) {
            self.store.store_key_uses(uses, STORE_INTERVAL).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn noted(usage: &KeyUsage, last_used_at: Option<OffsetDateTime>) -> usize {
        usage.note("key".to_owned(), last_used_at, NOW);
        usage.take().len()
    }

    #[test]
    fn a_use_is_noted_if_the_stored_one_is_at_least_an_hour_old() {
        let usage = KeyUsage::default();
        assert_eq!(noted(&usage, None), 1);
        assert_eq!(noted(&usage, Some(NOW - Duration::hours(1))), 1);
        assert_eq!(noted(&usage, Some(NOW - Duration::minutes(59))), 0);
        assert_eq!(noted(&usage, Some(NOW + Duration::hours(9))), 0, "the clock of another replica is ahead");
    }

    #[test]
    fn a_key_is_noted_once_and_the_number_of_keys_is_bounded() {
        let usage = KeyUsage::default();
        for number in (0..MAX_NOTED + 5).chain(0..5) {
            usage.note(number.to_string(), None, NOW);
        }
        assert_eq!(usage.take().len(), MAX_NOTED);
        assert_eq!(noted(&usage, None), 1, "there is room again");
    }
}
