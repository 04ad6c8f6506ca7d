//! A bounded pool for hashing.
//!
//! A fixed number of jobs runs at a time, a bounded queue waits, and further jobs are rejected. Memory and latency are
//! therefore bounded under any load. The pool reuses the memory that Argon2 fills, because touching fresh pages costs
//! more than the hashing itself. It does not know what its jobs compute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argon2::Block;
use tokio::sync::{Semaphore, TryAcquireError};
use tracing::Instrument as _;

use crate::{
    error::{Error, Result},
    telemetry::metrics::QueueStats,
};

#[derive(Debug)]
pub(super) struct HashingPool {
    name: &'static str,
    workers: usize,
    queue_length: usize,
    running: Arc<Semaphore>,
    /// One permit for each job that runs or waits.
    admitted: Arc<Semaphore>,
    scratch_memory: Mutex<Vec<Vec<Block>>>,
    /// Blocks to keep of a scratch buffer after a job. Few jobs need more.
    max_cached_blocks: usize,
}

impl HashingPool {
    pub(super) fn new(name: &'static str, workers: usize, queue_length: usize, max_cached_blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            workers,
            queue_length,
            running: Arc::new(Semaphore::new(workers)),
            admitted: Arc::new(Semaphore::new(workers + queue_length)),
            scratch_memory: Mutex::new(Vec::with_capacity(workers)),
            max_cached_blocks,
        })
    }

    /// Runs `work` on a blocking thread with a scratch buffer whose contents are unspecified.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub(super) async fn run<T, Work>(self: &Arc<Self>, work: Work) -> Result<T>
    where
        T: Send + 'static,
        Work: FnOnce(&mut Vec<Block>) -> T + Send + 'static,
    {
        self.wait_and_run(work).instrument(self.span()).await
    }

    async fn wait_and_run<T, Work>(self: &Arc<Self>, work: Work) -> Result<T>
    where
        T: Send + 'static,
        Work: FnOnce(&mut Vec<Block>) -> T + Send + 'static,
    {
        let admission = Arc::clone(&self.admitted).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::NoPermits => Error::Overloaded,
            TryAcquireError::Closed => Error::internal(error),
        })?;
        let permit = Arc::clone(&self.running).acquire_owned().await.map_err(Error::internal)?;
        let pool = Arc::clone(self);
        let job = move || {
            // The permits are released when the work ends, even if the caller stopped waiting earlier.
            let _permits = (admission, permit);
            pool.with_memory(work)
        };
        tokio::task::spawn_blocking(job).await.map_err(Error::internal)
    }

    /// Runs `work` on the current thread. For work that takes less time than handing it to another thread.
    pub(super) fn run_inline<T>(&self, work: impl FnOnce(&mut Vec<Block>) -> T) -> T {
        self.span().in_scope(|| self.with_memory(work))
    }

    pub(super) fn stats(&self) -> QueueStats {
        let running = self.workers - self.running.available_permits();
        let admitted = self.workers + self.queue_length - self.admitted.available_permits();
        let as_u64 = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        QueueStats {
            pool: self.name,
            length: as_u64(admitted.saturating_sub(running)),
            limit: as_u64(self.queue_length),
        }
    }

    /// The span of a job, its time in the queue included.
    fn span(&self) -> tracing::Span {
        tracing::debug_span!("hash", pool = self.name)
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

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;

    #[tokio::test]
    async fn a_hashing_pool_rejects_jobs_while_its_queue_is_full() {
        let pool = HashingPool::new("key", 2, 1, 8);
        let length_and_limit = || (pool.stats().length, pool.stats().limit);
        let running = pool.running.acquire_many(2).await.unwrap();
        let admitted = pool.admitted.acquire_many(2).await.unwrap();
        assert_eq!(length_and_limit(), (0, 1));
        let mut waiting = Box::pin(pool.run(|_| "waited"));
        let is_ready = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())).await;
        assert!(!is_ready, "it waits for the running jobs");
        assert_eq!(length_and_limit(), (1, 1));
        assert!(matches!(pool.run(|_| ()).await, Err(Error::Overloaded)));
        drop((running, admitted));
        assert_eq!(waiting.await.unwrap(), "waited");
        assert_eq!(length_and_limit(), (0, 1));
        assert!(pool.run(|_| ()).await.is_ok());
    }

    #[tokio::test]
    async fn scratch_memory_is_reused_up_to_its_cached_size() {
        let pool = HashingPool::new("key", 1, 1, 8);
        pool.run(|memory| memory.resize(8, Block::default())).await.unwrap();
        assert_eq!(pool.run(|memory| memory.len()).await.unwrap(), 8);
        pool.run(|memory| memory.resize(1_000, Block::default())).await.unwrap();
        let kept = pool.run(|memory| (memory.len(), memory.capacity())).await.unwrap();
        assert_eq!(kept, (8, 8), "the excess of a larger job is freed");
    }
}
