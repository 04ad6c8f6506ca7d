//! The use cases of `PackageCatalog`: packages and segments of one tenant.
//!
//! The store checks the preconditions, because concurrent changes can violate them; this file creates ids and maps the
//! store's [`PackageUpsertError`] and [`SegmentUpsertError`].

use super::{
    batch::response_too_large,
    change_log,
    clock::Clock,
    ids::{new_id, system_rng},
    retry::retry_on_conflict,
};
use crate::{
    domain::{
        Actor, DisplayName, ExternalId, InvalidValue, Package, PackageId, Quotas, Reason, Segment, SegmentId, SlugStem,
        TenantId, Violations,
        catalog::{
            CatalogIdentifier, Deletion, ListPackages, ListSegments, PackageUpsert, PackageUpsertError,
            PackageUpsertFailure, SegmentUpsertError, UpsertPackage, UpsertResult, UpsertSegment, UpsertTarget,
            Upserted,
        },
        paging::{Cursor, Page},
    },
    error::{Error, Precondition, Resource, Result, UniqueField},
    store::{NewPackageIds, Store},
};

#[derive(Debug)]
pub struct CatalogService {
    store: Store,
    clock: Clock,
    quotas: Quotas,
}

impl CatalogService {
    pub const fn new(store: Store, clock: Clock, quotas: Quotas) -> Self {
        Self { store, clock, quotas }
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant, package or segment, [`Error::InvalidRequest`] if a new package lacks its
    /// name or price, [`Error::AlreadyExists`] if another package of the tenant has the new slug,
    /// [`Error::EtagMismatch`], [`Error::QuotaExceeded`].
    pub async fn upsert_package(
        &self,
        tenant_id: TenantId,
        request: UpsertPackage,
        actor: Actor,
    ) -> Result<Upserted<Package>> {
        let UpsertPackage { upsert, validate_only: dry_run } = request;
        let results = self.upsert_packages(tenant_id, &[upsert], dry_run, &actor, |_index| String::new()).await?;
        let none = || Error::internal("an upsert of one package returned none");
        Ok(Upserted { result: results.into_iter().next().ok_or_else(none)?, dry_run })
    }

    /// Creates or updates packages, all or none. A violation names its item, as in `packages[3].name`.
    ///
    /// # Errors
    /// As [`Self::upsert_package`], and [`Error::InvalidRequest`] if two items have the same package as their target or
    /// if the response would be too large.
    pub async fn batch_upsert_packages(
        &self,
        tenant_id: TenantId,
        upserts: Vec<PackageUpsert>,
        actor: Actor,
    ) -> Result<Vec<UpsertResult<Package>>> {
        self.upsert_packages(tenant_id, &upserts, false, &actor, |index| format!("packages[{index}].")).await
    }

    async fn upsert_packages(
        &self,
        tenant_id: TenantId,
        upserts: &[PackageUpsert],
        dry_run: bool,
        actor: &Actor,
        field_prefix: impl Fn(usize) -> String,
    ) -> Result<Vec<UpsertResult<Package>>> {
        let now = self.clock.now();
        let id = || new_id(now, &mut system_rng());
        let packages = upserts.iter().map(|_upsert| PackageId::from_uuid(id())).collect();
        let new_ids = NewPackageIds { packages, general_segment: SegmentId::from_uuid(id()) };
        let limit = self.quotas.packages;
        let quota_exceeded = Error::QuotaExceeded { tenant_id, resource: Resource::Package, limit };
        let results =
            retry_on_conflict(|| self.store.upsert_packages(tenant_id, upserts, &new_ids, limit, actor, now, dry_run))
                .await?
                .map_err(|failure| match failure {
                    PackageUpsertFailure::Items(errors) => {
                        package_upsert_error(&errors, upserts, &quota_exceeded, field_prefix)
                    }
                    PackageUpsertFailure::ResponseTooLarge => response_too_large("packages"),
                })?;
        if dry_run {
            return Ok(results);
        }
        log_general_segment_use(tenant_id, upserts, &results, new_ids.general_segment);
        for result in &results {
            change_log::package_upserted(result, now);
        }
        Ok(results)
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the package.
    pub async fn get_package(&self, tenant_id: TenantId, identifier: CatalogIdentifier<PackageId>) -> Result<Package> {
        self.store.get_package(tenant_id, &identifier).await
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the filter's segment.
    pub async fn list_packages(&self, tenant_id: TenantId, list: ListPackages) -> Result<Page<Package>> {
        // One more row than the page holds shows whether there is a next page.
        let rows = self.store.list_packages(tenant_id, &list, list.size.get() + 1).await?;
        let cursor = |package: &Package| Cursor { order: package.grouping_order.into(), id: package.id.as_uuid() };
        Ok(Page::from_rows(rows, list.size, &list.filter.page_token_scope(tenant_id), cursor))
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the package, [`Error::EtagMismatch`], [`Error::FailedPrecondition`]
    /// (`LastPackage`).
    pub async fn delete_package(&self, tenant_id: TenantId, deletion: Deletion<PackageId>, actor: Actor) -> Result<()> {
        let now = self.clock.now();
        match retry_on_conflict(|| self.store.delete_package(tenant_id, deletion, &actor, now)).await {
            Err(Error::NotFound { resource: Resource::Package, .. }) if deletion.allow_missing => return Ok(()),
            result => result?,
        }
        change_log::package_deleted(tenant_id, deletion.id);
        Ok(())
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or segment, [`Error::InvalidRequest`] if a new segment lacks its name,
    /// [`Error::AlreadyExists`] if another segment of the tenant has the new slug, [`Error::FailedPrecondition`]
    /// (`DefaultSegment`) if the upsert would change the General segment's slug, [`Error::EtagMismatch`],
    /// [`Error::QuotaExceeded`].
    pub async fn upsert_segment(
        &self,
        tenant_id: TenantId,
        request: UpsertSegment,
        actor: Actor,
    ) -> Result<Upserted<Segment>> {
        let UpsertSegment { upsert, validate_only: dry_run } = request;
        let now = self.clock.now();
        let new_segment_id = SegmentId::from_uuid(new_id(now, &mut system_rng()));
        let limit = self.quotas.segments;
        let attempt = || self.store.upsert_segment(tenant_id, &upsert, new_segment_id, limit, &actor, now, dry_run);
        let result = retry_on_conflict(attempt).await?.map_err(|error| match error {
            SegmentUpsertError::NotFound => Error::not_found(Resource::Segment),
            SegmentUpsertError::Incomplete => {
                let mut violations = Violations::default();
                let invalid = incomplete_name(upsert.name.as_ref(), &upsert.target);
                violations.add("name", invalid.unwrap_or_else(InvalidValue::missing));
                violations.into()
            }
            SegmentUpsertError::SlugTaken => Error::already_exists(UniqueField::SegmentSlug, upsert.target.slug()),
            SegmentUpsertError::DefaultSegment => Error::FailedPrecondition(Precondition::DefaultSegment),
            SegmentUpsertError::ExternalIdTaken => Error::already_exists(
                UniqueField::SegmentExternalId,
                upsert.external_id.as_ref().map(ExternalId::as_str),
            ),
            SegmentUpsertError::ExternalIdSet => Precondition::ExternalIdSet.into(),
            SegmentUpsertError::EtagMismatch => Error::EtagMismatch(Resource::Segment),
            SegmentUpsertError::QuotaExceeded => Error::QuotaExceeded { tenant_id, resource: Resource::Segment, limit },
        })?;
        if !dry_run {
            change_log::segment_upserted(&result, now);
        }
        Ok(Upserted { result, dry_run })
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the segment.
    pub async fn get_segment(&self, tenant_id: TenantId, identifier: CatalogIdentifier<SegmentId>) -> Result<Segment> {
        self.store.get_segment(tenant_id, &identifier).await
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant.
    pub async fn list_segments(&self, tenant_id: TenantId, list: ListSegments) -> Result<Page<Segment>> {
        // One more row than the page holds shows whether there is a next page.
        let rows = self.store.list_segments(tenant_id, &list, list.size.get() + 1).await?;
        let cursor = |segment: &Segment| Cursor { order: segment.sort_order.into(), id: segment.id.as_uuid() };
        Ok(Page::from_rows(rows, list.size, &ListSegments::page_token_scope(tenant_id, list.active), cursor))
    }

    /// # Errors
    /// [`Error::NotFound`] for the tenant or the segment, [`Error::EtagMismatch`], [`Error::FailedPrecondition`]
    /// (`DefaultSegment` or `SegmentNotEmpty`).
    pub async fn delete_segment(&self, tenant_id: TenantId, deletion: Deletion<SegmentId>, actor: Actor) -> Result<()> {
        let now = self.clock.now();
        match retry_on_conflict(|| self.store.delete_segment(tenant_id, deletion, &actor, now)).await {
            Err(Error::NotFound { resource: Resource::Segment, .. }) if deletion.allow_missing => return Ok(()),
            result => result?,
        }
        change_log::segment_deleted(tenant_id, deletion.id);
        Ok(())
    }
}

/// Returns all violations, or, if no item has one, the first other error.
fn package_upsert_error(
    errors: &[(usize, PackageUpsertError)],
    upserts: &[PackageUpsert],
    quota_exceeded: &Error,
    field_prefix: impl Fn(usize) -> String,
) -> Error {
    let mut violations = Violations::default();
    let mut first_error = None;
    for &(index, error) in errors {
        let field = |name| format!("{}{name}", field_prefix(index));
        let upsert = &upserts[index];
        let other_error = match error {
            PackageUpsertError::Incomplete => {
                if let Some(invalid) = incomplete_name(upsert.name.as_ref(), &upsert.target) {
                    violations.add(field("name"), invalid);
                }
                if upsert.base_price.is_none() {
                    violations.add(field("base_price"), InvalidValue::missing());
                }
                continue;
            }
            PackageUpsertError::Duplicate => {
                let name = match upsert.target {
                    UpsertTarget::ById(..) => "package_id",
                    UpsertTarget::BySlug(_) | UpsertTarget::New(_) => "slug",
                    UpsertTarget::ByExternalId(_) => "external_id",
                };
                let description = "must not identify the same package as an earlier item";
                // The contract defines no reason for a duplicate.
                violations.add(field(name), InvalidValue::new(Reason::BadFormat, description));
                continue;
            }
            PackageUpsertError::NotFound => {
                Error::NotFound { resource: Resource::Package, field: Some(field("package_id")) }
            }
            PackageUpsertError::SegmentNotFound => {
                Error::NotFound { resource: Resource::Segment, field: Some(field("segment_id")) }
            }
            PackageUpsertError::QuotaExceeded => quota_exceeded.clone(),
            PackageUpsertError::ExternalIdTaken => Error::already_exists(
                UniqueField::PackageExternalId,
                upsert.external_id.as_ref().map(ExternalId::as_str),
            ),
            PackageUpsertError::ExternalIdSet => Precondition::ExternalIdSet.into(),
            PackageUpsertError::EtagMismatch => Error::EtagMismatch(Resource::Package),
            PackageUpsertError::SlugTaken => Error::already_exists(UniqueField::PackageSlug, upsert.target.slug()),
        };
        first_error.get_or_insert(other_error);
    }
    if violations.as_slice().is_empty() {
        first_error.unwrap_or_else(|| Error::internal("a package upsert failed without an error"))
    } else {
        violations.into()
    }
}

/// Returns what is wrong with the name of a new resource: it is missing, or the resource needs a slug and the name
/// gives none.
fn incomplete_name<Id: Copy>(name: Option<&DisplayName>, target: &UpsertTarget<Id>) -> Option<InvalidValue> {
    let Some(name) = name else { return Some(InvalidValue::missing()) };
    if target.slug().is_some() || target.stem().is_some() {
        return None;
    }
    SlugStem::from_name(name.as_str()).err()
}

fn log_general_segment_use(
    tenant_id: TenantId,
    upserts: &[PackageUpsert],
    results: &[UpsertResult<Package>],
    new_general_id: SegmentId,
) {
    if results.iter().any(|result| result.item.segment_id == new_general_id) {
        tracing::warn!(%tenant_id, "General segment was missing and has been created again");
    }
    for (upsert, result) in upserts.iter().zip(results) {
        if result.created && upsert.segment_id.is_none() {
            let segment_id = result.item.segment_id;
            tracing::debug!(%tenant_id, %segment_id, "Package auto-assigned to General segment");
        }
    }
}
