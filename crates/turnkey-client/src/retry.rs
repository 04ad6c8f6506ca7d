//! How calls are repeated: full jitter
//! (<https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/>), and never before the server's
//! own delay is over.

use std::time::Duration;

/// When a call is repeated. The defaults suit a service that responds to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Of one call, the first one included; 1 means no retries.
    pub max_attempts: u32,
    /// The deadline of an attempt.
    pub attempt_timeout: Duration,
    /// The deadline of all attempts and of the time between them.
    pub total_timeout: Duration,
    /// Upper bound of the wait before the second attempt. It doubles with each further attempt.
    pub initial_backoff: Duration,
    /// The largest upper bound.
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            attempt_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(30),
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    /// One attempt with this deadline.
    pub fn once(timeout: Duration) -> Self {
        Self { max_attempts: 1, attempt_timeout: timeout, total_timeout: timeout, ..Self::default() }
    }

    /// Returns the wait after this attempt, counted from 1: any time up to the backoff, after the server's delay.
    pub(crate) fn delay(&self, attempt: u32, server_delay: Option<Duration>) -> Duration {
        let doublings = attempt.saturating_sub(1).min(16);
        let backoff = self.initial_backoff.saturating_mul(1 << doublings).min(self.max_backoff);
        server_delay.unwrap_or_default() + backoff.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_at_least_the_servers_and_at_most_the_backoff_more() {
        let policy = RetryPolicy::default();
        let server_delay = Duration::from_millis(200);
        for (attempt, backoff_ms) in [(1, 100), (2, 200), (3, 400), (6, 3_200), (7, 5_000), (u32::MAX, 5_000)] {
            let backoff = Duration::from_millis(backoff_ms);
            for _ in 0..100 {
                assert!(policy.delay(attempt, None) <= backoff);
                let delay = policy.delay(attempt, Some(server_delay));
                assert!(delay >= server_delay && delay <= server_delay + backoff, "{attempt}: {delay:?}");
            }
        }
    }
}
