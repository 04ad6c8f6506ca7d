//! A bounded pool for hashing.
//!
//! As many jobs at work as there are cores, a short queue behind them, and a refusal beyond it: memory and latency stay
//! bounded whatever comes. The memory that Argon2 fills is kept and used again, because touching fresh pages costs more
//! than the hashing itself.

use std::sync::{Arc, Mutex, PoisonError};

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
    /// One permit for everyone at work or waiting.
    admitted: Arc<Semaphore>,
    scratch_memory: Mutex<Vec<Vec<Block>>>,
    /// Blocks that are kept of it; work that needed more is the exception.
    blocks: usize,
}

impl HashingPool {
    pub(super) fn new(name: &'static str, workers: usize, queue_length: usize, blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            workers,
            queue_length,
            running: Arc::new(Semaphore::new(workers)),
            admitted: Arc::new(Semaphore::new(workers + queue_length)),
            scratch_memory: Mutex::new(Vec::with_capacity(workers)),
            blocks,
        })
    }

    /// Does the work on a thread that may block, with memory that whoever had it before has left dirty.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full.
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
        let admission = Arc::clone(&self.admitted).try_acquire_owned().map_err(|refused| match refused {
            TryAcquireError::NoPermits => Error::Overloaded,
            TryAcquireError::Closed => Error::internal(refused),
        })?;
        let permit = Arc::clone(&self.running).acquire_owned().await.map_err(Error::internal)?;
        let pool = Arc::clone(self);
        let job = move || {
            // Held until the work is done, not until the caller stops waiting for it.
            let _held = (admission, permit);
            pool.with_memory(work)
        };
        tokio::task::spawn_blocking(job).await.map_err(Error::internal)
    }

    /// Does the work here and now: for work that takes less time than to hand it over.
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

    /// Waiting included.
    fn span(&self) -> tracing::Span {
        tracing::debug_span!("hash", pool = self.name)
    }

    fn with_memory<T>(&self, work: impl FnOnce(&mut Vec<Block>) -> T) -> T {
        let mut memory = self.spare().pop().unwrap_or_default();
        let done = work(&mut memory);
        memory.truncate(self.blocks);
        memory.shrink_to(self.blocks);
        self.spare().push(memory);
        done
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Block>>> {
        // A panic elsewhere leaves nothing half done in a list of scratch memory.
        self.scratch_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_freed_one_accepts() {
        let pool = HashingPool::new("key", 2, 1, 8);
        let length_and_limit = || (pool.stats().length, pool.stats().limit);
        let running = pool.running.acquire_many(2).await.unwrap();
        let admitted = pool.admitted.acquire_many(2).await.unwrap();
        assert_eq!(length_and_limit(), (0, 1));
        let mut waiting = Box::pin(pool.run(|_| "waited"));
        let is_ready = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())).await;
        assert!(!is_ready, "it waits for those at work");
        assert_eq!(length_and_limit(), (1, 1));
        assert!(matches!(pool.run(|_| ()).await, Err(Error::Overloaded)));
        drop((running, admitted));
        assert_eq!(waiting.await.unwrap(), "waited");
        assert_eq!(length_and_limit(), (0, 1));
        assert!(pool.run(|_| ()).await.is_ok());
    }

    #[tokio::test]
    async fn memory_is_used_again() {
        let pool = HashingPool::new("key", 1, 1, 8);
        pool.run(|memory| memory.resize(8, Block::default())).await.unwrap();
        assert_eq!(pool.run(|memory| memory.len()).await.unwrap(), 8);
        pool.run(|memory| memory.resize(1_000, Block::default())).await.unwrap();
        let kept = pool.run(|memory| (memory.len(), memory.capacity())).await.unwrap();
        assert_eq!(kept, (8, 8), "but not more than is usual");
    }
}
