//! Tenants that are move-in ready, or not there at all.

use rand::{TryRng, rngs::SysRng};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Provisioning,
    claims::replayed_secret,
    identity::{new_id, slug_ending},
    retry::retrying,
};
use crate::{
    domain::{
        Caller, CommissionPercent, CreateFromSignup, CreateFullyProvisioned, DisplayName, Flow, PackageId, Provisioned,
        RequestId, SegmentId, SignupForm, SignupSlug, TenantId, TenantSlug,
        claim::{ClaimedRpc, Fingerprint, FoundClaim, MadeTenant, Replay, Scope},
        defaults,
        provisioning::{NewApiKey, NewOwner, NewProvisioning, NewTenant, Outcome},
    },
    error::{Error, Result, Rule, Taken},
    secrets::{MintedKey, mint_key},
    telemetry::metrics,
};

/// How often a slug made from a name may turn out to be taken: the first has no ending, and two alike after that are one
/// in hundreds of millions.
const SLUG_ATTEMPTS: usize = 5;

/// A tenant that somebody wishes for, whichever way the wish came.
pub(super) struct Wish {
    pub slug: TenantSlug,
    pub name: DisplayName,
    pub commission: CommissionPercent,
    pub owner: Option<NewOwner>,
    pub request_id: Option<RequestId>,
    pub fingerprint: Fingerprint,
}

impl Provisioning {
    /// Makes a tenant with its General segment, packages and key, or nothing.
    ///
    /// # Errors
    /// [`Error::Taken`], [`Error::Refused`]; those of the hasher and of the store.
    pub async fn create_fully_provisioned(&self, caller: Caller, wish: CreateFullyProvisioned) -> Result<Outcome> {
        let scope = Scope { caller, rpc: ClaimedRpc::CreateFullyProvisioned };
        if wish.validate_only {
            return self.validate(&scope, wish.into()).await;
        }
        self.provision_one(&scope, Flow::Admin, wish.into()).await
    }

    /// Makes the same for a business that signs itself up, together with its owner.
    ///
    /// # Errors
    /// All that is wrong with the form; [`Error::Taken`], [`Error::Refused`]; those of the hasher and of the store.
    pub async fn create_from_signup(&self, caller: Caller, form: SignupForm) -> Result<Outcome> {
        let is_guessable = match &form.password {
            Some(password) => self.hasher.is_guessable(password.clone(), form.hints()).await?,
            None => false,
        };
        let signup = form.finish(is_guessable)?;
        let fingerprint = signup.fingerprint();
        let CreateFromSignup { business_name: name, email, password, slug, request_id } = signup;
        let owner = NewOwner { email, password_hash: self.hasher.hash_password(password.clone()).await? };
        let scope = Scope { caller, rpc: ClaimedRpc::CreateFromSignup };
        for attempt in 0..SLUG_ATTEMPTS {
            let candidate = slug.candidate(attempt == 0, &slug_ending(&mut SysRng).map_err(Error::internal)?);
            let wish = Wish {
                slug: candidate.ok_or_else(|| Error::internal("a name gave no slug"))?,
                name: name.clone(),
                commission: defaults::COMMISSION,
                owner: Some(owner.clone()),
                request_id: request_id.clone(),
                fingerprint,
            };
            match self.provision_one(&scope, Flow::Signup, wish).await {
                Err(Error::Taken { what: Taken::TenantSlug, .. }) if matches!(slug, SignupSlug::Derived(_)) => {}
                Ok(Outcome::Replayed(replay)) => {
                    // The password is not in the fingerprint: a fast hash of it would undo the slow one.
                    let stored = replay.made.password_hash.clone();
                    let verified = self.hasher.verify_password(Some(password), stored).await?;
                    let reused = Error::Refused(Rule::RequestIdReused);
                    return if verified.is_right { Ok(Outcome::Replayed(replay)) } else { Err(reused) };
                }
                outcome => return outcome,
            }
        }
        Err(Error::Conflict)
    }

    async fn validate(&self, scope: &Scope, wish: Wish) -> Result<Outcome> {
        let claims = self.find_claims(scope, std::iter::once(&wish)).await?;
        let outcome = if !claims.is_empty() || self.store.is_slug_taken(&wish.slug).await? {
            self.replay(scope, &wish, &claims)?
        } else {
            let (new, key) = self.draft(&wish, self.clock.now())?;
            Outcome::Created(new.tenant.provisioned(key.public_key, key.secret_key))
        };
        Ok(Outcome::Validated(Box::new(outcome)))
    }

    async fn provision_one(&self, scope: &Scope, flow: Flow, wish: Wish) -> Result<Outcome> {
        let outcomes = self.provision(scope, flow, std::slice::from_ref(&wish)).await?;
        outcomes.into_iter().next().ok_or_else(|| Error::internal("one wish had no outcome"))?
    }

    /// Writes tenants, whichever way they came, each for itself whole or not at all. What was not written was written
    /// before, by a call of the same request id, or its slug is taken.
    ///
    /// Slugs that are free, and request ids, are distinct.
    ///
    /// # Errors
    /// Those that befall all: of the hasher and of the store.
    pub(super) async fn provision(&self, scope: &Scope, flow: Flow, wishes: &[Wish]) -> Result<Vec<Result<Outcome>>> {
        let now = self.clock.now();
        let drafts = wishes.iter().map(|wish| self.draft(wish, now)).collect::<Result<Vec<_>>>()?;
        let (mut new, keys): (Vec<NewProvisioning>, Vec<MintedKey>) = drafts.into_iter().unzip();
        let random_parts = keys.iter().map(|key| key.random_part.clone()).collect();
        for (new, secret_hash) in new.iter_mut().zip(self.hasher.hash_keys(random_parts).await?) {
            new.key.secret_hash = secret_hash;
        }
        let made = retrying(|| self.store.create_fully_provisioned(scope, &new)).await?;

        let is_made = made.iter().copied();
        let not_made = wishes.iter().zip(is_made.clone()).filter(|&(_, is_made)| !is_made).map(|(wish, _)| wish);
        let claims = self.find_claims(scope, not_made).await?;
        let outcomes = wishes.iter().zip(new).zip(keys).zip(is_made).map(|(((wish, new), key), is_made)| {
            if !is_made {
                return self.replay(scope, wish, &claims);
            }
            let provisioned = new.tenant.provisioned(key.public_key, key.secret_key);
            log_provisioned(&provisioned, flow);
            Ok(Outcome::Created(provisioned))
        });
        Ok(outcomes.collect())
    }

    async fn find_claims<'a>(
        &self,
        scope: &Scope,
        wishes: impl Iterator<Item = &'a Wish>,
    ) -> Result<Vec<FoundClaim<MadeTenant>>> {
        let hashes: Vec<_> = wishes.filter_map(|wish| wish.request_id.as_ref()).map(RequestId::hash).collect();
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        self.store.find_creations(scope, &hashes, self.clock.now()).await
    }

    fn replay(&self, scope: &Scope, wish: &Wish, claims: &[FoundClaim<MadeTenant>]) -> Result<Outcome> {
        let hash = wish.request_id.as_ref().map(RequestId::hash);
        let claim = claims.iter().find(|claim| Some(claim.request_hash) == hash);
        let Some((claim, request_id)) = claim.zip(wish.request_id.as_ref()) else {
            return Err(Error::taken(Taken::TenantSlug, wish.slug.as_str()));
        };
        let secret_key = replayed_secret(scope.rpc, claim, request_id, wish.fingerprint, self.clock.now())?;
        Ok(Outcome::Replayed(Replay { made: claim.made.clone(), secret_key }))
    }

    /// Settles every identity before anything is written, so that one statement can write it all. The key's hash is still
    /// missing.
    fn draft(&self, wish: &Wish, created_at: OffsetDateTime) -> Result<(NewProvisioning, MintedKey)> {
        let (secret, claim) = Self::new_secret(wish.request_id.as_ref(), wish.fingerprint)?;
        let key = mint_key(self.key_mode, wish.slug.as_str(), secret, &mut SysRng).map_err(Error::internal)?;
        let (id, segment_id, package_ids) = new_ids(created_at, &mut SysRng).map_err(Error::internal)?;
        let tenant = NewTenant {
            id,
            slug: wish.slug.clone(),
            name: wish.name.clone(),
            commission: wish.commission,
            segment_id,
            package_ids,
            owner: wish.owner.clone(),
            created_at,
        };
        let new_key =
            NewApiKey { key_id: key.key_id.clone(), public_key: key.public_key.clone(), secret_hash: String::new() };
        Ok((NewProvisioning { tenant, key: new_key, claim }, key))
    }
}

impl From<CreateFullyProvisioned> for Wish {
    fn from(wish: CreateFullyProvisioned) -> Self {
        let fingerprint = wish.fingerprint();
        let CreateFullyProvisioned { slug, name, commission, request_id, .. } = wish;
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
fn log_provisioned(provisioned: &Provisioned, flow: Flow) {
    tracing::info!(
        tenant_id = %provisioned.tenant.id,
        slug = provisioned.tenant.slug,
        segment_id = %provisioned.segment.id,
        packages_created = provisioned.packages.len(),
        flow = flow.as_str(),
        "Fully provisioned new tenant"
    );
    metrics::tenant_provisioned(flow.as_str());
}
