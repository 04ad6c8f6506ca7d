//! Hashes and verifies keys and passwords on bounded pools, off the async runtime.
//!
//! Keys and passwords have separate parameters and separate workers, so that a sign-up never delays a key. Sign-ups,
//! log-ins and resets share their workers, which bounds the memory, but each have a queue, so that a flood of one does
//! not reject the others. Salts come from the generator that the caller passes.

use std::sync::Arc;

use argon2::{Block, Params};
use rand::CryptoRng;
use secrecy::SecretString;

use super::{
    argon2id::{ParsedHash, SALT_BYTES, compute, cost, equalizing_params, hash, to_crate_params, to_domain_params},
    hashing_pool::{HashingPool, HashingWorkers},
    password_strength,
};
use crate::{
    domain::{Argon2Params, BcryptHash, Password, PresentedPassword},
    error::{Error, Result},
    telemetry::metrics::QueueStats,
};

/// Hashes up to this cost (KiB times passes) are computed inline: they take 150 µs at most, and 40 µs for a key with
/// the default parameters, which is less than handing them to another thread and back.
const MAX_INLINE_COST: u32 = 256;
/// Minimum number of keys that are hashed in one job, so that a small batch is not split.
const MIN_CHUNK_LEN: usize = 4;

/// Parameters of the hashes and size of the pools.
#[derive(Debug, Clone, Copy)]
pub struct HashingSettings {
    pub key: Argon2Params,
    pub password: Argon2Params,
    /// Hashes of keys, and hashes of passwords, that run at a time.
    pub workers: usize,
    /// Hashes that may wait for a worker, in each pool.
    pub queue_length: usize,
}

/// What a password is hashed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordUse {
    SignUp,
    LogIn,
    /// With a token, which any stranger can make up.
    Reset,
}

/// Computes and verifies hashes. Clones are cheap and share the pools.
#[derive(Debug, Clone)]
pub struct Hasher {
    keys: HashProfile,
    sign_ups: HashProfile,
    log_ins: HashProfile,
    resets: HashProfile,
    workers: usize,
}

/// Parameters and pool for one kind of secret.
#[derive(Debug, Clone)]
struct HashProfile {
    params: Params,
    pool: Arc<HashingPool>,
}

/// A secret to hash, with its salt. Drawing the salt before the work moves to a pool leaves the generator with the
/// caller.
struct SaltedSecret {
    secret: SecretString,
    salt: [u8; SALT_BYTES],
}

impl SaltedSecret {
    fn new(secret: SecretString, rng: &mut impl CryptoRng) -> Self {
        let mut salt = [0; SALT_BYTES];
        rng.fill_bytes(&mut salt);
        Self { secret, salt }
    }
}

/// The result of comparing a secret with a stored hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verification {
    pub matches: bool,
    /// The stored hash has other parameters than the current ones.
    pub needs_rehash: bool,
}

impl Hasher {
    /// # Errors
    /// [`Error::Internal`] if Argon2 rejects the parameters.
    pub fn new(settings: HashingSettings) -> Result<Self> {
        let HashingSettings { key, password, workers, queue_length } = settings;
        let profile = |name, params: &Params, workers: &Arc<HashingWorkers>| {
            let pool = Arc::new(HashingPool::new(name, queue_length, Arc::clone(workers)));
            HashProfile { params: params.clone(), pool }
        };
        let (key, password) = (to_crate_params(key)?, to_crate_params(password)?);
        let key_workers = HashingWorkers::new(workers, key.block_count());
        let password_workers = HashingWorkers::new(workers, password.block_count());
        Ok(Self {
            keys: profile("key", &key, &key_workers),
            sign_ups: profile("signup", &password, &password_workers),
            log_ins: profile("login", &password, &password_workers),
            resets: profile("reset", &password, &password_workers),
            workers,
        })
    }

    /// Returns the length and limit of each queue.
    pub fn stats(&self) -> Vec<QueueStats> {
        let profiles = [&self.keys, &self.sign_ups, &self.log_ins, &self.resets];
        profiles.into_iter().map(|profile| profile.pool.stats()).collect()
    }

    /// Hashes the random part of a key.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub async fn hash_key(&self, random_part: SecretString, rng: &mut impl CryptoRng) -> Result<String> {
        self.keys.hash_one(SaltedSecret::new(random_part, rng)).await
    }

    /// Hashes the random parts of many keys, on all workers.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub async fn hash_keys(&self, random_parts: Vec<SecretString>, rng: &mut impl CryptoRng) -> Result<Vec<String>> {
        let chunk_length = random_parts.len().div_ceil(self.workers).max(MIN_CHUNK_LEN);
        let mut secrets = random_parts.into_iter().map(|random_part| SaltedSecret::new(random_part, rng));
        let mut chunks = Vec::new();
        while secrets.len() > 0 {
            chunks.push(self.keys.hash(secrets.by_ref().take(chunk_length).collect()));
        }
        Ok(futures_util::future::try_join_all(chunks).await?.concat())
    }

    /// Returns whether the random part matches the stored hash. Without a stored hash it does the same work and returns
    /// `false`.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub async fn verify_key(&self, random_part: SecretString, stored: Option<String>) -> Result<bool> {
        Ok(self.keys.verify(random_part, stored).await?.matches)
    }

    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub async fn hash_password(
        &self,
        purpose: PasswordUse,
        password: Password,
        rng: &mut impl CryptoRng,
    ) -> Result<String> {
        self.passwords(purpose).hash_one(SaltedSecret::new(password.into_secret(), rng)).await
    }

    /// Hashes a password that matches an outdated hash. Returns `None` if it is too long, so that the outdated hash
    /// stays.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub async fn rehash_password(
        &self,
        purpose: PasswordUse,
        password: PresentedPassword,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<String>> {
        let Some(normalized) = password.normalized().cloned() else { return Ok(None) };
        self.passwords(purpose).hash_one(SaltedSecret::new(normalized, rng)).await.map(Some)
    }

    /// Compares the password with the stored hash, of Argon2id or of bcrypt. Without a stored hash it does the work of
    /// an Argon2id hash and finds no match; so it does for an empty password.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub async fn verify_password(
        &self,
        purpose: PasswordUse,
        password: PresentedPassword,
        stored: Option<String>,
    ) -> Result<Verification> {
        let profile = self.passwords(purpose);
        let stored = stored.filter(|_| !password.is_empty());
        if let Some(hash) = stored.as_deref().and_then(|stored| BcryptHash::parse(stored).ok()) {
            return profile.verify_bcrypt(password, hash).await;
        }
        let stored = stored.filter(|_| password.normalized().is_some());
        profile.verify(password.normalized().cloned().unwrap_or_default(), stored).await
    }

    /// Returns whether an attacker who knows `user_inputs` easily guesses the password. Runs on the pool of its use,
    /// because some passwords take as long as hashing.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the queue is full.
    pub async fn is_guessable(
        &self,
        purpose: PasswordUse,
        password: Password,
        user_inputs: Vec<String>,
    ) -> Result<bool> {
        let check = move |_memory: &mut Vec<Block>| password_strength::is_guessable(&password, &user_inputs);
        self.passwords(purpose).pool.run(check).await
    }

    const fn passwords(&self, purpose: PasswordUse) -> &HashProfile {
        match purpose {
            PasswordUse::SignUp => &self.sign_ups,
            PasswordUse::LogIn => &self.log_ins,
            PasswordUse::Reset => &self.resets,
        }
    }
}

impl HashProfile {
    async fn hash_one(&self, secret: SaltedSecret) -> Result<String> {
        let hashes = self.hash(vec![secret]).await?;
        hashes.into_iter().next().ok_or_else(|| Error::internal("hashing one secret returned no hash"))
    }

    async fn hash(&self, secrets: Vec<SaltedSecret>) -> Result<Vec<String>> {
        let params = self.params.clone();
        let count = u32::try_from(secrets.len()).unwrap_or(u32::MAX);
        self.run(cost(&self.params).saturating_mul(count), move |memory| {
            secrets.iter().map(|salted| hash(&params, &salted.secret, &salted.salt, memory)).collect()
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
        let equalizing = equalizing_params(&stored.params, &self.params)?;
        // The equalizing work counts too: in total, a cheap stored hash can cost as much as a current one.
        let cost = cost(&stored.params).max(cost(&self.params));
        let needs_rehash = to_domain_params(&stored.params) != to_domain_params(&self.params);
        let compare = move |memory: &mut Vec<Block>| {
            // Outputs compare in constant time.
            let matches = compute(&stored.params, &secret, &stored.salt, memory)? == stored.output;
            if let Some(equalizing) = equalizing.filter(|_| !matches) {
                compute(&equalizing, &secret, &[0; SALT_BYTES], memory)?;
            }
            Ok(matches)
        };
        let matches = self.run(cost, compare).await?;
        Ok(Verification { matches, needs_rehash })
    }

    /// A match needs a rehash: bcrypt is not the current function.
    async fn verify_bcrypt(&self, password: PresentedPassword, hash: BcryptHash) -> Result<Verification> {
        // Outputs compare in constant time.
        let compare = move |_memory: &mut Vec<Block>| bcrypt::verify(password.first_bytes(), hash.as_str());
        let matches = self.pool.run(compare).await?.map_err(Error::internal)?;
        Ok(Verification { matches, needs_rehash: true })
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
mod tests;
