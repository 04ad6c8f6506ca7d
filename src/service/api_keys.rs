//! API keys after the first: verified, rotated, listed, revoked.

use rand::rngs::SysRng;
use secrecy::SecretString;
use time::Duration;

use super::Provisioning;
use crate::{
    domain::{ApiKey, KeyVerdict, PublicKey, TenantId, api_key::MintedApiKey, provisioning::NewApiKey},
    error::{Error, Result},
    secrets::{PresentedKey, mint_key},
};

impl Provisioning {
    /// Makes a key that is good at once, and lets the older ones end after the overlap.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a deleted tenant; those of the hasher and of the store.
    pub async fn rotate_api_key(&self, tenant_id: TenantId, overlap: Duration) -> Result<MintedApiKey> {
        let slug = self.store.find_slug(tenant_id).await?;
        let key = mint_key(self.key_mode, &slug, &mut SysRng).map_err(Error::internal)?;
        let secret_hash = self.hasher.hash_key(key.random_part).await?;
        let new_key = NewApiKey { key_id: key.key_id, public_key: key.public_key, secret_hash };
        let api_key = self.store.rotate_api_key(tenant_id, &new_key, overlap, self.clock.now()).await?;
        Ok(MintedApiKey { api_key, secret_key: key.secret_key })
    }

    /// # Errors
    /// [`Error::NotFound`]; those of the store.
    pub async fn list_api_keys(&self, tenant_id: TenantId) -> Result<Vec<ApiKey>> {
        self.store.list_api_keys(tenant_id).await
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the key; those of the store.
    pub async fn revoke_api_key(&self, tenant_id: TenantId, key: PublicKey) -> Result<ApiKey> {
        self.store.revoke_api_key(tenant_id, &key, self.clock.now()).await
    }

    /// Says what a secret key is worth. What is no key by its form costs nothing; all others cost one look and one hash,
    /// whether there is such a key or not.
    ///
    /// # Errors
    /// Those of the hasher and of the store.
    pub async fn verify_api_key(&self, secret_key: SecretString) -> Result<KeyVerdict> {
        let Some(presented) = PresentedKey::parse(&secret_key) else { return Ok(KeyVerdict::Invalid) };
        let mut found = self.store.find_api_key(&presented.key_id).await?;
        let stored = found.as_mut().map(|found| std::mem::take(&mut found.secret_hash));
        let is_right = self.hasher.verify_key(presented.random_part, stored).await?;
        Ok(found.filter(|_| is_right).map_or(KeyVerdict::Invalid, |found| found.verdict(self.clock.now())))
    }
}
