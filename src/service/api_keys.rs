//! Verifies, creates, rotates, lists and revokes API keys. A tenant's first key is created with the tenant.

use rand::Rng as _;
use secrecy::SecretString;
use time::Duration;

use super::{TenantService, change_log, idempotency::replayed_secret, ids::system_rng, retry::retry_on_conflict};
use crate::{
    domain::{
        Actor, ApiKey, InvalidValue, KeyStatus, KeyVerdict, ParsedSecretKey, PublicKey, Reason, RequestId, TenantId,
        Violations,
        api_key::{AddApiKey, AddedApiKey, CreateApiKey, ListApiKeys, RotateApiKey},
        caller::PresentedKey,
        idempotency::{Fingerprint, IdempotencyScope, NewIdempotencyRecord},
        key_format::PresentedSecretKey,
        key_verdict::{KeyLookup, StoredApiKey},
        paging::Page,
        provisioning::NewApiKey,
    },
    error::{Error, Resource, Result},
    secrets::{KeyEntropy, derive_secret, mint_key, random_secret},
};

impl TenantService {
    /// Creates a key that is valid at once, and changes no other.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for an expiry that is not in the future; [`Error::NotFound`], also for a deleted
    /// tenant; [`Error::QuotaExceeded`]; [`Error::FailedPrecondition`] for a reused request id.
    pub async fn create_api_key(&self, actor: Actor, creation: CreateApiKey) -> Result<AddedApiKey> {
        let has_past_expiry = creation.expires_at.is_some_and(|end| end <= self.clock.now());
        let request = AddApiKey::Create(creation);
        if has_past_expiry {
            // A repeated call is replayed even if its key has expired since.
            return self.replay_or(actor, &request, past_expiry().into()).await;
        }
        self.add_api_key(actor, &request).await
    }

    /// Creates a key that is valid at once, and lets those that it replaces expire after the overlap. A tenant key can
    /// only replace itself.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] and [`Error::InvalidRequest`] for what a tenant key cannot do; [`Error::NotFound`]
    /// for the tenant, also for a deleted one, or the key; [`Error::FailedPrecondition`] for a key that has ended or
    /// was replaced, and for a reused request id.
    pub async fn rotate_api_key(&self, actor: Actor, rotation: RotateApiKey) -> Result<AddedApiKey> {
        let rotation = match actor.caller.presented_key() {
            Some(presented) => rotation_of(presented, rotation)?,
            None => rotation,
        };
        self.add_api_key(actor, &AddApiKey::Rotate(rotation)).await
    }

    async fn add_api_key(&self, actor: Actor, request: &AddApiKey) -> Result<AddedApiKey> {
        let slug = match self.store.find_slug(request.tenant_id()).await {
            Err(error @ Error::NotFound { .. }) => return self.replay_or(actor, request, error).await,
            slug => slug?,
        };
        let (secret, record) = Self::new_secret(request.request_id(), request.fingerprint())?;
        let (new_key, secret_key) = self.new_api_key(&slug, secret).await?;
        let (scope, now) = (IdempotencyScope { actor, rpc: request.rpc() }, self.clock.now());
        let max_usable = self.quotas.usable_api_keys;
        let add = || self.store.add_api_key(&scope, request, &new_key, record.as_ref(), max_usable, now);
        let error = match retry_on_conflict(add).await {
            Ok(Some(api_key)) => {
                change_log::api_key_added(&api_key, scope.rpc);
                return Ok(AddedApiKey { api_key, secret_key: Some(secret_key), replayed: false });
            }
            Ok(None) => Error::not_found(Resource::Tenant),
            // An earlier call with the same request id may be the reason.
            Err(error @ (Error::NotFound { .. } | Error::FailedPrecondition(_) | Error::QuotaExceeded { .. })) => error,
            Err(error) => return Err(error),
        };
        self.replay_or(scope.actor, request, error).await
    }

    /// Returns what an earlier call with this request id returned, or the error if there was none: a repeated call
    /// succeeds whatever has changed since.
    async fn replay_or(&self, actor: Actor, request: &AddApiKey, error: Error) -> Result<AddedApiKey> {
        let (scope, now) = (IdempotencyScope { actor, rpc: request.rpc() }, self.clock.now());
        let Some(request_id) = request.request_id() else { return Err(error) };
        let record = self.store.find_key_record(request.tenant_id(), &scope, &request_id.hash(), now).await?;
        let record = record.ok_or(error)?;
        let secret_key = replayed_secret(scope.rpc, &record, request_id, request.fingerprint(), now)?;
        let api_key = record.key.ok_or(Error::not_found(Resource::ApiKey))?;
        Ok(AddedApiKey { api_key, secret_key, replayed: true })
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

    /// Returns one page of a tenant's keys.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn list_api_keys(&self, tenant_id: TenantId, list: ListApiKeys) -> Result<Page<ApiKey>> {
        let rows = self.store.list_api_keys(tenant_id, &list, list.size.get() + 1).await?;
        Ok(list.page(tenant_id, rows))
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the key.
    pub async fn revoke_api_key(&self, tenant_id: TenantId, key: PublicKey, actor: Actor) -> Result<ApiKey> {
        let now = self.clock.now();
        let key = retry_on_conflict(|| self.store.revoke_api_key(tenant_id, &key, &actor, now)).await?;
        change_log::api_key_revoked(&key, now);
        Ok(key)
    }

    /// Whether the text has the format of a secret key, and its checksum if that format has one. Does not query the
    /// database.
    pub fn has_key_format(&self, secret_key: &SecretString) -> bool {
        PresentedSecretKey::parse(secret_key).is_some()
    }

    /// Verifies a secret key. A malformed key is rejected at once. Every other one costs one lookup, and one hash if it
    /// is in the current format, whether or not the key exists.
    pub async fn verify_api_key(&self, secret_key: SecretString) -> Result<KeyVerdict> {
        let stored = match PresentedSecretKey::parse(&secret_key) {
            None => None,
            Some(PresentedSecretKey::Current(presented)) => self.find_authentic_key(presented).await?,
            // The hash of the whole key has found it, so the secret is correct.
            Some(PresentedSecretKey::Legacy(hash)) => self.store.find_api_key(KeyLookup::LegacyHash(hash)).await?,
        };
        let Some(stored) = stored else { return Ok(KeyVerdict::Invalid) };
        let (key_id, last_used_at) = (stored.key.key_id().to_owned(), stored.key.last_used_at);
        let now = self.clock.now();
        let verdict = stored.verdict(now);
        if matches!(verdict, KeyVerdict::Authentic { status: KeyStatus::Valid, .. }) {
            self.key_usage.note(key_id, last_used_at, now);
        }
        Ok(verdict)
    }

    /// Finds the key with the presented id, and returns it if the secret is correct.
    async fn find_authentic_key(&self, presented: ParsedSecretKey) -> Result<Option<StoredApiKey>> {
        let ParsedSecretKey { key_id, public_key, random_part } = presented;
        let found = self.store.find_api_key(KeyLookup::Id(key_id)).await?;
        // The key's id alone does not make it the same key: its mode and stem have to match, too.
        let mut stored = found.filter(|stored| stored.key.public_key == public_key);
        let stored_hash = stored.as_mut().map(|stored| std::mem::take(&mut stored.secret_hash));
        let matches = self.hasher.verify_key(random_part, stored_hash).await?;
        Ok(stored.filter(|_| matches))
    }
}

/// The shortest overlap if a tenant key replaces itself: the key must be valid when it repeats the call.
const MIN_OWN_OVERLAP: Duration = Duration::minutes(5);

/// Returns the rotation with the presented key as the one to replace.
///
/// # Errors
/// [`Error::PermissionDenied`] if it is for another tenant or names another key; [`Error::InvalidRequest`] if the
/// overlap is too short.
fn rotation_of(presented: &PresentedKey, rotation: RotateApiKey) -> Result<RotateApiKey> {
    let is_own_key = rotation.public_key.as_ref().is_none_or(|named| *named == presented.public_key);
    if rotation.tenant_id != presented.tenant_id || !is_own_key {
        return Err(Error::PermissionDenied);
    }
    if rotation.overlap < MIN_OWN_OVERLAP {
        let description = "must be at least 5 minutes for a key that replaces itself";
        return Err(Violations::single("overlap", InvalidValue::new(Reason::OutOfRange, description)).into());
    }
    Ok(RotateApiKey { public_key: Some(presented.public_key.clone()), ..rotation })
}

fn past_expiry() -> Violations {
    Violations::single("expires_at", InvalidValue::new(Reason::OutOfRange, "must be in the future"))
}
