//! Passwords of owners.

use super::TenantService;
use crate::{
    domain::{Email, Password, TenantId},
    error::{ErrorChain, Result},
    store::Owner,
};

impl TenantService {
    /// The tenant whose owner has this address and this password. `None` for what cannot be an address or a password,
    /// too, and after the same hashing whatever it is that does not fit.
    ///
    /// # Errors
    /// Those of the hasher and of the store.
    pub async fn verify_password(&self, email: Option<Email>, password: Option<Password>) -> Result<Option<TenantId>> {
        let owner = match &email {
            Some(email) => self.store.find_owner(email).await?,
            None => None,
        };
        let stored_hash = owner.as_ref().map(|owner| owner.password_hash.clone());
        let verified = self.hasher.verify_password(password.clone(), stored_hash).await?;
        let Some((owner, password)) = owner.zip(password).filter(|_| verified.matches) else { return Ok(None) };
        if verified.needs_rehash {
            self.rehash(&owner, password).await;
        }
        Ok(Some(owner.tenant_id))
    }

    /// Only now is the password at hand. Nobody is refused because this could not be done: it will be at the next login.
    async fn rehash(&self, owner: &Owner, password: Password) {
        let replaced = async {
            let new_hash = self.hasher.hash_password(password).await?;
            self.store.replace_password_hash(owner, &new_hash).await
        };
        match replaced.await {
            Ok(()) => tracing::debug!(tenant_id = %owner.tenant_id, "Hashed a password anew, with today's setting"),
            Err(error) => tracing::warn!(cause = %ErrorChain(&error), "Could not hash a password anew"),
        }
    }
}
