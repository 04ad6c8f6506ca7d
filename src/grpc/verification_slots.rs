//! Bounds how many presented tenant keys are verified at a time. Each verification costs a lookup and a hash, so a
//! flood of made-up keys would otherwise delay all callers.
//!
//! A key that was valid recently has slots of its own, up to a share for each tenant. Every other key waits in one
//! bounded queue, up to a share for each address. This decides only about the order: each verification queries the
//! database, so a revoked key is refused at once.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    connection::PeerAddress,
    fair_limit::{FairLimit, Share},
};
use crate::{
    domain::TenantId,
    error::{Error, Result},
};

/// Verifications of keys that were valid recently, and those of one tenant. Its further ones wait in the queue.
const KNOWN_SLOTS: usize = 256;
const KNOWN_SLOTS_PER_TENANT: usize = KNOWN_SLOTS / 4;
/// Verifications that run or wait in the queue, and those from one address.
const QUEUE_LENGTH: usize = 256;
const QUEUE_LENGTH_PER_ADDRESS: usize = QUEUE_LENGTH / 4;
/// Verifications from the queue that run: few, because nearly all of the work may be for nothing.
const QUEUE_SLOTS: usize = 16;
/// Keys in each of the two generations of [`KnownKeys`]: some 500 KiB.
const GENERATION_SIZE: usize = 10_000;

/// The slots of this process. Clones share them.
#[derive(Debug, Clone)]
pub struct VerificationSlots(Arc<Slots>);

#[derive(Debug)]
struct Slots {
    /// Keyed with random numbers, so that a client cannot find two keys with the same hash.
    hash_keys: RandomState,
    known_keys: Mutex<KnownKeys>,
    known: FairLimit<TenantId>,
    queue: FairLimit<PeerAddress>,
    running: Arc<Semaphore>,
}

/// The keys that were valid recently. A key is forgotten when two generations of other keys have been valid since.
#[derive(Debug, Default)]
struct KnownKeys {
    current: HashMap<u64, TenantId>,
    previous: HashMap<u64, TenantId>,
}

/// The permission to verify one key, until it is dropped.
#[derive(Debug)]
pub struct VerificationSlot {
    slots: Arc<Slots>,
    key: u64,
    _permission: Permission,
}

#[derive(Debug)]
enum Permission {
    Known(#[expect(dead_code, reason = "held until it is dropped")] Share<TenantId>),
    Queued(#[expect(dead_code, reason = "held until they are dropped")] (Share<PeerAddress>, OwnedSemaphorePermit)),
}

impl VerificationSlots {
    pub fn new() -> Self {
        Self(Arc::new(Slots {
            hash_keys: RandomState::new(),
            known_keys: Mutex::default(),
            known: FairLimit::new(KNOWN_SLOTS, KNOWN_SLOTS_PER_TENANT),
            queue: FairLimit::new(QUEUE_LENGTH, QUEUE_LENGTH_PER_ADDRESS),
            running: Arc::new(Semaphore::new(QUEUE_SLOTS)),
        }))
    }

    /// Waits until this key, which was presented from this address, may be verified.
    ///
    /// # Errors
    /// [`Error::Overloaded`] at once if the queue is full.
    pub async fn acquire(&self, secret_key: &SecretString, peer: PeerAddress) -> Result<VerificationSlot> {
        let slots = Arc::clone(&self.0);
        let key = slots.hash_keys.hash_one(secret_key.expose_secret());
        let tenant_id = slots.known_keys().tenant(key);
        let known = tenant_id.and_then(|tenant_id| slots.known.try_acquire(&tenant_id, 1));
        let permission = if let Some(known) = known {
            Permission::Known(known)
        } else {
            let queued = slots.queue.try_acquire(&peer, 1).ok_or(Error::Overloaded)?;
            Permission::Queued((queued, Arc::clone(&slots.running).acquire_owned().await.map_err(Error::internal)?))
        };
        Ok(VerificationSlot { slots, key, _permission: permission })
    }
}

impl VerificationSlot {
    /// Remembers a valid key with its tenant, and forgets a key that is not valid.
    pub fn record(&self, tenant_id: Option<TenantId>) {
        let mut known_keys = self.slots.known_keys();
        match tenant_id {
            Some(tenant_id) => known_keys.remember(self.key, tenant_id),
            None => known_keys.forget(self.key),
        }
    }
}

impl Slots {
    fn known_keys(&self) -> MutexGuard<'_, KnownKeys> {
        // A panic while the lock is held cannot leave the maps in a state that matters.
        self.known_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownKeys {
    /// Returns the tenant of a known key.
    fn tenant(&self, key: u64) -> Option<TenantId> {
        self.current.get(&key).or_else(|| self.previous.get(&key)).copied()
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
    use std::{future::poll_fn, net::IpAddr, pin::pin, task::Poll};

    use uuid::Uuid;

    use super::*;

    fn key(number: usize) -> SecretString {
        SecretString::from(format!("sk_live_{number}"))
    }

    fn tenant(number: u128) -> TenantId {
        TenantId::from_uuid(Uuid::from_u128(number))
    }

    fn peer(last: u8) -> PeerAddress {
        IpAddr::from([192, 0, 2, last]).into()
    }

    /// `None` if it has to wait.
    async fn acquire_now(slots: &VerificationSlots, key: &SecretString) -> Option<Result<VerificationSlot>> {
        let mut acquired = pin!(slots.acquire(key, peer(1)));
        poll_fn(|context| match acquired.as_mut().poll(context) {
            Poll::Ready(slot) => Poll::Ready(Some(slot)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    async fn remember(slots: &VerificationSlots, key: &SecretString, tenant_id: TenantId) {
        slots.acquire(key, peer(1)).await.unwrap().record(Some(tenant_id));
    }

    /// Takes every place in the queue.
    fn fill_queue(slots: &VerificationSlots) -> Vec<Share<PeerAddress>> {
        (0..4).map(|last| slots.0.queue.try_acquire(&peer(last), QUEUE_LENGTH_PER_ADDRESS).unwrap()).collect()
    }

    #[tokio::test]
    async fn unknown_keys_wait_for_one_of_sixteen_slots_and_beyond_the_share_of_their_address_are_refused_at_once() {
        let slots = VerificationSlots::new();
        let mut running = Vec::new();
        for number in 0..16 {
            running.push(acquire_now(&slots, &key(number)).await.unwrap().unwrap());
        }
        let wait = |number, last| {
            let slots = slots.clone();
            tokio::spawn(async move { drop(slots.acquire(&key(number), peer(last)).await.unwrap()) })
        };
        let mut queue: Vec<_> = (0..48).map(|number| wait(number, 1)).collect();
        while slots.0.queue.try_acquire(&peer(1), 1).is_some() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(acquire_now(&slots, &key(999)).await, Some(Err(Error::Overloaded))));
        queue.push(wait(999, 2));
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
        let full = fill_queue(&slots);
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
        let full = fill_queue(&slots);
        let mut held = Vec::new();
        for number in 0..64 {
            held.push(acquire_now(&slots, &key(number % 8)).await.unwrap().unwrap());
        }
        assert!(acquire_now(&slots, &key(0)).await.unwrap().is_err());
        let other = acquire_now(&slots, &key(8)).await.unwrap().unwrap();
        drop(held.pop());
        held.push(acquire_now(&slots, &key(0)).await.unwrap().unwrap());
        drop((held, other, full));
    }

    #[test]
    fn old_keys_are_forgotten_and_those_in_use_are_not() {
        let mut known = KnownKeys::default();
        for number in 0..35_000 {
            known.remember(number, tenant(1));
            known.remember(7, tenant(1));
        }
        assert!(known.current.len() + known.previous.len() <= 20_000);
        assert!(known.tenant(7).is_some() && known.tenant(34_999).is_some());
        assert!(known.tenant(8).is_none());
    }
}
