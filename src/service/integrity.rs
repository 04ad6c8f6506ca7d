//! Orphans and half tenants: found, and repaired.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, TryFutureExt as _, TryStreamExt as _, stream};
use rand::rngs::SysRng;
use uuid::Uuid;

use super::{TenantService, ids::new_id, retry::retry_on_conflict};
use crate::{
    domain::{
        ApiKey, PackageId, SegmentId, TenantId, TenantIdentifier, defaults,
        integrity::{IntegrityChunk, IntegritySubject, RepairReport},
        provisioning::{NewApiKey, default_packages, default_segment},
    },
    error::{Error, Resource, Result},
    secrets::{mint_key, random_secret},
    store::RepairPlan,
    telemetry::metrics,
};

impl TenantService {
    /// Checks all tenants, or one, and the rows that refer to them, in chunks that each hold a bounded number of rows.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `only` does not exist. An error ends the stream.
    pub fn check_integrity(
        self: Arc<Self>,
        only: Option<TenantId>,
    ) -> impl Stream<Item = Result<IntegrityChunk>> + Send + 'static {
        let ids = match only {
            None => Uuid::nil()..=Uuid::max(),
            Some(tenant_id) => tenant_id.as_uuid()..=tenant_id.as_uuid(),
        };
        let service = Arc::clone(&self);
        let exists = async move {
            match only {
                Some(tenant_id) => service.get_tenant(TenantIdentifier::Id(tenant_id)).await.map(drop),
                None => Ok(()),
            }
        };
        let chunks = stream::iter(IntegritySubject::ALL)
            .flat_map(move |subject| self.store.check_integrity(subject, ids.clone()));
        exists.map_ok(|()| chunks).try_flatten_stream().inspect_ok(|chunk| {
            chunk.findings.iter().for_each(|finding| metrics::count_integrity_finding(finding.kind.as_str()));
        })
    }

    /// Returns the number of tenants, for a progress bar.
    pub async fn count_tenants(&self) -> Result<u64> {
        self.store.count_tenants().await
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
