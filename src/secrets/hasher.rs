//! Hashes of keys and of passwords, made and verified where they stand in nobody's way.
//!
//! Each kind has its own setting and its own [`HashingPool`]: people who sign up never stand before keys in a queue.

use std::sync::Arc;

use argon2::{Block, Params};
use secrecy::SecretString;

use super::{
    argon2id::{ParsedHash, SALT_BYTES, argon2_params, compute, cost, equalizing_params, hash, params},
    hashing_pool::HashingPool,
    password_strength,
};
use crate::{
    domain::{Argon2Params, Password},
    error::{Error, Result},
    telemetry::metrics::QueueStats,
};

/// Up to this product of KiB and passes a hash is made on the spot: it takes some 150 µs at most, and 40 µs for a key of
/// the default setting, which is less than two threads need to hand it to and fro.
const MAX_INLINE_COST: u32 = 256;
/// Keys whose hashes are made one after the other, so that a small batch is not torn apart.
const MIN_CHUNK_LEN: usize = 4;

/// How much work hashes cost, and how many at a time.
#[derive(Debug, Clone, Copy)]
pub struct HashingSettings {
    pub key: Argon2Params,
    pub password: Argon2Params,
    pub workers: usize,
    /// Hashes of a kind that may wait for a worker.
    pub queue_length: usize,
}

/// Makes and verifies hashes; cheap to clone, all clones share their lanes.
#[derive(Debug, Clone)]
pub struct Hasher {
    keys: HashProfile,
    passwords: HashProfile,
    workers: usize,
}

#[derive(Debug, Clone)]
struct HashProfile {
    params: Params,
    pool: Arc<HashingPool>,
}

/// What came of comparing a secret with a stored hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verification {
    pub matches: bool,
    /// The hash was made with another setting than today's.
    pub needs_rehash: bool,
}

impl Hasher {
    /// # Errors
    /// Where Argon2 refuses a setting.
    pub fn new(settings: HashingSettings) -> Result<Self> {
        let profile = |name, setting| {
            let params = params(setting)?;
            let pool = HashingPool::new(name, settings.workers, settings.queue_length, params.block_count());
            Ok::<_, Error>(HashProfile { params, pool })
        };
        Ok(Self {
            keys: profile("key", settings.key)?,
            passwords: profile("password", settings.password)?,
            workers: settings.workers,
        })
    }

    /// How full the queues are.
    pub fn stats(&self) -> Vec<QueueStats> {
        [&self.keys, &self.passwords].into_iter().map(|profile| profile.pool.stats()).collect()
    }

    /// The hash of a key's random part.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full.
    pub async fn hash_key(&self, random_part: SecretString) -> Result<String> {
        self.keys.hash_one(random_part).await
    }

    /// The hashes of many keys' random parts, made on all cores at once.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full.
    pub async fn hash_keys(&self, random_parts: Vec<SecretString>) -> Result<Vec<String>> {
        let mut parts = random_parts.into_iter();
        let chunk_length = parts.len().div_ceil(self.workers).max(MIN_CHUNK_LEN);
        let mut chunks = Vec::new();
        while parts.len() > 0 {
            chunks.push(self.keys.hash(parts.by_ref().take(chunk_length).collect()));
        }
        Ok(futures_util::future::try_join_all(chunks).await?.concat())
    }

    /// Whether this is the random part that was hashed; `false` after the same work where there is no hash.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full.
    pub async fn verify_key(&self, random_part: SecretString, stored: Option<String>) -> Result<bool> {
        Ok(self.keys.verify(random_part, stored).await?.matches)
    }

    /// # Errors
    /// [`Error::Overloaded`] when the queue is full.
    pub async fn hash_password(&self, password: Password) -> Result<String> {
        self.passwords.hash_one(password.into_secret()).await
    }

    /// Whether this is the password that was hashed; not right, after the same work, where there is no hash, or no
    /// password that could have been.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full.
    pub async fn verify_password(&self, password: Option<Password>, stored: Option<String>) -> Result<Verification> {
        let stored = stored.filter(|_| password.is_some());
        let secret = password.map(Password::into_secret).unwrap_or_default();
        self.passwords.verify(secret, stored).await
    }

    /// Whether a guesser would soon come to this password, who knows the hints. On the passwords' lane, for some take as
    /// long as hashing.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full.
    pub async fn is_guessable(&self, password: Password, user_inputs: Vec<String>) -> Result<bool> {
        self.passwords.pool.run(move |_memory| password_strength::is_guessable(&password, &user_inputs)).await
    }
}

impl HashProfile {
    async fn hash_one(&self, secret: SecretString) -> Result<String> {
        let hashes = self.hash(vec![secret]).await?;
        hashes.into_iter().next().ok_or_else(|| Error::internal("one secret had no hash"))
    }

    async fn hash(&self, secrets: Vec<SecretString>) -> Result<Vec<String>> {
        let params = self.params.clone();
        let count = u32::try_from(secrets.len()).unwrap_or(u32::MAX);
        self.run(cost(&self.params).saturating_mul(count), move |memory| {
            secrets.iter().map(|secret| hash(&params, secret, memory)).collect()
        })
        .await
    }

    async fn verify(&self, secret: SecretString, stored: Option<String>) -> Result<Verification> {
        let Some(stored) = stored.as_deref().and_then(ParsedHash::parse) else {
            let params = self.params.clone();
            let dummy = move |memory: &mut Vec<Block>| compute(&params, &secret, &[0; SALT_BYTES], memory);
            self.run(cost(&self.params), dummy).await?;
            return Ok(Verification { matches: false, needs_rehash: false });
        };
        let missing = equalizing_params(&stored.params, &self.params)?;
        // What is made up for counts too: a light hash from before may end in as much work as today's.
        let cost = cost(&stored.params).max(cost(&self.params));
        let needs_rehash = argon2_params(&stored.params) != argon2_params(&self.params);
        let compare = move |memory: &mut Vec<Block>| {
            // Outputs compare in constant time.
            let matches = compute(&stored.params, &secret, &stored.salt, memory)? == stored.output;
            if let Some(missing) = missing.filter(|_| !matches) {
                compute(&missing, &secret, &[0; SALT_BYTES], memory)?;
            }
            Ok(matches)
        };
        let matches = self.run(cost, compare).await?;
        Ok(Verification { matches, needs_rehash })
    }

    async fn run<T: Send + 'static>(
        &self,
        cost: u32,
        work: impl FnOnce(&mut Vec<Block>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if cost <= MAX_INLINE_COST { self.pool.run_inline(work) } else { self.pool.run(work).await? }
    }
}

#[cfg(test)]
mod tests {
    use argon2::{Argon2, PasswordVerifier, password_hash::phc::PasswordHash};

    use super::*;

    const CHEAP: Argon2Params = Argon2Params { memory_kib: 8, passes: 1, lanes: 1 };

    fn hasher(password: Argon2Params) -> Hasher {
        Hasher::new(HashingSettings { key: Argon2Params::KEY, password, workers: 1, queue_length: 1 }).unwrap()
    }

    fn password(text: &str) -> Password {
        Password::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_hash_is_a_phc_string_that_verifies() {
        let hasher = hasher(Argon2Params::PASSWORD);
        for (phc, setting) in [
            (hasher.hash_key(SecretString::from("random part")).await.unwrap(), "m=64,t=1,p=1"),
            (hasher.hash_password(password("random part")).await.unwrap(), "m=19456,t=2,p=1"),
        ] {
            assert!(phc.starts_with(&format!("$argon2id$v=19${setting}$")), "{phc}");
            let parsed = PasswordHash::new(&phc).unwrap();
            assert!(Argon2::default().verify_password(b"random part", &parsed).is_ok());
            assert!(Argon2::default().verify_password(b"random port", &parsed).is_err());
        }
    }

    #[tokio::test]
    async fn two_hashes_of_one_secret_differ_although_they_share_memory() {
        let hasher = hasher(CHEAP);
        let first = hasher.hash_key(SecretString::from("same")).await.unwrap();
        let second = hasher.hash_key(SecretString::from("same")).await.unwrap();
        assert_ne!(first, second);
    }

    #[tokio::test]
    async fn a_stored_hash_is_verified_with_its_own_setting() {
        let made = hasher(CHEAP).hash_password(password("correct horse")).await.unwrap();
        let current = hasher(Argon2Params { memory_kib: 16, ..CHEAP });
        let verified =
            async |text: &str| current.verify_password(Some(password(text)), Some(made.clone())).await.unwrap();
        assert_eq!(verified("correct horse").await, Verification { matches: true, needs_rehash: true });
        assert_eq!(verified("correct house").await, Verification { matches: false, needs_rehash: true });
        let same = hasher(CHEAP).verify_password(Some(password("correct horse")), Some(made)).await.unwrap();
        assert_eq!(same, Verification { matches: true, needs_rehash: false });
    }

    /// The memory that was used tells how much work there was.
    #[tokio::test]
    async fn a_wrong_guess_at_a_cheap_hash_costs_as_much_as_one_at_a_hash_that_is_not_there() {
        let made = hasher(CHEAP).hash_password(password("correct horse")).await.unwrap();
        let current = hasher(Argon2Params { memory_kib: 32, ..CHEAP });
        let used_kib = async |text: &str| {
            current.verify_password(Some(password(text)), Some(made.clone())).await.unwrap();
            current.passwords.pool.run(|memory| memory.len()).await.unwrap()
        };
        assert_eq!(used_kib("correct horse").await, 8);
        assert_eq!(used_kib("correct house").await, 32 - 8);
    }

    #[tokio::test]
    async fn nothing_is_right_without_a_hash_and_with_one_that_nobody_made() {
        let hasher = hasher(CHEAP);
        let made = hasher.hash_key(SecretString::default()).await.unwrap();
        for stored in ["", "$argon2id$", "$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(!hasher.verify_key(SecretString::default(), Some(stored.to_owned())).await.unwrap(), "{stored}");
        }
        assert!(!hasher.verify_key(SecretString::default(), None).await.unwrap());
        assert!(!hasher.verify_password(None, Some(made.clone())).await.unwrap().matches, "no password is none");
        for foreign in [made.replace("$argon2id$", "$argon2i$"), made.replace("$v=19$", "$v=16$")] {
            assert!(!hasher.verify_key(SecretString::default(), Some(foreign.clone())).await.unwrap(), "{foreign}");
        }
        assert!(hasher.verify_key(SecretString::default(), Some(made)).await.unwrap());
    }
}
