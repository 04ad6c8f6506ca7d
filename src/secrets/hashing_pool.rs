//! A bounded pool for hashing.
//!
//! A fixed number of jobs runs at a time, a bounded queue waits, and further jobs are rejected. Memory and latency are
//! therefore bounded under any load. Pools can share their workers: each has its own queue, and the queues take turns,
//! so that a full one delays the others by one job at most. The workers reuse the memory that Argon2 fills, because
//! touching fresh pages costs more than the hashing itself. A pool does not know what its jobs compute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argon2::Block;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

use crate::{
    error::{Error, Result},
    telemetry::metrics::QueueStats,
};

/// The workers of one or more pools, and their memory.
#[derive(Debug)]
pub(super) struct HashingWorkers {
    idle: Arc<Semaphore>,
    scratch_memory: Mutex<Vec<Vec<Block>>>,
    /// Blocks to keep of a scratch buffer after a job. Few jobs need more.
    max_cached_blocks: usize,
}

#[derive(Debug)]
pub(super) struct HashingPool {
    name: &'static str,
    queue_length: usize,
    /// Free places in the queue.
    places: Semaphore,
    /// Held by the first job of the queue. It alone waits for a worker, so that pools with the same workers take turns.
    front: Semaphore,
    workers: Arc<HashingWorkers>,
}

impl HashingWorkers {
    pub(super) fn new(count: usize, max_cached_blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            idle: Arc::new(Semaphore::new(count)),
            scratch_memory: Mutex::new(Vec::with_capacity(count)),
            max_cached_blocks,
        })
    }

    fn with_memory<T>(&self, work: impl FnOnce(&mut Vec<Block>) -> T) -> T {
        let mut memory = self.lock_scratch_memory().pop().unwrap_or_default();
        let output = work(&mut memory);
        memory.truncate(self.max_cached_blocks);
        memory.shrink_to(self.max_cached_blocks);
        self.lock_scratch_memory().push(memory);
        output
    }

    fn lock_scratch_memory(&self) -> MutexGuard<'_, Vec<Vec<Block>>> {
        // A panic while the lock is held cannot leave the list in an inconsistent state.
        self.scratch_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HashingPool {
    pub(super) fn new(name: &'static str, queue_length: usize, workers: Arc<HashingWorkers>) -> Self {
        Self { name, queue_length, places: Semaphore::new(queue_length), front: Semaphore::new(1), workers }
    }

    /// Runs `work` on a blocking thread with a scratch buffer whose contents are unspecified.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub(super) async fn run<T, Work>(&self, work: Work) -> Result<T>
    where
        T: Send + 'static,
        Work: FnOnce(&mut Vec<Block>) -> T + Send + 'static,
    {
        self.wait_and_run(work).instrument(self.span()).await
    }

    async fn wait_and_run<T, Work>(&self, work: Work) -> Result<T>
    where
        T: Send + 'static,
        Work: FnOnce(&mut Vec<Block>) -> T + Send + 'static,
    {
        let worker = self.wait_for_worker().await?;
        let workers = Arc::clone(&self.workers);
        let job = move || {
            // The worker is released when the work ends, even if the caller stopped waiting earlier.
            let _worker = worker;
            workers.with_memory(work)
        };
        tokio::task::spawn_blocking(job).await.map_err(Error::internal)
    }

    async fn wait_for_worker(&self) -> Result<OwnedSemaphorePermit> {
        let idle = Arc::clone(&self.workers.idle);
        let queue_is_empty = self.places.available_permits() == self.queue_length;
        if queue_is_empty && let Ok(worker) = Arc::clone(&idle).try_acquire_owned() {
            return Ok(worker);
        }
        let _place = self.places.try_acquire().map_err(|_full| Error::Overloaded)?;
        let _front = self.front.acquire().await.map_err(Error::internal)?;
        idle.acquire_owned().await.map_err(Error::internal)
    }

    /// Runs `work` on the current thread. For work that takes less time than handing it to another thread.
    pub(super) fn run_inline<T>(&self, work: impl FnOnce(&mut Vec<Block>) -> T) -> T {
        self.span().in_scope(|| self.workers.with_memory(work))
    }

    pub(super) fn stats(&self) -> QueueStats {
        let as_u64 = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let waiting = self.queue_length - self.places.available_permits();
        QueueStats { pool: self.name, length: as_u64(waiting), limit: as_u64(self.queue_length) }
    }

    /// The span of a job, its time in the queue included.
    fn span(&self) -> tracing::Span {
        tracing::debug_span!("hash", pool = self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;

    async fn is_ready(waiting: &mut (impl Future + Unpin)) -> bool {
        poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *waiting).poll(context).is_ready())).await
    }

    #[tokio::test]
    async fn a_hashing_pool_rejects_jobs_while_its_queue_is_full() {
        let workers = HashingWorkers::new(2, 8);
        let pool = HashingPool::new("key", 1, Arc::clone(&workers));
        let length_and_limit = || (pool.stats().length, pool.stats().limit);
        let running = workers.idle.acquire_many(2).await.unwrap();
        assert_eq!(length_and_limit(), (0, 1));
        let mut waiting = Box::pin(pool.run(|_| "waited"));
        assert!(!is_ready(&mut waiting).await, "it waits for the running jobs");
        assert_eq!(length_and_limit(), (1, 1));
        assert!(matches!(pool.run(|_| ()).await, Err(Error::Overloaded)));
        drop(running);
        assert_eq!(waiting.await.unwrap(), "waited");
        assert_eq!(length_and_limit(), (0, 1));
        assert!(pool.run(|_| ()).await.is_ok());
    }

    #[tokio::test]
    async fn without_a_queue_a_hashing_pool_runs_jobs_while_a_worker_is_idle() {
        let workers = HashingWorkers::new(1, 8);
        let pool = HashingPool::new("key", 0, Arc::clone(&workers));
        assert!(pool.run(|_| ()).await.is_ok());
        let running = workers.idle.acquire().await.unwrap();
        assert!(matches!(pool.run(|_| ()).await, Err(Error::Overloaded)));
        drop(running);
        assert!(pool.run(|_| ()).await.is_ok());
    }

    #[tokio::test]
    async fn a_full_queue_neither_rejects_the_jobs_of_another_nor_delays_them_by_more_than_one_job() {
        let workers = HashingWorkers::new(1, 8);
        let (signup, login) =
            (HashingPool::new("signup", 3, Arc::clone(&workers)), HashingPool::new("login", 1, Arc::clone(&workers)));
        let order = Arc::new(Mutex::new(Vec::new()));
        let job = |pool: &'static str| {
            let order = Arc::clone(&order);
            move |_memory: &mut Vec<Block>| order.lock().unwrap().push(pool)
        };
        let running = workers.idle.acquire().await.unwrap();
        let mut signups: Vec<_> = (0..3).map(|_| Box::pin(signup.run(job("signup")))).collect();
        for waiting in &mut signups {
            assert!(!is_ready(waiting).await);
        }
        assert!(matches!(signup.run(|_| ()).await, Err(Error::Overloaded)));
        let mut logged_in = Box::pin(login.run(job("login")));
        assert!(!is_ready(&mut logged_in).await);
        drop(running);
        let (signed_up, logged_in) = tokio::join!(futures_util::future::join_all(signups), logged_in);
        assert!(logged_in.is_ok() && signed_up.iter().all(Result::is_ok));
        assert_eq!(*order.lock().unwrap(), ["signup", "login", "signup", "signup"]);
    }

    #[tokio::test]
    async fn scratch_memory_is_reused_up_to_its_cached_size() {
        let pool = HashingPool::new("key", 1, HashingWorkers::new(1, 8));
        pool.run(|memory| memory.resize(8, Block::default())).await.unwrap();
        assert_eq!(pool.run(|memory| memory.len()).await.unwrap(), 8);
        pool.run(|memory| memory.resize(1_000, Block::default())).await.unwrap();
        let kept = pool.run(|memory| (memory.len(), memory.capacity())).await.unwrap();
        assert_eq!(kept, (8, 8), "the excess of a larger job is freed");
    }
}
