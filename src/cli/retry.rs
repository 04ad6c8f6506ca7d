//! Repeats a batch while its target is unavailable or overloaded. Repeating a batch must be safe.

use std::time::Duration;

use super::Error;
use crate::error;

const MAX_ATTEMPTS: u32 = 8;
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// An error of one attempt.
pub struct AttemptError {
    /// Whether the same batch may succeed later.
    pub retryable: bool,
    pub cause: Error,
}

impl AttemptError {
    pub fn permanent(cause: impl Into<Error>) -> Self {
        Self { retryable: false, cause: cause.into() }
    }
}

impl From<error::Error> for AttemptError {
    fn from(error: error::Error) -> Self {
        Self { retryable: is_retryable(&error), cause: error.into() }
    }
}

pub const fn is_retryable(error: &error::Error) -> bool {
    matches!(error, error::Error::Conflict | error::Error::DatabaseUnavailable(_) | error::Error::Overloaded)
}

/// Tries until the batch succeeds or an error is permanent. After the last attempt, the error ends with `remedy`.
pub async fn retry<T>(remedy: &str, mut attempt: impl AsyncFnMut() -> Result<T, AttemptError>) -> Result<T, Error> {
    let mut backoff = INITIAL_BACKOFF;
    let mut number = 1;
    loop {
        match attempt().await {
            Ok(result) => return Ok(result),
            Err(error) if !error.retryable => return Err(error.cause),
            Err(error) if number == MAX_ATTEMPTS => return Err(format!("{}. {remedy}", error.cause).into()),
            Err(error) => tracing::warn!("Batch failed, retrying in {backoff:?}: {}", error.cause),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
        number += 1;
    }
}
