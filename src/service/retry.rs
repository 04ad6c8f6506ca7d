//! Retries use cases that failed because of a concurrent transaction.

use std::time::Duration;

use rand::RngExt as _;

use super::ids::system_rng;
use crate::error::{Error, Result};

/// Retries after the first attempt.
const MAX_RETRIES: u32 = 2;
const INITIAL_BACKOFF_US: u64 = 5_000;

/// Retries on deadlock (40P01) or serialization failure (40001) with jittered exponential backoff. Postgres has rolled
/// back the transaction in both cases.
///
/// # Errors
/// [`Error::Conflict`] if the last attempt fails in the same way.
pub(super) async fn retry_on_conflict<T, Attempt>(mut attempt: impl FnMut() -> Attempt) -> Result<T>
where
    Attempt: Future<Output = Result<T>>,
{
    for retry in 0..MAX_RETRIES {
        match attempt().await {
            Err(Error::Conflict) => {}
            result => return result,
        }
        let max_delay_us = INITIAL_BACKOFF_US << (2 * retry);
        let delay_us = max_delay_us / 2 + system_rng().random_range(0..max_delay_us);
        tokio::time::sleep(Duration::from_micros(delay_us)).await;
    }
    attempt().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether the call succeeded, and the number of attempts.
    async fn with_conflicts(conflicts: u32) -> (bool, u32) {
        let mut attempts = 0;
        let call = retry_on_conflict(|| {
            attempts += 1;
            let result = if attempts > conflicts { Ok(()) } else { Err(Error::Conflict) };
            async move { result }
        });
        (call.await.is_ok(), attempts)
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_is_retried_at_most_twice() {
        assert_eq!(with_conflicts(0).await, (true, 1));
        assert_eq!(with_conflicts(2).await, (true, 3));
        assert_eq!(with_conflicts(3).await, (false, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_is_jittered_and_grows() {
        for _ in 0..50 {
            let mut attempts = Vec::new();
            let call = retry_on_conflict::<(), _>(|| {
                attempts.push(tokio::time::Instant::now());
                async { Err(Error::Conflict) }
            });
            assert!(call.await.is_err());
            let [first, second, third] = attempts.try_into().unwrap();
            // tokio's timer rounds up to whole milliseconds.
            assert!((2..=8).contains(&(second - first).as_millis()), "{:?}", second - first);
            assert!((10..=31).contains(&(third - second).as_millis()), "{:?}", third - second);
        }
    }

    #[tokio::test]
    async fn other_errors_than_a_conflict_are_not_retried() {
        let mut attempts = 0;
        let call = retry_on_conflict::<(), _>(|| {
            attempts += 1;
            async { Err(Error::Overloaded) }
        });
        assert!(matches!(call.await, Err(Error::Overloaded)));
        assert_eq!(attempts, 1);
    }
}
