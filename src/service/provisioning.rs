//! Tenants that are move-in ready, or not there at all.

use rand::{TryRng, rngs::SysRng};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    TenantService,
    idempotency::replayed_secret,
    ids::{new_id, random_slug_suffix},
    retry::retry_on_conflict,
};
use crate::{
    domain::{
        Caller, CommissionPercent, CreateFromSignup, CreateFullyProvisioned, DisplayName, PackageId, ProvisionedTenant,
        ProvisioningSource, RequestId, SegmentId, SignupForm, SignupSlug, TenantId, TenantSlug, defaults,
        idempotency::{CreatedTenant, Fingerprint, IdempotencyRecord, IdempotencyScope, IdempotentRpc, Replay},
        provisioning::{CreateOutcome, CreateResult, NewApiKey, NewOwner, NewTenant, TenantInsert},
    },
    error::{Error, Precondition, Result, UniqueField},
    secrets::{MintedKey, mint_key},
    telemetry::metrics,
};

/// How often a slug made from a name may turn out to be taken: the first has no ending, and two alike after that are one
/// in hundreds of millions.
const SLUG_ATTEMPTS: usize = 5;

/// A tenant that somebody wishes for, whichever way the wish came.
pub(super) struct TenantSpec {
    pub slug: TenantSlug,
    pub name: DisplayName,
    pub commission: CommissionPercent,
    pub owner: Option<NewOwner>,
    pub request_id: Option<RequestId>,
    pub fingerprint: Fingerprint,
}

impl TenantService {
    /// Makes a tenant with its General segment, packages and key, or nothing.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::FailedPrecondition`]; those of the hasher and of the store.
    pub async fn create_fully_provisioned(
        &self,
        caller: Caller,
        request: CreateFullyProvisioned,
    ) -> Result<CreateResult> {
        let scope = IdempotencyScope { caller, rpc: IdempotentRpc::CreateFullyProvisioned };
        let dry_run = request.validate_only;
        let outcome = if dry_run {
            self.validate(&scope, request.into()).await?
        } else {
            self.provision_one(&scope, ProvisioningSource::Admin, request.into()).await?
        };
        Ok(CreateResult { outcome, dry_run })
    }

    /// Makes the same for a business that signs itself up, together with its owner.
    ///
    /// # Errors
    /// All that is wrong with the form; [`Error::AlreadyExists`], [`Error::FailedPrecondition`]; those of the hasher and of the store.
    pub async fn create_from_signup(&self, caller: Caller, form: SignupForm) -> Result<CreateOutcome> {
        let is_guessable = match &form.password {
            Some(password) => self.hasher.is_guessable(password.clone(), form.user_inputs()).await?,
            None => false,
        };
        let signup = form.finish(is_guessable)?;
        let fingerprint = signup.fingerprint();
        let CreateFromSignup { business_name: name, email, password, slug, request_id } = signup;
        let owner = NewOwner { email, password_hash: self.hasher.hash_password(password.clone()).await? };
        let scope = IdempotencyScope { caller, rpc: IdempotentRpc::CreateFromSignup };
        for attempt in 0..SLUG_ATTEMPTS {
            let candidate = slug.candidate(attempt == 0, &random_slug_suffix(&mut SysRng).map_err(Error::internal)?);
            let spec = TenantSpec {
                slug: candidate.ok_or_else(|| Error::internal("a name gave no slug"))?,
                name: name.clone(),
                commission: defaults::COMMISSION,
                owner: Some(owner.clone()),
                request_id: request_id.clone(),
                fingerprint,
            };
            match self.provision_one(&scope, ProvisioningSource::Signup, spec).await {
                Err(Error::AlreadyExists { field: UniqueField::TenantSlug, .. })
                    if matches!(slug, SignupSlug::Derived(_)) => {}
                Ok(CreateOutcome::Replayed(replay)) => {
                    // The password is not in the fingerprint: a fast hash of it would undo the slow one.
                    let stored = replay.made.password_hash.clone();
                    let verified = self.hasher.verify_password(Some(password), stored).await?;
                    let reused = Error::FailedPrecondition(Precondition::RequestIdReused);
                    return if verified.matches { Ok(CreateOutcome::Replayed(replay)) } else { Err(reused) };
                }
                outcome => return outcome,
            }
        }
        Err(Error::Conflict)
    }

    async fn validate(&self, scope: &IdempotencyScope, spec: TenantSpec) -> Result<CreateOutcome> {
        let claims = self.find_claims(scope, std::iter::once(&spec)).await?;
        if !claims.is_empty() || self.store.is_slug_taken(&spec.slug).await? {
            return self.replay(scope, &spec, &claims);
        }
        let (new, key) = self.prepare(&spec, self.clock.now())?;
        Ok(CreateOutcome::Created(new.tenant.into_provisioned(key.public_key, key.secret_key)))
    }

    async fn provision_one(
        &self,
        scope: &IdempotencyScope,
        flow: ProvisioningSource,
        spec: TenantSpec,
    ) -> Result<CreateOutcome> {
        let outcomes = self.provision(scope, flow, std::slice::from_ref(&spec)).await?;
        outcomes.into_iter().next().ok_or_else(|| Error::internal("one wish had no outcome"))?
    }

    /// Writes tenants, whichever way they came, each for itself whole or not at all. What was not written was written
    /// before, by a call of the same request id, or its slug is taken.
    ///
    /// Slugs that are free, and request ids, are distinct.
    ///
    /// # Errors
    /// Those that befall all: of the hasher and of the store.
    pub(super) async fn provision(
        &self,
        scope: &IdempotencyScope,
        flow: ProvisioningSource,
        specs: &[TenantSpec],
    ) -> Result<Vec<Result<CreateOutcome>>> {
        let now = self.clock.now();
        let drafts = specs.iter().map(|spec| self.prepare(spec, now)).collect::<Result<Vec<_>>>()?;
        let (mut new, keys): (Vec<TenantInsert>, Vec<MintedKey>) = drafts.into_iter().unzip();
        let random_parts = keys.iter().map(|key| key.random_part.clone()).collect();
        for (new, secret_hash) in new.iter_mut().zip(self.hasher.hash_keys(random_parts).await?) {
            new.key.secret_hash = secret_hash;
        }
        let made = retry_on_conflict(|| self.store.create_fully_provisioned(scope, &new)).await?;

        let is_made = made.iter().copied();
        let not_made = specs.iter().zip(is_made.clone()).filter(|&(_, is_made)| !is_made).map(|(spec, _)| spec);
        let claims = self.find_claims(scope, not_made).await?;
        let outcomes = specs.iter().zip(new).zip(keys).zip(is_made).map(|(((spec, new), key), is_made)| {
            if !is_made {
                return self.replay(scope, spec, &claims);
            }
            let provisioned = new.tenant.into_provisioned(key.public_key, key.secret_key);
            log_provisioned(&provisioned, flow);
            Ok(CreateOutcome::Created(provisioned))
        });
        Ok(outcomes.collect())
    }

    async fn find_claims<'a>(
        &self,
        scope: &IdempotencyScope,
        specs: impl Iterator<Item = &'a TenantSpec>,
    ) -> Result<Vec<IdempotencyRecord<CreatedTenant>>> {
        let hashes: Vec<_> = specs.filter_map(|spec| spec.request_id.as_ref()).map(RequestId::hash).collect();
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        self.store.find_tenant_records(scope, &hashes, self.clock.now()).await
    }

    fn replay(
        &self,
        scope: &IdempotencyScope,
        spec: &TenantSpec,
        claims: &[IdempotencyRecord<CreatedTenant>],
    ) -> Result<CreateOutcome> {
        let hash = spec.request_id.as_ref().map(RequestId::hash);
        let claim = claims.iter().find(|claim| Some(claim.request_hash) == hash);
        let Some((claim, request_id)) = claim.zip(spec.request_id.as_ref()) else {
            return Err(Error::already_exists(UniqueField::TenantSlug, Some(spec.slug.as_str())));
        };
        let secret_key = replayed_secret(scope.rpc, claim, request_id, spec.fingerprint, self.clock.now())?;
        Ok(CreateOutcome::Replayed(Replay { made: claim.made.clone(), secret_key }))
    }

    /// Settles every identity before anything is written, so that one statement can write it all. The key's hash is still
    /// missing.
    fn prepare(&self, spec: &TenantSpec, created_at: OffsetDateTime) -> Result<(TenantInsert, MintedKey)> {
        let (secret, claim) = Self::new_secret(spec.request_id.as_ref(), spec.fingerprint)?;
        let key = mint_key(self.key_mode, spec.slug.as_str(), secret, &mut SysRng).map_err(Error::internal)?;
        let (id, segment_id, package_ids) = new_ids(created_at, &mut SysRng).map_err(Error::internal)?;
        let tenant = NewTenant {
            id,
            slug: spec.slug.clone(),
            name: spec.name.clone(),
            commission: spec.commission,
            segment_id,
            package_ids,
            owner: spec.owner.clone(),
            created_at,
        };
        let new_key =
            NewApiKey { key_id: key.key_id.clone(), public_key: key.public_key.clone(), secret_hash: String::new() };
        Ok((TenantInsert { tenant, key: new_key, claim }, key))
    }
}

impl From<CreateFullyProvisioned> for TenantSpec {
    fn from(spec: CreateFullyProvisioned) -> Self {
        let fingerprint = spec.fingerprint();
        let CreateFullyProvisioned { slug, name, commission, request_id, .. } = spec;
        Self { slug, name, commission, owner: None, request_id, fingerprint }
    }
}

type NewIds = (TenantId, SegmentId, [PackageId; defaults::PACKAGES.len()]);

fn new_ids<R: TryRng>(now: OffsetDateTime, rng: &mut R) -> std::result::Result<NewIds, R::Error> {
    let tenant_id = TenantId::from_uuid(new_id(now, rng)?);
    let segment_id = SegmentId::from_uuid(new_id(now, rng)?);
    let mut package_ids = [PackageId::from_uuid(Uuid::nil()); _];
    for package_id in &mut package_ids {
        *package_id = PackageId::from_uuid(new_id(now, rng)?);
    }
    Ok((tenant_id, segment_id, package_ids))
}

/// A line that operators count; never a secret.
fn log_provisioned(provisioned: &ProvisionedTenant, flow: ProvisioningSource) {
    tracing::info!(
        tenant_id = %provisioned.tenant.id,
        slug = provisioned.tenant.slug,
        segment_id = %provisioned.segment.id,
        packages_created = provisioned.packages.len(),
        flow = flow.as_str(),
        "Fully provisioned new tenant"
    );
    metrics::count_provisioned_tenant(flow.as_str());
}
