//! Verifies and changes passwords of owners, counts wrong ones, and rehashes those whose hash is outdated.
//! Resets by a token are in `owners.rs`.

use std::time::Duration;

use super::{TenantService, change_log, ids::system_rng};
use crate::{
    domain::{
        Actor, Email, LogIn, PresentedPassword, TenantId,
        log_in::ATTEMPT_WINDOW,
        owner::{ChangePassword, PasswordForm},
    },
    error::{Error, ErrorChain, Result},
    secrets::PasswordUse,
    store::{AttemptEnd, AttemptStart, Owner},
};

/// How long an attempt waits for concurrent attempts of the same pair, if it and they could be more wrong ones than are
/// permitted. They take one hash each.
const BUSY_DELAYS_MS: [u64; 6] = [50, 100, 200, 400, 800, 1_600];
/// Tries to change a password whose hash changes meanwhile, for example because it is rehashed.
const MAX_CHANGE_ATTEMPTS: usize = 3;
/// Pairs per statement of the cleanup.
const CLEANUP_BATCH_SIZE: i64 = 1_000;

/// An owner whose password is right.
struct Verified {
    owner: Owner,
    needs_rehash: bool,
}

impl TenantService {
    /// Returns the tenant whose owner has this address and password. The statements and the hashing work are the same
    /// in every other case.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`], whether or not an owner has the address.
    pub async fn verify_password(&self, log_in: LogIn) -> Result<Option<TenantId>> {
        let Some(Verified { owner, needs_rehash }) = self.attempt(&log_in).await? else { return Ok(None) };
        if needs_rehash {
            self.rehash(&owner, log_in.password).await;
        }
        Ok(Some(owner.tenant_id))
    }

    /// Replaces the password if the current one is right, and returns the tenant.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if the new password is guessable, whatever the current one is worth: it is checked
    /// first. [`Error::TooManyAttempts`]; [`Error::Conflict`].
    pub async fn change_password(&self, form: PasswordForm<ChangePassword>, actor: Actor) -> Result<Option<TenantId>> {
        let ChangePassword { log_in, new_password } = self.check_strength(PasswordUse::LogIn, form).await?;
        for _ in 0..MAX_CHANGE_ATTEMPTS {
            let Some(Verified { owner, .. }) = self.attempt(&log_in).await? else { return Ok(None) };
            let new_hash =
                self.hasher.hash_password(PasswordUse::LogIn, new_password.clone(), &mut system_rng()).await?;
            if self.store.change_password(&owner, &new_hash, &actor, self.clock.now()).await? {
                change_log::password_changed(owner.tenant_id);
                return Ok(Some(owner.tenant_id));
            }
        }
        Err(Error::Conflict)
    }

    /// Checks the strength of a new password.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] with all violations of the form.
    pub(super) async fn check_strength<T>(&self, purpose: PasswordUse, form: PasswordForm<T>) -> Result<T> {
        let user_inputs = form.email.iter().flat_map(Email::user_inputs).collect();
        let is_guessable = match &form.password {
            Some(password) => self.hasher.is_guessable(purpose, password.clone(), user_inputs).await?,
            None => false,
        };
        Ok(form.validate(is_guessable)?)
    }

    /// Compares a password, if its pair does not have too many wrong attempts.
    async fn attempt(&self, log_in: &LogIn) -> Result<Option<Verified>> {
        let owner = self.begin_attempt(log_in).await?;
        let stored_hash = owner.as_ref().and_then(|owner| owner.password_hash.clone());
        let verification = self.hasher.verify_password(PasswordUse::LogIn, log_in.password.clone(), stored_hash).await;
        let end = match &verification {
            Ok(verification) if verification.matches => AttemptEnd::Right,
            Ok(_) => AttemptEnd::Wrong,
            Err(_) => AttemptEnd::Abandoned,
        };
        let ended = self.store.end_password_attempt(&log_in.pair, end).await;
        // If the queue is full, that is the error of the call.
        let verification = verification?;
        ended?;
        let owner = owner.filter(|_| verification.matches);
        Ok(owner.map(|owner| Verified { owner, needs_rehash: verification.needs_rehash }))
    }

    async fn begin_attempt(&self, log_in: &LogIn) -> Result<Option<Owner>> {
        let mut delays = BUSY_DELAYS_MS.into_iter().map(Duration::from_millis);
        loop {
            let now = self.clock.now();
            match self.store.begin_password_attempt(log_in, now).await? {
                AttemptStart::Pending(owner) => return Ok(owner),
                AttemptStart::Refused { until } => {
                    // At most the window: another replica's attempt, which began it, can be later than `now`.
                    let remaining = (until - now).min(ATTEMPT_WINDOW);
                    return Err(Error::TooManyAttempts { retry_after: remaining.unsigned_abs() });
                }
                AttemptStart::Busy => match delays.next() {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(Error::Overloaded),
                },
            }
        }
    }

    /// Deletes the wrong attempts whose window is over. They do not count any more; this limits the table's size.
    pub async fn delete_expired_password_attempts(&self) -> Result<()> {
        while self.store.delete_expired_password_attempts(self.clock.now(), CLEANUP_BATCH_SIZE).await? {}
        Ok(())
    }

    /// The password is known only during a login. A failure does not fail the login; the next login retries.
    async fn rehash(&self, owner: &Owner, password: PresentedPassword) {
        let replaced = async {
            let new_hash = self.hasher.rehash_password(PasswordUse::LogIn, password, &mut system_rng()).await?;
            match new_hash {
                Some(new_hash) => self.store.replace_password_hash(owner, &new_hash).await,
                None => Ok(()),
            }
        };
        match replaced.await {
            Ok(()) => tracing::debug!(tenant_id = %owner.tenant_id, "Rehashed a password with the current parameters"),
            Err(error) => tracing::warn!(cause = %ErrorChain(&error), "Could not rehash a password"),
        }
    }
}
