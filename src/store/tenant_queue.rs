//! Queues the work of each tenant inside the process, so that no tenant can occupy the connection pool.
//!
//! Changes to one tenant's catalog run one after the other, under the tenant's lock in Postgres. Without this queue,
//! each of a hundred concurrent changes would hold a connection while it waits for that lock, and the calls of all
//! other tenants would find the pool exhausted. Calls wait here before they take a connection, first come, first
//! served.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::domain::TenantId;

/// Connections that one tenant can use at a time. With two, a read need not wait until a change has ended.
const MAX_CONNECTIONS_PER_TENANT: usize = 2;
/// How long a call waits for its turn. As long as `lock_timeout`: that is how long it would wait for the tenant's lock.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The queues of the tenants that have calls at work or waiting.
#[derive(Debug, Default)]
pub(super) struct TenantQueues(Mutex<HashMap<TenantId, Queue>>);

#[derive(Debug)]
struct Queue {
    turns: Arc<Semaphore>,
    /// Calls at work or waiting. The queue is removed with the last one.
    calls: usize,
}

/// The permission to use one connection for this tenant. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct TenantTurn {
    // Dropped in this order: the queue may be removed only after the turn has ended.
    _turn: OwnedSemaphorePermit,
    _place: Place,
}

/// A call's place in a queue, at work or waiting.
#[derive(Debug)]
struct Place {
    queues: Arc<TenantQueues>,
    tenant_id: TenantId,
}

impl TenantQueues {
    /// Waits until it is the call's turn. Returns `None` after [`MAX_WAIT`].
    pub async fn wait_for_turn(self: &Arc<Self>, tenant_id: TenantId) -> Option<TenantTurn> {
        let (place, turns) = self.join(tenant_id);
        let turn = timeout(MAX_WAIT, turns.acquire_owned()).await.ok()?;
        // The semaphore is never closed.
        Some(TenantTurn { _turn: turn.ok()?, _place: place })
    }

    fn join(self: &Arc<Self>, tenant_id: TenantId) -> (Place, Arc<Semaphore>) {
        let mut queues = self.lock();
        let queue = queues
            .entry(tenant_id)
            .or_insert_with(|| Queue { turns: Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_TENANT)), calls: 0 });
        queue.calls += 1;
        (Place { queues: Arc::clone(self), tenant_id }, Arc::clone(&queue.turns))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Queue>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut queue) = self.queues.lock().entry(self.tenant_id) {
            queue.get_mut().calls -= 1;
            if queue.get().calls == 0 {
                queue.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;
    use uuid::Uuid;

    use super::*;

    const TENANT: TenantId = TenantId::from_uuid(Uuid::from_u128(1));
    const OTHER: TenantId = TenantId::from_uuid(Uuid::from_u128(2));

    /// Returns the turn if the call does not have to wait.
    fn turn_at_once(queues: &Arc<TenantQueues>, tenant_id: TenantId) -> Option<TenantTurn> {
        queues.wait_for_turn(tenant_id).now_or_never().flatten()
    }

    #[tokio::test]
    async fn a_third_call_of_a_tenant_waits_and_a_call_of_another_tenant_does_not() {
        let queues = Arc::default();
        let (first, _second) = (turn_at_once(&queues, TENANT).unwrap(), turn_at_once(&queues, TENANT).unwrap());
        assert!(turn_at_once(&queues, TENANT).is_none());
        assert!(turn_at_once(&queues, OTHER).is_some());
        drop(first);
        assert!(turn_at_once(&queues, TENANT).is_some());
    }

    #[tokio::test]
    async fn waiting_calls_get_their_turn_in_the_order_of_their_arrival() {
        let queues = Arc::default();
        let (first, second) = (turn_at_once(&queues, TENANT).unwrap(), turn_at_once(&queues, TENANT).unwrap());
        let (mut third, mut fourth) = (Box::pin(queues.wait_for_turn(TENANT)), Box::pin(queues.wait_for_turn(TENANT)));
        assert!((&mut third).now_or_never().is_none());
        assert!((&mut fourth).now_or_never().is_none());
        drop(first);
        assert!((&mut fourth).now_or_never().is_none());
        let third = third.now_or_never().flatten().unwrap();
        drop((second, third));
        assert!(fourth.now_or_never().flatten().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_turn_only_for_a_limited_time() {
        let queues = Arc::default();
        let _turns = (turn_at_once(&queues, TENANT).unwrap(), turn_at_once(&queues, TENANT).unwrap());
        let started_at = Instant::now();
        assert!(queues.wait_for_turn(TENANT).await.is_none());
        assert!(started_at.elapsed() >= MAX_WAIT);
    }

    #[tokio::test]
    async fn nothing_remains_of_a_queue_without_calls() {
        let queues: Arc<TenantQueues> = Arc::default();
        let turns = (turn_at_once(&queues, TENANT).unwrap(), turn_at_once(&queues, TENANT).unwrap());
        // A call that is cancelled while it waits.
        assert!(turn_at_once(&queues, TENANT).is_none());
        assert_eq!(queues.lock().len(), 1);
        drop(turns);
        assert!(queues.lock().is_empty());
    }
}
