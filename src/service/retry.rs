//! Another try after a lost race.

use std::time::Duration;

use rand::RngExt as _;

use super::ids::system_rng;
use crate::error::{Error, Result};

/// Tries after the first.
const RETRIES: u32 = 2;
const INITIAL_BACKOFF_US: u64 = 5_000;

/// Repeats what lost a race: a deadlock (40P01) or a serialization failure (40001), of which the database has undone
/// everything. After an uneven pause, so that those who met do not meet again.
///
/// # Errors
/// [`Error::Conflict`] where the last try lost too; those of the work.
pub(super) async fn retry_on_conflict<T, Work>(mut attempt: impl FnMut() -> Work) -> Result<T>
where
    Work: Future<Output = Result<T>>,
{
    for retry in 0..RETRIES {
        match attempt().await {
            Err(Error::Conflict) => {}
            done => return done,
        }
        let max_delay_us = INITIAL_BACKOFF_US << (2 * retry);
        let delay = max_delay_us / 2 + system_rng().random_range(0..max_delay_us);
        tokio::time::sleep(Duration::from_micros(delay)).await;
    }
    attempt().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tried(losses: u32) -> (bool, u32) {
        let mut tries = 0;
        let done = retry_on_conflict(|| {
            tries += 1;
            let outcome = if tries > losses { Ok(()) } else { Err(Error::Conflict) };
            async move { outcome }
        });
        (done.await.is_ok(), tries)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_race_is_run_twice_more_and_no_oftener() {
        assert_eq!(tried(0).await, (true, 1));
        assert_eq!(tried(2).await, (true, 3));
        assert_eq!(tried(3).await, (false, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_are_uneven_and_the_second_is_longer() {
        for _ in 0..50 {
            let mut tries = Vec::new();
            let lost = retry_on_conflict::<(), _>(|| {
                tries.push(tokio::time::Instant::now());
                async { Err(Error::Conflict) }
            });
            assert!(lost.await.is_err());
            let [first, second, third] = tries.try_into().unwrap();
            // The clock goes by whole milliseconds, and none of them is cut short.
            assert!((2..=8).contains(&(second - first).as_millis()), "{:?}", second - first);
            assert!((10..=31).contains(&(third - second).as_millis()), "{:?}", third - second);
        }
    }

    #[tokio::test]
    async fn what_is_no_lost_race_is_not_repeated() {
        let mut tries = 0;
        let failed = retry_on_conflict::<(), _>(|| {
            tries += 1;
            async { Err(Error::Overloaded) }
        });
        assert!(matches!(failed.await, Err(Error::Overloaded)));
        assert_eq!(tries, 1);
    }
}
