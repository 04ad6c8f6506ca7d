//! Bounds how many presented tenant keys are verified at a time. Each verification costs a lookup and a hash, so a flood
//! of made-up keys would otherwise delay all callers.
//!
//! A key that was valid recently has slots of its own, up to a share for each tenant. Every other key waits in one bounded
//! queue. This decides only about the order: each verification queries the database, so a revoked key is refused at once.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    domain::TenantId,
    error::{Error, Result},
};

/// Verifications of keys that were valid recently.
const KNOWN_SLOTS: usize = 256;
/// Those of one tenant. Its further ones wait in the queue, so that no tenant crowds out the others.
const KNOWN_SLOTS_PER_TENANT: usize = KNOWN_SLOTS / 4;
/// Verifications from the queue: few, because nearly all of the work may be for nothing.
const QUEUE_SLOTS: usize = 16;
const QUEUE_LENGTH: usize = 240;
/// Keys in each of the two generations of [`KnownKeys`]: some 500 KiB.
const GENERATION_SIZE: usize = 10_000;

/// The slots of this process. Clones share them.
#[derive(Debug, Clone)]
pub struct VerificationSlots(Arc<Slots>);

#[derive(Debug)]
struct Slots {
    /// Keyed with random numbers, so that a client cannot find two keys with the same hash.
    hash_keys: RandomState,
    known: Mutex<KnownKeys>,
    /// One permit for each verification that runs or waits in the queue.
    queued: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// The keys that were valid recently, and the slots that their tenants hold. A key is forgotten when two generations of
/// other keys have been valid since.
#[derive(Debug, Default)]
struct KnownKeys {
    current: HashMap<u64, TenantId>,
    previous: HashMap<u64, TenantId>,
    slots: HashMap<TenantId, usize>,
}

/// The permission to verify one key, until it is dropped.
#[derive(Debug)]
pub struct VerificationSlot {
    slots: Arc<Slots>,
    key: u64,
    /// One of the two.
    _known: Option<KnownSlot>,
    _queued: Option<[OwnedSemaphorePermit; 2]>,
}

#[derive(Debug)]
struct KnownSlot {
    slots: Arc<Slots>,
    tenant_id: TenantId,
}

impl VerificationSlots {
    pub fn new() -> Self {
        Self(Arc::new(Slots {
            hash_keys: RandomState::new(),
            known: Mutex::default(),
            queued: Arc::new(Semaphore::new(QUEUE_SLOTS + QUEUE_LENGTH)),
            running: Arc::new(Semaphore::new(QUEUE_SLOTS)),
        }))
    }

    /// Waits until this key may be verified.
    ///
    /// # Errors
    /// [`Error::Overloaded`] at once if the queue is full.
    pub async fn acquire(&self, secret_key: &SecretString) -> Result<VerificationSlot> {
        let slots = Arc::clone(&self.0);
        let key = slots.hash_keys.hash_one(secret_key.expose_secret());
        let tenant_id = slots.known().take_slot(key);
        if let Some(tenant_id) = tenant_id {
            let known = KnownSlot { slots: Arc::clone(&slots), tenant_id };
            return Ok(VerificationSlot { slots, key, _known: Some(known), _queued: None });
        }
        let queued = Arc::clone(&slots.queued).try_acquire_owned().map_err(|_full| Error::Overloaded)?;
        let running = Arc::clone(&slots.running).acquire_owned().await.map_err(Error::internal)?;
        Ok(VerificationSlot { slots, key, _known: None, _queued: Some([queued, running]) })
    }
}

impl VerificationSlot {
    /// Remembers a valid key with its tenant, and forgets a key that is not valid.
    pub fn record(&self, tenant_id: Option<TenantId>) {
        let mut known = self.slots.known();
        match tenant_id {
            Some(tenant_id) => known.remember(self.key, tenant_id),
            None => known.forget(self.key),
        }
    }
}

impl Drop for KnownSlot {
    fn drop(&mut self) {
        self.slots.known().return_slot(self.tenant_id);
    }
}

impl Slots {
    fn known(&self) -> MutexGuard<'_, KnownKeys> {
        // A panic while the lock is held cannot leave the maps in a state that matters.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownKeys {
    /// Returns the tenant of a known key if it may have one more slot.
    fn take_slot(&mut self, key: u64) -> Option<TenantId> {
        let tenant_id = *self.current.get(&key).or_else(|| self.previous.get(&key))?;
        let own = self.slots.get(&tenant_id).copied().unwrap_or_default();
        if own >= KNOWN_SLOTS_PER_TENANT || self.slots.values().sum::<usize>() >= KNOWN_SLOTS {
            return None;
        }
        self.slots.insert(tenant_id, own + 1);
        Some(tenant_id)
    }

    fn return_slot(&mut self, tenant_id: TenantId) {
        if let Some(own) = self.slots.get_mut(&tenant_id) {
            *own -= 1;
            if *own == 0 {
                self.slots.remove(&tenant_id);
            }
        }
    }

    fn remember(&mut self, key: u64, tenant_id: TenantId) {
        if self.current.len() >= GENERATION_SIZE && !self.current.contains_key(&key) {
            self.previous = std::mem::take(&mut self.current);
        }
        self.current.insert(key, tenant_id);
    }

    fn forget(&mut self, key: u64) {
        self.current.remove(&key);
        self.previous.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, task::Poll};

    use uuid::Uuid;

    use super::*;

    fn key(number: usize) -> SecretString {
        SecretString::from(format!("sk_live_{number}"))
    }

    fn tenant(number: u128) -> TenantId {
        TenantId::from_uuid(Uuid::from_u128(number))
    }

    /// `None` if it has to wait.
    async fn acquire_now(slots: &VerificationSlots, key: &SecretString) -> Option<Result<VerificationSlot>> {
        let mut acquired = pin!(slots.acquire(key));
        poll_fn(|context| match acquired.as_mut().poll(context) {
            Poll::Ready(slot) => Poll::Ready(Some(slot)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    async fn remember(slots: &VerificationSlots, key: &SecretString, tenant_id: TenantId) {
        slots.acquire(key).await.unwrap().record(Some(tenant_id));
    }

    /// Holds every slot of the queue and every place in it.
    async fn fill_queue(slots: &VerificationSlots) -> Vec<OwnedSemaphorePermit> {
        let (running, queued) = (Arc::clone(&slots.0.running), Arc::clone(&slots.0.queued));
        vec![
            running.acquire_many_owned(u32::try_from(QUEUE_SLOTS).unwrap()).await.unwrap(),
            queued.acquire_many_owned(u32::try_from(QUEUE_SLOTS + QUEUE_LENGTH).unwrap()).await.unwrap(),
        ]
    }

    #[tokio::test]
    async fn unknown_keys_wait_for_one_of_sixteen_slots_and_beyond_the_queue_are_refused_at_once() {
        let slots = VerificationSlots::new();
        let mut running = Vec::new();
        for number in 0..16 {
            running.push(acquire_now(&slots, &key(number)).await.unwrap().unwrap());
        }
        let queue: Vec<_> = (0..240)
            .map(|number| {
                tokio::spawn({
                    let slots = slots.clone();
                    async move { drop(slots.acquire(&key(number)).await.unwrap()) }
                })
            })
            .collect();
        while slots.0.queued.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(acquire_now(&slots, &key(999)).await, Some(Err(Error::Overloaded))));
        drop(running);
        for waited in queue {
            waited.await.unwrap();
        }
        assert!(acquire_now(&slots, &key(999)).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_key_has_a_slot_of_its_own_from_its_first_valid_verification_to_its_first_invalid_one() {
        let slots = VerificationSlots::new();
        remember(&slots, &key(1), tenant(1)).await;
        let full = fill_queue(&slots).await;
        let known = acquire_now(&slots, &key(1)).await.unwrap().unwrap();
        assert!(acquire_now(&slots, &key(2)).await.unwrap().is_err());
        known.record(None);
        drop(known);
        assert!(acquire_now(&slots, &key(1)).await.unwrap().is_err());
        drop(full);
        assert!(acquire_now(&slots, &key(1)).await.unwrap().is_ok(), "it can become valid again");
    }

    #[tokio::test]
    async fn one_tenant_holds_a_quarter_of_the_slots_at_most_whatever_the_number_of_its_keys() {
        let slots = VerificationSlots::new();
        for number in 0..10 {
            remember(&slots, &key(number), tenant(u128::from(number >= 8))).await;
        }
        let full = fill_queue(&slots).await;
        let mut held = Vec::new();
        for number in 0..64 {
            held.push(acquire_now(&slots, &key(number % 8)).await.unwrap().unwrap());
        }
        assert!(acquire_now(&slots, &key(0)).await.unwrap().is_err());
        let other = acquire_now(&slots, &key(8)).await.unwrap().unwrap();
        drop(held.pop());
        held.push(acquire_now(&slots, &key(0)).await.unwrap().unwrap());
        assert_eq!(slots.0.known().slots.values().sum::<usize>(), 65);
        drop((held, other, full));
        assert!(slots.0.known().slots.is_empty());
    }

    #[test]
    fn old_keys_are_forgotten_and_those_in_use_are_not() {
        let mut known = KnownKeys::default();
        for number in 0..35_000 {
            known.remember(number, tenant(1));
            known.remember(7, tenant(1));
        }
        assert!(known.current.len() + known.previous.len() <= 20_000);
        assert!(known.take_slot(7).is_some() && known.take_slot(34_999).is_some());
        assert!(known.take_slot(8).is_none());
    }
}
