//! Checks the integrity of tenants and repairs them.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, TryFutureExt as _, TryStreamExt as _, stream};
use strum::VariantArray as _;
use uuid::Uuid;

use super::{
    TenantService, change_log,
    ids::{new_id, system_rng},
    retry::retry_on_conflict,
};
use crate::{
    domain::{
        ApiKey, PackageId, SegmentId, TenantId, TenantIdentifier, defaults,
        integrity::{IntegrityChunk, IntegritySubject, RepairReport},
        provisioning::{NewApiKey, default_packages, default_segment},
    },
    error::{Error, Resource, Result},
    secrets::random_secret,
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
        let chunks = stream::iter(IntegritySubject::VARIANTS)
            .flat_map(move |&subject| self.store.check_integrity(subject, ids.clone()));
        exists.map_ok(|()| chunks).try_flatten_stream().inspect_ok(|chunk| {
            chunk.findings.iter().for_each(|finding| metrics::count_integrity_finding(finding.kind.into()));
        })
    }

    /// Returns the number of tenants, deleted ones included, for a progress bar.
    pub async fn count_tenants(&self) -> Result<u64> {
        self.store.count_tenants().await
    }

    /// Creates what the tenant lacks, from the defaults of a new tenant. A key is created only if `with_key` is set and
    /// the tenant has no key at all; its secret is in the result, this one time only.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn repair_tenant(&self, tenant_id: TenantId, with_key: bool) -> Result<RepairReport> {
        let now = self.clock.now();
        let new_id = || new_id(now, &mut system_rng());
        let slug = self.get_tenant(TenantIdentifier::Id(tenant_id)).await?.slug;
        let (key, secret_key) =
            if with_key { Some(self.new_api_key(&slug, random_secret(&mut system_rng())).await?) } else { None }
                .unzip();
        let plan = RepairPlan {
            segment_id: new_id(),
            package_ids: defaults::PACKAGES.iter().map(|_| new_id()).collect(),
            key,
        };
        let result = retry_on_conflict(|| self.store.repair_tenant(tenant_id, &plan, now)).await?;
        let result = result.ok_or(Error::not_found(Resource::Tenant))?;

        let general_id = SegmentId::from_uuid(result.general_id);
        let package_ids = plan.package_ids.into_iter().map(PackageId::from_uuid);
        let api_key = plan.key.filter(|_| result.has_new_key).map(|NewApiKey { public_key, .. }| ApiKey {
            public_key,
            tenant_id,
            created_at: now,
            expires_at: None,
            revoked_at: None,
        });
        let report = RepairReport {
            tenant: self.get_tenant(TenantIdentifier::Id(tenant_id)).await?,
            segment: result.has_new_segment.then(|| default_segment(tenant_id, general_id, now)),
            packages: if result.has_new_packages {
                default_packages(tenant_id, general_id, package_ids, now)
            } else {
                Vec::new()
            },
            api_key: api_key.zip(secret_key),
        };
        log_repair(&report, result.packages_moved, result.has_corrected_usage);
        Ok(report)
    }

    /// Deletes the owner and the idempotency records of a tenant that does not exist.
    pub async fn delete_dangling_rows(&self, tenant_id: TenantId) -> Result<()> {
        self.store.delete_dangling_rows(tenant_id).await?;
        change_log::dangling_rows_deleted(tenant_id);
        Ok(())
    }
}

fn log_repair(report: &RepairReport, packages_moved: i64, corrected_usage: bool) {
    let created_segment = report.segment.is_some();
    let created_api_key = report.api_key.is_some();
    if created_segment || created_api_key || !report.packages.is_empty() || packages_moved > 0 || corrected_usage {
        tracing::warn!(
            tenant_id = %report.tenant.id,
            slug = report.tenant.slug,
            created_segment,
            packages_created = report.packages.len(),
            packages_moved,
            created_api_key,
            corrected_usage,
            "Repaired a damaged tenant"
        );
        change_log::tenant_repaired(report.tenant.id);
    }
}
