//! Checks the integrity of tenants and repairs them.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};

use super::{
    TenantService, change_log,
    ids::{new_id, system_rng},
    retry::retry_on_conflict,
};
use crate::{
    domain::{
        Actor, ApiKey, Email, PackageId, SegmentId, Tenant, TenantId, TenantIdentifier, defaults,
        integrity::{CheckedTenants, Finding, IntegrityChunk, RepairReport},
        provisioning::{NewApiKey, default_packages, default_segment},
    },
    error::{Error, Resource, Result},
    secrets::random_secret,
    store::RepairPlan,
    telemetry::metrics,
};

impl TenantService {
    /// Checks tenants and the rows that refer to them, in the order of their ids and in chunks that each hold a bounded
    /// number of rows.
    ///
    /// # Errors
    /// [`Error::NotFound`] for [`CheckedTenants::One`] that does not exist and to which no rows refer. An error ends
    /// the stream.
    pub fn check_integrity(
        self: Arc<Self>,
        tenants: CheckedTenants,
    ) -> impl Stream<Item = Result<IntegrityChunk>> + Send + 'static {
        let must_exist = matches!(tenants, CheckedTenants::One(_));
        let checks: Vec<Option<TenantId>> = match tenants {
            CheckedTenants::All => vec![None],
            CheckedTenants::Limited(limit) => limit.iter().map(Some).collect(),
            CheckedTenants::One(tenant_id) => vec![Some(tenant_id)],
        };
        let chunks = stream::iter(checks).flat_map(move |only| self.store.check_integrity(only));
        chunks.and_then(move |chunk| async move {
            if must_exist && chunk.tenants == 0 && chunk.findings.is_empty() {
                return Err(Error::not_found(Resource::Tenant));
            }
            chunk.findings.iter().for_each(|finding| metrics::count_integrity_finding(finding.kind.into()));
            Ok(chunk)
        })
    }

    /// Returns the findings that a repair of the tenant has left. They are not counted in the metrics again.
    pub async fn remaining_findings(&self, tenant_id: TenantId) -> Result<Vec<Finding>> {
        self.store.check_integrity(Some(tenant_id)).map_ok(|chunk| chunk.findings).try_concat().await
    }

    /// Returns the number of tenants, deleted ones included, for a progress bar.
    pub async fn count_tenants(&self) -> Result<u64> {
        self.store.count_tenants().await
    }

    /// Creates what the tenant lacks, from the defaults of a new tenant. A key is created only if `with_key` is set and
    /// the tenant has no key at all; its secret is in the result, this one time only. Deletes the rows that refer to a
    /// tenant that does not exist.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the tenant does not exist and no rows refer to it.
    pub async fn repair_tenant(&self, tenant_id: TenantId, with_key: bool, actor: Actor) -> Result<RepairReport> {
        match self.get_tenant(TenantIdentifier::Id(tenant_id)).await {
            Ok(tenant) => self.repair_existing_tenant(tenant, with_key, &actor).await,
            Err(Error::NotFound { .. }) => self.delete_stray_rows(tenant_id, &actor).await,
            Err(error) => Err(error),
        }
    }

    async fn repair_existing_tenant(&self, tenant: Tenant, with_key: bool, actor: &Actor) -> Result<RepairReport> {
        let (now, tenant_id) = (self.clock.now(), tenant.id);
        let new_id = || new_id(now, &mut system_rng());
        let (key, secret_key) =
            if with_key { Some(self.new_api_key(&tenant.slug, random_secret(&mut system_rng())).await?) } else { None }
                .unzip();
        let plan = RepairPlan {
            segment_id: new_id(),
            package_ids: defaults::PACKAGES.iter().map(|_| new_id()).collect(),
            key,
            owner_email: tenant.owner_email.and_then(|stored| Email::parse(&stored).ok().map(|email| (stored, email))),
        };
        let result = retry_on_conflict(|| self.store.repair_tenant(tenant_id, &plan, actor, now)).await?;
        let result = result.ok_or(Error::not_found(Resource::Tenant))?;
        change_log::tenant_repaired(tenant_id, &result);

        let general_id = SegmentId::from_uuid(result.general_id);
        let package_ids = plan.package_ids.into_iter().map(PackageId::from_uuid);
        let new_key = plan.key.filter(|_| result.api_keys_created > 0);
        let api_key = new_key.map(|NewApiKey { public_key, .. }| ApiKey::new(public_key, tenant_id, now));
        let packages = i32::try_from(result.packages_created + result.packages_moved).map_err(Error::internal)?;
        Ok(RepairReport {
            tenant: Some(self.get_tenant(TenantIdentifier::Id(tenant_id)).await?),
            segment: (result.segments_created > 0).then(|| default_segment(tenant_id, general_id, packages, now)),
            packages: if result.packages_created > 0 {
                default_packages(tenant_id, general_id, package_ids, now)
            } else {
                Vec::new()
            },
            api_key: api_key.zip(secret_key),
        })
    }

    async fn delete_stray_rows(&self, tenant_id: TenantId, actor: &Actor) -> Result<RepairReport> {
        let rows_deleted =
            retry_on_conflict(|| self.store.delete_stray_rows(tenant_id, actor, self.clock.now())).await?;
        if rows_deleted == 0 {
            return Err(Error::not_found(Resource::Tenant));
        }
        change_log::stray_rows_deleted(tenant_id, rows_deleted);
        Ok(RepairReport { tenant: None, segment: None, packages: Vec::new(), api_key: None })
    }
}
