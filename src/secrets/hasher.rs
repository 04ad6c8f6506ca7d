//! Hashes of keys and of passwords, made and verified where they stand in nobody's way.
//!
//! Each kind has its own setting and its own [`Lane`]: people who sign up never stand before keys in a queue.

use std::sync::Arc;

use argon2::{Block, Params};
use secrecy::SecretString;

use super::{
    argon2id::{SALT_BYTES, Stored, compute, hash, missing_work, params, setting, work_of},
    lane::Lane,
    strength,
};
use crate::{
    domain::{Argon2Setting, Password},
    error::{Error, Result},
    telemetry::metrics::QueueUse,
};

/// Up to this product of KiB and passes a hash is made on the spot: it takes some 150 µs at most, and 40 µs for a key of
/// the default setting, which is less than two threads need to hand it to and fro.
const LIGHT_WORK: u32 = 256;
/// Keys whose hashes are made one after the other, so that a small batch is not torn apart.
const TOGETHER: usize = 4;

/// How much work hashes cost, and how many at a time.
#[derive(Debug, Clone, Copy)]
pub struct HashingSettings {
    pub key: Argon2Setting,
    pub password: Argon2Setting,
    pub workers: usize,
    /// Hashes of a kind that may wait for a worker.
    pub queue_length: usize,
}

/// Makes and verifies hashes; cheap to clone, all clones share their lanes.
#[derive(Debug, Clone)]
pub struct Hasher {
    keys: Kind,
    passwords: Kind,
    workers: usize,
}

#[derive(Debug, Clone)]
struct Kind {
    params: Params,
    lane: Arc<Lane>,
}

/// What came of comparing a secret with a stored hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    pub is_right: bool,
    /// The hash was made with another setting than today's.
    pub is_outdated: bool,
}

impl Hasher {
    /// # Errors
    /// Where Argon2 refuses a setting.
    pub fn new(settings: HashingSettings) -> Result<Self> {
        let kind = |name, setting| {
            let params = params(setting)?;
            let lane = Lane::new(name, settings.workers, settings.queue_length, params.block_count());
            Ok::<_, Error>(Kind { params, lane })
        };
        Ok(Self {
            keys: kind("key", settings.key)?,
            passwords: kind("password", settings.password)?,
            workers: settings.workers,
        })
    }

    /// How full the queues are.
    #[must_use]
    pub fn usage(&self) -> Vec<QueueUse> {
        [&self.keys, &self.passwords].into_iter().map(|kind| kind.lane.usage()).collect()
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
        let chunk_length = parts.len().div_ceil(self.workers).max(TOGETHER);
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
        Ok(self.keys.verify(random_part, stored).await?.is_right)
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
    pub async fn verify_password(&self, password: Option<Password>, stored: Option<String>) -> Result<Verified> {
        let stored = stored.filter(|_| password.is_some());
        let secret = password.map(Password::into_secret).unwrap_or_default();
        self.passwords.verify(secret, stored).await
    }

    /// Whether a guesser would soon come to this password, who knows the hints. On the passwords' lane, for some take as
    /// long as hashing.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full.
    pub async fn is_guessable(&self, password: Password, hints: Vec<String>) -> Result<bool> {
        self.passwords.lane.run(move |_memory| strength::is_guessable(&password, &hints)).await
    }
}

impl Kind {
    async fn hash_one(&self, secret: SecretString) -> Result<String> {
        let hashes = self.hash(vec![secret]).await?;
        hashes.into_iter().next().ok_or_else(|| Error::internal("one secret had no hash"))
    }

    async fn hash(&self, secrets: Vec<SecretString>) -> Result<Vec<String>> {
        let params = self.params.clone();
        let count = u32::try_from(secrets.len()).unwrap_or(u32::MAX);
        self.run(work_of(&self.params).saturating_mul(count), move |memory| {
            secrets.iter().map(|secret| hash(&params, secret, memory)).collect()
        })
        .await
    }

    async fn verify(&self, secret: SecretString, stored: Option<String>) -> Result<Verified> {
        let Some(stored) = stored.as_deref().and_then(Stored::parse) else {
            let params = self.params.clone();
            let dummy = move |memory: &mut Vec<Block>| compute(&params, &secret, &[0; SALT_BYTES], memory);
            self.run(work_of(&self.params), dummy).await?;
            return Ok(Verified { is_right: false, is_outdated: false });
        };
        let missing = missing_work(&stored.params, &self.params)?;
        // What is made up for counts too: a light hash from before may end in as much work as today's.
        let amount = work_of(&stored.params).max(work_of(&self.params));
        let is_outdated = setting(&stored.params) != setting(&self.params);
        let compare = move |memory: &mut Vec<Block>| {
            // Outputs compare in constant time.
            let is_right = compute(&stored.params, &secret, &stored.salt, memory)? == stored.output;
            if let Some(missing) = missing.filter(|_| !is_right) {
                compute(&missing, &secret, &[0; SALT_BYTES], memory)?;
            }
            Ok(is_right)
        };
        let is_right = self.run(amount, compare).await?;
        Ok(Verified { is_right, is_outdated })
    }

    async fn run<T: Send + 'static>(
        &self,
        amount: u32,
        work: impl FnOnce(&mut Vec<Block>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if amount <= LIGHT_WORK { self.lane.run_here(work) } else { self.lane.run(work).await? }
    }
}

#[cfg(test)]
mod tests {
    use argon2::{Argon2, PasswordVerifier, password_hash::phc::PasswordHash};

    use super::*;

    const CHEAP: Argon2Setting = Argon2Setting { memory_kib: 8, passes: 1, lanes: 1 };

    fn hasher(password: Argon2Setting) -> Hasher {
        Hasher::new(HashingSettings { key: Argon2Setting::KEY, password, workers: 1, queue_length: 1 }).unwrap()
    }

    fn password(text: &str) -> Password {
        Password::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_hash_is_a_phc_string_that_verifies() {
        let hasher = hasher(Argon2Setting::PASSWORD);
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
        let today = hasher(Argon2Setting { memory_kib: 16, ..CHEAP });
        let verified =
            async |text: &str| today.verify_password(Some(password(text)), Some(made.clone())).await.unwrap();
        assert_eq!(verified("correct horse").await, Verified { is_right: true, is_outdated: true });
        assert_eq!(verified("correct house").await, Verified { is_right: false, is_outdated: true });
        let same = hasher(CHEAP).verify_password(Some(password("correct horse")), Some(made)).await.unwrap();
        assert_eq!(same, Verified { is_right: true, is_outdated: false });
    }

    /// The memory that was used tells how much work there was.
    #[tokio::test]
    async fn a_wrong_guess_at_a_cheap_hash_costs_as_much_as_one_at_a_hash_that_is_not_there() {
        let made = hasher(CHEAP).hash_password(password("correct horse")).await.unwrap();
        let today = hasher(Argon2Setting { memory_kib: 32, ..CHEAP });
        let used_kib = async |text: &str| {
            today.verify_password(Some(password(text)), Some(made.clone())).await.unwrap();
            today.passwords.lane.run(|memory| memory.len()).await.unwrap()
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
        assert!(!hasher.verify_password(None, Some(made.clone())).await.unwrap().is_right, "no password is none");
        for foreign in [made.replace("$argon2id$", "$argon2i$"), made.replace("$v=19$", "$v=16$")] {
            assert!(!hasher.verify_key(SecretString::default(), Some(foreign.clone())).await.unwrap(), "{foreign}");
        }
        assert!(hasher.verify_key(SecretString::default(), Some(made)).await.unwrap());
    }
}
