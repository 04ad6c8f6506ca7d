//! Tenants that are move-in ready, or not there at all.

use rand::{TryRng, rngs::SysRng};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{clock::Clock, identity::new_id};
use crate::{
    domain::{
        CreateFullyProvisioned, Flow, KeyMode, PackageId, Provisioned, SegmentId, Tenant, TenantId, TenantIdentifier,
        TenantSlug,
        provisioning::{NewApiKey, NewTenant, Outcome},
    },
    error::{Error, Resource, Result},
    secrets::{Hasher, mint_key},
    store::Store,
};

/// The use cases of `TenantProvisioning`.
#[derive(Debug)]
pub struct Provisioning {
    pub store: Store,
    pub hasher: Hasher,
    pub key_mode: KeyMode,
    pub clock: Clock,
}

impl Provisioning {
    /// Makes a tenant with its General segment, packages and key, or nothing.
    ///
    /// # Errors
    /// [`Error::SlugTaken`]; those of the hasher and of the store.
    pub async fn create_fully_provisioned(&self, wish: CreateFullyProvisioned) -> Result<Outcome> {
        let now = self.clock.now();
        let key = mint_key(self.key_mode, &wish.slug, &mut SysRng).map_err(Error::internal)?;
        let tenant = new_tenant(&wish, now, &mut SysRng).map_err(Error::internal)?;

        if wish.validate_only {
            return if self.store.is_slug_taken(&wish.slug).await? {
                Err(slug_taken(&wish.slug))
            } else {
                Ok(Outcome::Validated(tenant.provisioned(key.public_key, key.secret_key)))
            };
        }

        let secret_hash = self.hasher.hash_key(key.random_part).await?;
        let new_key = NewApiKey { key_id: key.key_id, public_key: key.public_key, secret_hash };
        let written = [(tenant, new_key)];
        if self.store.create_fully_provisioned(&written).await? != [true] {
            return Err(slug_taken(&wish.slug));
        }
        let [(tenant, new_key)] = written;
        let provisioned = tenant.provisioned(new_key.public_key, key.secret_key);
        log_provisioned(&provisioned, Flow::Admin);
        Ok(Outcome::Created(provisioned))
    }

    /// # Errors
    /// [`Error::NotFound`]; those of the store.
    pub async fn get_tenant(&self, identifier: TenantIdentifier) -> Result<Tenant> {
        let found = self.store.get_tenant(&identifier, self.clock.now()).await?;
        found.ok_or(Error::not_found(Resource::Tenant))
    }
}

fn slug_taken(slug: &TenantSlug) -> Error {
    Error::SlugTaken { of: Resource::Tenant, slug: slug.to_string() }
}

/// Settles every identity before anything is written, so that one statement can write it all.
fn new_tenant<R: TryRng>(
    wish: &CreateFullyProvisioned,
    now: OffsetDateTime,
    rng: &mut R,
) -> std::result::Result<NewTenant, R::Error> {
    let id = TenantId::from_uuid(new_id(now, rng)?);
    let segment_id = SegmentId::from_uuid(new_id(now, rng)?);
    let mut package_ids = [PackageId::from_uuid(Uuid::nil()); _];
    for package_id in &mut package_ids {
        *package_id = PackageId::from_uuid(new_id(now, rng)?);
    }
    Ok(NewTenant {
        id,
        slug: wish.slug.clone(),
        name: wish.name.clone(),
        commission: wish.commission,
        segment_id,
        package_ids,
        created_at: now,
    })
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
