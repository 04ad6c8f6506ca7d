//! Verifies passwords of owners, and rehashes those whose hash has outdated parameters.

use super::{TenantService, ids::system_rng};
use crate::{
    domain::{Email, Password, TenantId},
    error::{ErrorChain, Result},
    secrets::PasswordUse,
    store::Owner,
};

impl TenantService {
    /// Returns the tenant whose owner has this address and password.
    ///
    /// `None` stands for a text that cannot be an address or a password. The hashing work is the same in every case.
    pub async fn verify_password(&self, email: Option<Email>, password: Option<Password>) -> Result<Option<TenantId>> {
        let owner = match &email {
            Some(email) => self.store.find_owner(email).await?,
            None => None,
        };
        let stored_hash = owner.as_ref().map(|owner| owner.password_hash.clone());
        let verification = self.hasher.verify_password(PasswordUse::LogIn, password.clone(), stored_hash).await?;
        let Some((owner, password)) = owner.zip(password).filter(|_| verification.matches) else { return Ok(None) };
        if verification.needs_rehash {
            self.rehash(&owner, password).await;
        }
        Ok(Some(owner.tenant_id))
    }

    /// The password is known only during a login. A failure does not fail the login; the next login retries.
    async fn rehash(&self, owner: &Owner, password: Password) {
        let replaced = async {
            let new_hash = self.hasher.hash_password(PasswordUse::LogIn, password, &mut system_rng()).await?;
            self.store.replace_password_hash(owner, &new_hash).await
        };
        match replaced.await {
            Ok(()) => tracing::debug!(tenant_id = %owner.tenant_id, "Rehashed a password with the current parameters"),
            Err(error) => tracing::warn!(cause = %ErrorChain(&error), "Could not rehash a password"),
        }
    }
}
