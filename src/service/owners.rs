//! Owners after sign-up: tokens to be sent by e-mail, resets, verified addresses, and changes of owners.

use secrecy::SecretString;

use super::{TenantService, change_log, ids::system_rng, retry::retry_on_conflict};
use crate::{
    domain::{
        Actor, Tenant, TenantId,
        owner::{CreateOwnerToken, NewOwnerToken, PasswordForm, ResetPassword, SetOwner, hash_owner_token},
    },
    error::{Error, Result},
    secrets::{PasswordUse, mint_owner_token},
    store::ResetToken,
};

/// Tries to use a token that another call uses meanwhile. The next try then finds a used token.
const MAX_RESET_ATTEMPTS: usize = 3;

impl TenantService {
    /// Creates a token for the owner with this address. The work is the same if there is none, but the token is then
    /// stored nowhere.
    pub async fn create_owner_token(&self, request: CreateOwnerToken) -> Result<NewOwnerToken> {
        let CreateOwnerToken { email, purpose, ttl } = request;
        let (token, expires_at) = (mint_owner_token(&mut system_rng()), self.clock.now() + ttl);
        let hash = hash_owner_token(&token);
        let create = || self.store.create_owner_token(email.as_ref(), purpose, &hash, expires_at);
        let tenant_id = retry_on_conflict(create).await?;
        if let Some(tenant_id) = tenant_id {
            change_log::owner_token_created(tenant_id, purpose);
        }
        Ok(NewOwnerToken { token: tenant_id.map(|_tenant_id| token), expires_at })
    }

    /// Sets the password of the owner with this token, and returns the tenant. A used token is valid only with the same
    /// password again. An invalid token, of whatever kind, costs one lookup and one hash.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if the password is guessable, which does not use the token up; [`Error::Conflict`].
    pub async fn reset_password(
        &self,
        ResetPassword { token, new_password }: ResetPassword,
        actor: Actor,
    ) -> Result<Option<TenantId>> {
        let token_hash = hash_owner_token(&token);
        for _ in 0..MAX_RESET_ATTEMPTS {
            let now = self.clock.now();
            let found = self.store.find_reset_token(&token_hash, now).await?;
            // A used token must not reveal its owner's address by what is guessable.
            let unused = found.as_ref().filter(|found| found.used_for.is_none());
            let email = unused.and_then(|unused| unused.email.as_ref());
            self.check_strength(PasswordUse::Reset, PasswordForm::of_reset(&new_password, email)).await?;
            let unused = match found {
                Some(unused @ ResetToken { used_for: None, .. }) => unused,
                used_or_unknown => {
                    let (tenant_id, used_for) = used_or_unknown.map(|used| (used.tenant_id, used.used_for)).unzip();
                    let (password, stored_hash) = (new_password.into(), used_for.flatten());
                    let verification = self.hasher.verify_password(PasswordUse::Reset, password, stored_hash).await?;
                    return Ok(tenant_id.filter(|_tenant_id| verification.matches));
                }
            };
            let new_hash =
                self.hasher.hash_password(PasswordUse::Reset, new_password.clone(), &mut system_rng()).await?;
            let reset = || self.store.reset_password(&unused, &token_hash, &new_hash, &actor, now);
            if let Some(result) = retry_on_conflict(reset).await? {
                change_log::password_reset(unused.tenant_id, &result);
                return Ok(Some(unused.tenant_id));
            }
        }
        Err(Error::Conflict)
    }

    /// Verifies the address of the owner with this token, and returns the tenant.
    pub async fn verify_email(&self, token: SecretString, actor: Actor) -> Result<Option<TenantId>> {
        let (token_hash, now) = (hash_owner_token(&token), self.clock.now());
        let verified = retry_on_conflict(|| self.store.verify_email(&token_hash, &actor, now)).await?;
        if let Some((tenant_id, true)) = verified {
            change_log::email_verified(tenant_id);
        }
        Ok(verified.map(|(tenant_id, _is_new)| tenant_id))
    }

    /// Gives a tenant an owner, or another one, and returns the tenant.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if the password is guessable; [`Error::NotFound`], also for a deleted tenant;
    /// [`Error::AlreadyExists`] if another owner has the address.
    pub async fn set_owner(&self, form: PasswordForm<SetOwner>, actor: Actor) -> Result<Tenant> {
        let SetOwner { tenant_id, email, password } = self.check_strength(PasswordUse::SignUp, form).await?;
        let password_hash = match password {
            Some(password) => Some(self.hasher.hash_password(PasswordUse::SignUp, password, &mut system_rng()).await?),
            None => None,
        };
        let now = self.clock.now();
        let set = || self.store.set_owner(tenant_id, &email, password_hash.as_deref(), &actor, now);
        let result = retry_on_conflict(set).await?;
        if result.is_changed {
            change_log::owner_set(tenant_id);
        }
        Ok(result.tenant)
    }
}
