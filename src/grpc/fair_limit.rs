//! A limit on a resource, in all and for each key. One key can exhaust only its own share, so the others are served.
//!
//! It bounds calls and bytes per caller, and connections per peer address. It never waits: a request beyond the limit
//! is refused.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashMap;

/// Cheap to clone; the clones share the limit.
#[derive(Debug)]
pub struct FairLimit<K>(Arc<Limit<K>>);

#[derive(Debug)]
struct Limit<K> {
    max: usize,
    max_per_key: usize,
    used: Mutex<Used<K>>,
}

#[derive(Debug)]
struct Used<K> {
    total: usize,
    /// Only keys that use something.
    by_key: HashMap<K, usize>,
}

impl<K: Clone + Eq + Hash> Used<K> {
    /// Replaces a part of what the key uses.
    fn change(&mut self, key: &K, before: usize, after: usize) {
        self.total = self.total - before + after;
        let Some(of_key) = self.by_key.get_mut(key) else {
            self.by_key.insert(key.clone(), after);
            return;
        };
        *of_key = *of_key - before + after;
        if *of_key == 0 {
            self.by_key.remove(key);
        }
    }
}

impl<K> Clone for FairLimit<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash> FairLimit<K> {
    pub fn new(max: usize, max_per_key: usize) -> Self {
        let used = Used { total: 0, by_key: HashMap::new() };
        Self(Arc::new(Limit { max, max_per_key, used: Mutex::new(used) }))
    }

    /// Takes an amount until the share is dropped. Returns `None` if that would exceed the limit.
    pub fn try_acquire(&self, key: &K, amount: usize) -> Option<Share<K>> {
        let mut share = Share { limit: self.clone(), key: key.clone(), amount: 0 };
        share.try_grow(amount).then_some(share)
    }

    fn lock(&self) -> MutexGuard<'_, Used<K>> {
        // No code panics while it holds the lock.
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An amount in use. Dropping it gives the amount back.
#[derive(Debug)]
pub struct Share<K: Clone + Eq + Hash> {
    limit: FairLimit<K>,
    key: K,
    amount: usize,
}

impl<K: Clone + Eq + Hash> Share<K> {
    /// Takes more. Returns false, and takes nothing, if that would exceed the limit.
    pub fn try_grow(&mut self, amount: usize) -> bool {
        if amount == 0 {
            return true;
        }
        let mut used = self.limit.lock();
        let of_key = used.by_key.get(&self.key).copied().unwrap_or_default();
        let fits = used.total.saturating_add(amount) <= self.limit.0.max
            && of_key.saturating_add(amount) <= self.limit.0.max_per_key;
        if fits {
            used.change(&self.key, 0, amount);
            drop(used);
            self.amount += amount;
        }
        fits
    }

    /// Sets the amount in use, even beyond the limit: for a cost that is known only after it has arisen.
    pub fn set(&mut self, amount: usize) {
        if amount != self.amount {
            self.limit.lock().change(&self.key, self.amount, amount);
            self.amount = amount;
        }
    }

    pub const fn amount(&self) -> usize {
        self.amount
    }
}

impl<K: Clone + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_can_use_its_share_and_all_keys_together_the_maximum() {
        let limit = FairLimit::new(10, 4);
        let mut first = limit.try_acquire(&"a", 3).unwrap();
        assert!(limit.try_acquire(&"a", 2).is_none(), "beyond the share of one key");
        assert!(first.try_grow(1));
        assert!(!first.try_grow(1));
        let others = [limit.try_acquire(&"b", 4).unwrap(), limit.try_acquire(&"c", 2).unwrap()];
        assert!(limit.try_acquire(&"d", 1).is_none(), "beyond the maximum");
        drop(others);
        assert!(limit.try_acquire(&"d", 4).is_some());
    }

    #[test]
    fn a_dropped_share_leaves_no_trace_of_its_key() {
        let limit = FairLimit::new(10, 10);
        let mut share = limit.try_acquire(&"a", 1).unwrap();
        share.set(25);
        assert!(limit.try_acquire(&"b", 1).is_none(), "a forced amount counts");
        share.set(2);
        assert!(limit.try_acquire(&"b", 8).is_some());
        drop(share);
        let used = limit.lock();
        assert_eq!((used.total, used.by_key.len()), (0, 0));
    }
}
