//! Argon2id on a bounded pool.
//!
//! As many hashes at work as there are cores, a short queue behind them, and a refusal beyond it: memory and latency
//! stay bounded whatever comes. The memory that Argon2 fills is kept and used again, because touching fresh pages costs
//! more than the hashing itself.

use std::sync::{Arc, Mutex, PoisonError};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use rand::{TryRng, rngs::SysRng};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, TryAcquireError};

use crate::{
    domain::Argon2Setting,
    error::{Error, Result},
};

const SALT_BYTES: usize = 16;

/// Makes hashes; cheap to clone, all clones share one pool.
#[derive(Debug, Clone)]
pub struct Hasher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    key_params: Params,
    at_work: Arc<Semaphore>,
    /// One permit for everyone at work or waiting.
    admitted: Arc<Semaphore>,
    spare_memory: Mutex<Vec<Vec<Block>>>,
}

impl Hasher {
    /// # Errors
    /// Where Argon2 refuses the setting.
    pub fn new(key: Argon2Setting, workers: usize, queue_length: usize) -> Result<Self> {
        let key_params = Params::new(key.memory_kib, key.passes, key.lanes, None).map_err(Error::internal)?;
        Ok(Self {
            shared: Arc::new(Shared {
                key_params,
                at_work: Arc::new(Semaphore::new(workers)),
                admitted: Arc::new(Semaphore::new(workers + queue_length)),
                spare_memory: Mutex::new(Vec::with_capacity(workers)),
            }),
        })
    }

    /// The Argon2id hash of a key's random part, in PHC form.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full.
    pub async fn hash_key(&self, random_part: SecretString) -> Result<String> {
        let admission = Arc::clone(&self.shared.admitted).try_acquire_owned().map_err(|refused| match refused {
            TryAcquireError::NoPermits => Error::Overloaded,
            TryAcquireError::Closed => Error::internal(refused),
        })?;
        let permit = Arc::clone(&self.shared.at_work).acquire_owned().await.map_err(Error::internal)?;
        let shared = Arc::clone(&self.shared);
        let hashing = move || {
            // Held until the work is done, not until the caller stops waiting for it.
            let _held = (admission, permit);
            shared.hash(&shared.key_params, random_part.expose_secret().as_bytes())
        };
        tokio::task::spawn_blocking(hashing).await.map_err(Error::internal)?
    }
}

impl Shared {
    fn hash(&self, params: &Params, secret: &[u8]) -> Result<String> {
        let mut salt = [0_u8; SALT_BYTES];
        SysRng.try_fill_bytes(&mut salt).map_err(Error::internal)?;
        let mut output = [0_u8; Params::DEFAULT_OUTPUT_LEN];

        let mut memory = self.take_memory(params.block_count());
        let hashed = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone()).hash_password_into_with_memory(
            secret,
            &salt,
            &mut output,
            &mut memory,
        );
        self.keep_memory(memory);
        hashed.map_err(Error::internal)?;

        let phc = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(params).map_err(Error::internal)?,
            salt: Some(Salt::new(&salt).map_err(Error::internal)?),
            hash: Some(Output::new(&output).map_err(Error::internal)?),
        };
        Ok(phc.to_string())
    }

    fn take_memory(&self, blocks: usize) -> Vec<Block> {
        // A panic elsewhere leaves nothing half done in a list of scratch memory.
        let mut spare = self.spare_memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = spare.pop().unwrap_or_default();
        if memory.len() < blocks {
            memory.resize(blocks, Block::default());
        }
        memory
    }

    fn keep_memory(&self, memory: Vec<Block>) {
        self.spare_memory.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

#[cfg(test)]
mod tests {
    use argon2::PasswordVerifier;

    use super::*;

    fn hasher(workers: usize, queue_length: usize) -> Hasher {
        Hasher::new(Argon2Setting::KEY, workers, queue_length).unwrap()
    }

    #[tokio::test]
    async fn a_hash_is_a_phc_string_that_verifies() {
        let phc = hasher(1, 1).hash_key(SecretString::from("random part")).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{phc}");
        let parsed = PasswordHash::new(&phc).unwrap();
        assert!(Argon2::default().verify_password(b"random part", &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"random port", &parsed).is_err());
    }

    #[tokio::test]
    async fn two_hashes_of_one_secret_differ_although_they_share_memory() {
        let hasher = hasher(1, 1);
        let first = hasher.hash_key(SecretString::from("same")).await.unwrap();
        let second = hasher.hash_key(SecretString::from("same")).await.unwrap();
        assert_ne!(first, second);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_freed_one_accepts() {
        let hasher = hasher(1, 1);
        let at_work = hasher.shared.at_work.acquire().await.unwrap();
        let admitted = hasher.shared.admitted.acquire().await.unwrap();
        let waiting = hasher.hash_key(SecretString::from("waits"));
        tokio::pin!(waiting);
        assert!(futures_poll(&mut waiting).await.is_none(), "it waits for the one at work");
        assert!(matches!(hasher.hash_key(SecretString::from("too many")).await, Err(Error::Overloaded)));
        drop((at_work, admitted));
        assert!(waiting.await.is_ok());
        assert!(hasher.hash_key(SecretString::from("again")).await.is_ok());
    }

    /// One poll: `None` where the future is not ready.
    async fn futures_poll<F: Future>(future: &mut std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
