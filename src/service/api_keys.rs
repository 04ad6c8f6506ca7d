//! API keys after the first: verified, rotated, listed, revoked.

use rand::{TryRng as _, rngs::SysRng};
use secrecy::SecretString;

use super::{TenantService, idempotency::replayed_secret, retry::retry_on_conflict};
use crate::{
    domain::{
        ApiKey, Caller, KeyVerdict, PublicKey, RequestId, TenantId,
        api_key::{KeyRotation, RotateApiKey},
        idempotency::{Fingerprint, IdempotencyScope, IdempotentRpc, NewIdempotencyRecord},
        provisioning::NewApiKey,
    },
    error::{Error, Resource, Result},
    secrets::{KeyEntropy, ParsedSecretKey, derive_secret, mint_key, random_secret},
};

impl TenantService {
    /// Makes a key that is good at once, and lets the older ones end after the overlap.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a deleted tenant; [`Error::FailedPrecondition`]; those of the hasher and of the store.
    pub async fn rotate_api_key(&self, caller: Caller, rotation: RotateApiKey) -> Result<KeyRotation> {
        let scope = IdempotencyScope { caller, rpc: IdempotentRpc::RotateApiKey };
        let tenant_id = rotation.tenant_id;
        let slug = match self.store.find_slug(tenant_id).await {
            // A repeat is answered as before, though its tenant was deleted since.
            Err(Error::NotFound { .. }) => return self.replay_rotation(&scope, &rotation).await,
            slug => slug?,
        };
        let (secret, claim) = Self::new_secret(rotation.request_id.as_ref(), rotation.fingerprint())?;
        let key = mint_key(self.key_mode, &slug, secret, &mut SysRng).map_err(Error::internal)?;
        let secret_hash = self.hasher.hash_key(key.random_part).await?;
        let new_key = NewApiKey { key_id: key.key_id, public_key: key.public_key, secret_hash };
        let (claim, now) = (claim.as_ref(), self.clock.now());
        let rotate = || self.store.rotate_api_key(&scope, tenant_id, &new_key, claim, rotation.overlap, now);
        match retry_on_conflict(rotate).await? {
            Some(api_key) => Ok(KeyRotation { api_key, secret_key: Some(key.secret_key), replayed: false }),
            None => self.replay_rotation(&scope, &rotation).await,
        }
    }

    async fn replay_rotation(&self, scope: &IdempotencyScope, rotation: &RotateApiKey) -> Result<KeyRotation> {
        let now = self.clock.now();
        let Some(request_id) = &rotation.request_id else { return Err(Error::not_found(Resource::Tenant)) };
        let claim = self.store.find_rotation_record(scope, &request_id.hash(), now).await?;
        let claim = claim.ok_or(Error::not_found(Resource::Tenant))?;
        let secret_key = replayed_secret(scope.rpc, &claim, request_id, rotation.fingerprint(), now)?;
        let api_key = claim.key.ok_or(Error::not_found(Resource::ApiKey))?;
        Ok(KeyRotation { api_key, secret_key, replayed: true })
    }

    /// The secret of a new key: random, or one that the same request id brings back, with the claim that makes it so.
    pub(super) fn new_secret(
        request_id: Option<&RequestId>,
        fingerprint: Fingerprint,
    ) -> Result<(KeyEntropy, Option<NewIdempotencyRecord>)> {
        let Some(request_id) = request_id else {
            return Ok((random_secret(&mut SysRng).map_err(Error::internal)?, None));
        };
        let mut salt = [0; 32];
        SysRng.try_fill_bytes(&mut salt).map_err(Error::internal)?;
        Ok((derive_secret(request_id, &salt)?, Some(NewIdempotencyRecord::new(request_id, fingerprint, salt))))
    }

    /// # Errors
    /// [`Error::NotFound`]; those of the store.
    pub async fn list_api_keys(&self, tenant_id: TenantId) -> Result<Vec<ApiKey>> {
        self.store.list_api_keys(tenant_id).await
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the key; those of the store.
    pub async fn revoke_api_key(&self, tenant_id: TenantId, key: PublicKey) -> Result<ApiKey> {
        retry_on_conflict(|| self.store.revoke_api_key(tenant_id, &key, self.clock.now())).await
    }

    /// Whether this has the form of a secret key and its checksum; no look at any database.
    pub fn is_key(&self, secret_key: &SecretString) -> bool {
        ParsedSecretKey::parse(secret_key).is_some()
    }

    /// Says what a secret key is worth. What is no key by its form costs nothing; all others cost one look and one hash,
    /// whether there is such a key or not.
    ///
    /// # Errors
    /// Those of the hasher and of the store.
    pub async fn verify_api_key(&self, secret_key: SecretString) -> Result<KeyVerdict> {
        let Some(presented) = ParsedSecretKey::parse(&secret_key) else { return Ok(KeyVerdict::Invalid) };
        let mut found = self.store.find_api_key(presented.key_id).await?;
        let stored_hash = found.as_mut().map(|found| std::mem::take(&mut found.secret_hash));
        let matches = self.hasher.verify_key(presented.random_part, stored_hash).await?;
        Ok(found.filter(|_| matches).map_or(KeyVerdict::Invalid, |found| found.verdict(self.clock.now())))
    }
}
