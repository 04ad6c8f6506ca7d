//! Limits repeated log lines to one a second for each key, so that clients cannot flood the log.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_secs(1);
/// Keys are forgotten beyond this number.
const MAX_KEYS: usize = 4_096;

#[derive(Debug)]
pub struct LogLimiter<K>(Mutex<HashMap<K, Occurrences>>);

#[derive(Debug, Clone, Copy)]
struct Occurrences {
    logged_at: Instant,
    /// Since then.
    count: u64,
}

impl<K> Default for LogLimiter<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> LogLimiter<K> {
    /// Counts an occurrence. Returns how many there were since the last log line if another line is due.
    pub fn count(&self, key: K) -> Option<u64> {
        self.count_at(key, Instant::now())
    }

    fn count_at(&self, key: K, now: Instant) -> Option<u64> {
        // No code panics while it holds the lock.
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= MAX_KEYS && !keys.contains_key(&key) {
            keys.retain(|_, occurrences| now < occurrences.logged_at + INTERVAL);
            if keys.len() >= MAX_KEYS {
                return None;
            }
        }
        let Some(occurrences) = keys.get_mut(&key) else {
            keys.insert(key, Occurrences { logged_at: now, count: 0 });
            return Some(1);
        };
        occurrences.count += 1;
        (now >= occurrences.logged_at + INTERVAL).then(|| {
            occurrences.logged_at = now;
            std::mem::take(&mut occurrences.count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_lines_are_counted_and_each_key_has_its_own_line() {
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        assert_eq!(limiter.count_at("a", start), Some(1));
        assert_eq!((limiter.count_at("a", start), limiter.count_at("a", start)), (None, None));
        assert_eq!(limiter.count_at("b", start), Some(1));
        assert_eq!(limiter.count_at("a", start + INTERVAL), Some(3), "two that were not logged, and this one");
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        for key in 0..2 * MAX_KEYS {
            limiter.count_at(key, start);
        }
        assert_eq!(limiter.0.lock().unwrap().len(), MAX_KEYS);
        assert_eq!(limiter.count_at(2 * MAX_KEYS, start), None);
        assert_eq!(limiter.count_at(2 * MAX_KEYS, start + INTERVAL), Some(1), "the old keys are forgotten");
    }
}
