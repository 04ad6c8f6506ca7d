//! Verifies, rotates, lists and revokes API keys. A tenant's first key is created with the tenant.

use rand::Rng as _;
use secrecy::SecretString;

use super::{TenantService, change_log, idempotency::replayed_secret, ids::system_rng, retry::retry_on_conflict};
use crate::{
    domain::{
        ApiKey, Caller, KeyVerdict, ParsedSecretKey, PublicKey, RequestId, TenantId,
        api_key::{KeyRotation, RotateApiKey},
        idempotency::{Fingerprint, IdempotencyScope, IdempotentRpc, NewIdempotencyRecord},
        provisioning::NewApiKey,
    },
    error::{Error, Resource, Result},
    secrets::{KeyEntropy, derive_secret, mint_key, random_secret},
};

impl TenantService {
    /// Creates a key that is valid at once, and lets the existing ones expire after the overlap.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a deleted tenant; [`Error::FailedPrecondition`] for a reused request id.
    pub async fn rotate_api_key(&self, caller: Caller, rotation: RotateApiKey) -> Result<KeyRotation> {
        let scope = IdempotencyScope { caller, rpc: IdempotentRpc::RotateApiKey };
        let tenant_id = rotation.tenant_id;
        let slug = match self.store.find_slug(tenant_id).await {
            // A repeated call is replayed even if its tenant has been deleted since.
            Err(Error::NotFound { .. }) => return self.replay_rotation(&scope, &rotation).await,
            slug => slug?,
        };
        let (secret, record) = Self::new_secret(rotation.request_id.as_ref(), rotation.fingerprint())?;
        let (new_key, secret_key) = self.new_api_key(&slug, secret).await?;
        let (record, now) = (record.as_ref(), self.clock.now());
        let rotate = || self.store.rotate_api_key(&scope, tenant_id, &new_key, record, rotation.overlap, now);
        match retry_on_conflict(rotate).await? {
            Some(api_key) => {
                change_log::api_key_rotated(&api_key);
                Ok(KeyRotation { api_key, secret_key: Some(secret_key), replayed: false })
            }
            None => self.replay_rotation(&scope, &rotation).await,
        }
    }

    async fn replay_rotation(&self, scope: &IdempotencyScope, rotation: &RotateApiKey) -> Result<KeyRotation> {
        let now = self.clock.now();
        let Some(request_id) = &rotation.request_id else { return Err(Error::not_found(Resource::Tenant)) };
        let record = self.store.find_rotation_record(rotation.tenant_id, scope, &request_id.hash(), now).await?;
        let record = record.ok_or(Error::not_found(Resource::Tenant))?;
        let secret_key = replayed_secret(scope.rpc, &record, request_id, rotation.fingerprint(), now)?;
        let api_key = record.key.ok_or(Error::not_found(Resource::ApiKey))?;
        Ok(KeyRotation { api_key, secret_key, replayed: true })
    }

    /// Returns a key to insert for the tenant with this slug, and its secret half.
    pub(super) async fn new_api_key(&self, slug: &str, secret: KeyEntropy) -> Result<(NewApiKey, SecretString)> {
        let key = mint_key(self.key_mode, slug, secret, &mut system_rng());
        let secret_hash = self.hasher.hash_key(key.random_part, &mut system_rng()).await?;
        Ok((NewApiKey { key_id: key.key_id, public_key: key.public_key, secret_hash }, key.secret_key))
    }

    /// Returns the secret of a new key. With a request id the secret is derived from it, and the idempotency record to
    /// store holds the salt from which a repeated call derives it again; otherwise the secret is random.
    pub(super) fn new_secret(
        request_id: Option<&RequestId>,
        fingerprint: Fingerprint,
    ) -> Result<(KeyEntropy, Option<NewIdempotencyRecord>)> {
        let mut rng = system_rng();
        let Some(request_id) = request_id else { return Ok((random_secret(&mut rng), None)) };
        let mut salt = [0; 32];
        rng.fill_bytes(&mut salt);
        Ok((derive_secret(request_id, &salt)?, Some(NewIdempotencyRecord::new(request_id, fingerprint, salt))))
    }

    /// # Errors
    /// [`Error::NotFound`].
    pub async fn list_api_keys(&self, tenant_id: TenantId) -> Result<Vec<ApiKey>> {
        self.store.list_api_keys(tenant_id).await
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the key.
    pub async fn revoke_api_key(&self, tenant_id: TenantId, key: PublicKey) -> Result<ApiKey> {
        let now = self.clock.now();
        let key = retry_on_conflict(|| self.store.revoke_api_key(tenant_id, &key, now)).await?;
        change_log::api_key_revoked(&key, now);
        Ok(key)
    }

    /// Whether the text has the format and checksum of a secret key. Does not query the database.
    pub fn has_key_format(&self, secret_key: &SecretString) -> bool {
        ParsedSecretKey::parse(secret_key).is_some()
    }

    /// Verifies a secret key. A malformed key is rejected at once; every other one costs one lookup and one hash,
    /// whether or not the key exists.
    pub async fn verify_api_key(&self, secret_key: SecretString) -> Result<KeyVerdict> {
        let Some(parsed) = ParsedSecretKey::parse(&secret_key) else { return Ok(KeyVerdict::Invalid) };
        let found = self.store.find_api_key(parsed.key_id).await?;
        // The key's id alone does not make it the same key: its mode and stem have to match, too.
        let mut stored = found.filter(|stored| stored.key.public_key == parsed.public_key);
        let stored_hash = stored.as_mut().map(|stored| std::mem::take(&mut stored.secret_hash));
        let matches = self.hasher.verify_key(parsed.random_part, stored_hash).await?;
        Ok(stored.filter(|_| matches).map_or(KeyVerdict::Invalid, |stored| stored.verdict(self.clock.now())))
    }
}
