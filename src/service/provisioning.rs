//! Tenants that are move-in ready, or not there at all.

use rand::{TryRng, rngs::SysRng};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Provisioning,
    identity::{new_id, slug_ending},
};
use crate::{
    domain::{
        CommissionPercent, CreateFromSignup, CreateFullyProvisioned, DisplayName, Flow, PackageId, Provisioned,
        SegmentId, SignupForm, SignupSlug, TenantId, TenantSlug, defaults,
        provisioning::{NewApiKey, NewOwner, NewTenant, Outcome},
    },
    error::{Error, Result, Taken},
    secrets::{MintedKey, mint_key},
};

/// How often a slug made from a name may turn out to be taken: the first has no ending, and two alike after that are one
/// in hundreds of millions.
const SLUG_ATTEMPTS: usize = 5;

impl Provisioning {
    /// Makes a tenant with its General segment, packages and key, or nothing.
    ///
    /// # Errors
    /// [`Error::Taken`]; those of the hasher and of the store.
    pub async fn create_fully_provisioned(&self, wish: CreateFullyProvisioned) -> Result<Outcome> {
        let (tenant, key) = self.draft(wish.slug, wish.name, wish.commission, None)?;
        if !wish.validate_only {
            return self.provision(tenant, key, Flow::Admin).await.map(Outcome::Created);
        }
        if self.store.is_slug_taken(&tenant.slug).await? {
            return Err(Error::taken(Taken::TenantSlug, tenant.slug.as_str()));
        }
        Ok(Outcome::Validated(tenant.provisioned(key.public_key, key.secret_key)))
    }

    /// Makes the same for a business that signs itself up, together with its owner.
    ///
    /// # Errors
    /// All that is wrong with the form; [`Error::Taken`]; those of the hasher and of the store.
    pub async fn create_from_signup(&self, form: SignupForm) -> Result<Provisioned> {
        let is_guessable = match &form.password {
            Some(password) => self.hasher.is_guessable(password.clone(), form.hints()).await?,
            None => false,
        };
        let CreateFromSignup { business_name, email, password, slug, .. } = form.finish(is_guessable)?;
        let owner = NewOwner { email, password_hash: self.hasher.hash_password(password).await? };
        for attempt in 0..SLUG_ATTEMPTS {
            let candidate = slug.candidate(attempt == 0, &slug_ending(&mut SysRng).map_err(Error::internal)?);
            let candidate = candidate.ok_or_else(|| Error::internal("a name gave no slug"))?;
            let (tenant, key) =
                self.draft(candidate, business_name.clone(), defaults::COMMISSION, Some(owner.clone()))?;
            match self.provision(tenant, key, Flow::Signup).await {
                Err(Error::Taken { what: Taken::TenantSlug, .. }) if matches!(slug, SignupSlug::Derived(_)) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Conflict)
    }

    /// Settles every identity before anything is written, so that one statement can write it all.
    fn draft(
        &self,
        slug: TenantSlug,
        name: DisplayName,
        commission: CommissionPercent,
        owner: Option<NewOwner>,
    ) -> Result<(NewTenant, MintedKey)> {
        let key = mint_key(self.key_mode, slug.as_str(), &mut SysRng).map_err(Error::internal)?;
        let created_at = self.clock.now();
        let (id, segment_id, package_ids) = new_ids(created_at, &mut SysRng).map_err(Error::internal)?;
        Ok((NewTenant { id, slug, name, commission, segment_id, package_ids, owner, created_at }, key))
    }

    /// Writes a tenant, whichever way it came.
    async fn provision(&self, tenant: NewTenant, key: MintedKey, flow: Flow) -> Result<Provisioned> {
        let secret_hash = self.hasher.hash_key(key.random_part).await?;
        let new_key = NewApiKey { key_id: key.key_id, public_key: key.public_key, secret_hash };
        let written = [(tenant, new_key)];
        let is_made = self.store.create_fully_provisioned(&written).await? == [true];
        let [(tenant, new_key)] = written;
        if !is_made {
            return Err(Error::taken(Taken::TenantSlug, tenant.slug.as_str()));
        }
        let provisioned = tenant.provisioned(new_key.public_key, key.secret_key);
        log_provisioned(&provisioned, flow);
        Ok(provisioned)
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
}
