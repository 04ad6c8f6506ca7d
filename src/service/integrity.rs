//! Orphans and half tenants: found, and repaired.

use std::ops::RangeInclusive;

use rand::rngs::SysRng;
use uuid::Uuid;

use super::{TenantService, ids::new_id, retry::retry_on_conflict};
use crate::{
    domain::{
        ApiKey, PackageId, SegmentId, TenantId, TenantIdentifier, defaults,
        integrity::{IntegrityChunk, RepairReport},
        provisioning::{NewApiKey, default_packages, default_segment},
    },
    error::{Error, Resource, Result},
    secrets::{mint_key, random_secret},
    store::RepairPlan,
    telemetry::metrics,
};

/// The parts of the database that a look goes through, one after the other.
const PASSES: [Pass; 3] = [Pass::Tenants, Pass::Owners, Pass::Claims];

#[derive(Debug, Clone, Copy)]
enum Pass {
    Tenants,
    Owners,
    Claims,
}

/// Where a look at the database goes on.
#[derive(Debug)]
pub struct IntegrityCheck<'a> {
    service: &'a TenantService,
    ids: RangeInclusive<Uuid>,
    passes: std::slice::Iter<'static, Pass>,
    pass: Option<Pass>,
    /// Where the pass goes on.
    next_id: Uuid,
}

impl TenantService {
    /// Looks at the whole database, or at one tenant, step by step.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such tenant; those of the store.
    pub async fn check_integrity(&self, only: Option<TenantId>) -> Result<IntegrityCheck<'_>> {
        let ids = match only {
            None => Uuid::nil()..=Uuid::max(),
            Some(tenant_id) => {
                self.get_tenant(TenantIdentifier::Id(tenant_id)).await?;
                tenant_id.as_uuid()..=tenant_id.as_uuid()
            }
        };
        let mut passes = PASSES.iter();
        let (pass, next_id) = (passes.next().copied(), *ids.start());
        Ok(IntegrityCheck { service: self, ids, passes, pass, next_id })
    }

    /// Makes what a tenant lacks, from the defaults of a new one; a key only where there is none at all, and only
    /// `with_key`, for its secret can be told this once.
    ///
    /// # Errors
    /// [`Error::NotFound`]; those of the hasher and of the store.
    pub async fn repair_tenant(&self, tenant_id: TenantId, with_key: bool) -> Result<RepairReport> {
        let now = self.clock.now();
        let identifier = TenantIdentifier::Id(tenant_id);
        let found = self.store.get_tenant(&identifier, now).await?.ok_or(Error::not_found(Resource::Tenant))?;
        let new_id = || new_id(now, &mut SysRng).map_err(Error::internal);
        let secret = random_secret(&mut SysRng).map_err(Error::internal)?;
        let key = mint_key(self.key_mode, &found.slug, secret, &mut SysRng).map_err(Error::internal)?;
        let new_key = NewApiKey {
            key_id: key.key_id,
            public_key: key.public_key.clone(),
            secret_hash: self.hasher.hash_key(key.random_part).await?,
        };
        let plan = RepairPlan {
            segment_id: new_id()?,
            package_ids: defaults::PACKAGES.iter().map(|_| new_id()).collect::<Result<_>>()?,
            key: with_key.then_some(new_key),
        };
        let repair = retry_on_conflict(|| self.store.repair_tenant(tenant_id, &plan, now)).await?;
        let repair = repair.ok_or(Error::not_found(Resource::Tenant))?;
        let tenant = self.store.get_tenant(&identifier, now).await?.ok_or(Error::not_found(Resource::Tenant))?;

        let general_id = SegmentId::from_uuid(repair.general_id);
        let package_ids = plan.package_ids.into_iter().map(PackageId::from_uuid);
        let repaired = RepairReport {
            segment: repair.has_new_segment.then(|| default_segment(tenant_id, general_id, now)),
            packages: if repair.has_new_packages {
                default_packages(tenant_id, general_id, package_ids, now)
            } else {
                Vec::new()
            },
            api_key: repair.has_new_key.then(|| {
                let (public_key, created_at) = (key.public_key, now);
                (ApiKey { public_key, tenant_id, created_at, expires_at: None, revoked_at: None }, key.secret_key)
            }),
            tenant,
        };
        log_repaired(&repaired, repair.packages_moved);
        Ok(repaired)
    }

    /// Removes what points at a tenant that is not there.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_dangling_rows(&self, tenant_id: TenantId) -> Result<()> {
        self.store.delete_dangling_rows(tenant_id).await
    }
}

impl IntegrityCheck<'_> {
    /// The next step, with what it found; `None` at the end.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn next(&mut self) -> Result<Option<IntegrityChunk>> {
        let Some(pass) = self.pass else { return Ok(None) };
        let (store, ids) = (&self.service.store, self.next_id..=*self.ids.end());
        let (looked, last_id) = match pass {
            Pass::Tenants => store.check_tenants(ids).await?,
            Pass::Owners => store.check_owners(ids).await?,
            Pass::Claims => store.check_claims(ids).await?,
        };
        looked.findings.iter().for_each(|finding| metrics::integrity_finding(finding.kind.as_str()));
        let next_id = last_id.and_then(|last| last.as_u128().checked_add(1)).map(Uuid::from_u128);
        if let Some(next_id) = next_id.filter(|next_id| next_id <= self.ids.end()) {
            self.next_id = next_id;
        } else {
            self.pass = self.passes.next().copied();
            self.next_id = *self.ids.start();
        }
        Ok(Some(looked))
    }
}

fn log_repaired(repaired: &RepairReport, packages_moved: i64) {
    let created_segment = repaired.segment.is_some();
    let created_api_key = repaired.api_key.is_some();
    if created_segment || created_api_key || !repaired.packages.is_empty() || packages_moved > 0 {
        tracing::warn!(
            tenant_id = %repaired.tenant.id,
            slug = repaired.tenant.slug,
            created_segment,
            packages_created = repaired.packages.len(),
            packages_moved,
            created_api_key,
            "RepairReport a half tenant"
        );
    }
}
