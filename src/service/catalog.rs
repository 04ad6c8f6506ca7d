//! A tenant's packages and segments.

use super::{
    clock::Clock,
    ids::{new_id, system_rng},
    retry::retry_on_conflict,
};
use crate::{
    domain::{
        InvalidValue, Package, PackageId, Reason, Segment, SegmentId, TenantId, Violations,
        catalog::{
            ListPackages, ListSegments, PackageBatchOutcome, PackageUpsert, Problem, SegmentUpsert, UpsertResult,
        },
        paging::{Cursor, Page},
    },
    error::{Error, Precondition, Resource, Result, UniqueField},
    store::{NewIds, Store},
};

/// The use cases of `PackageCatalog`.
#[derive(Debug)]
pub struct CatalogService {
    store: Store,
    clock: Clock,
}

impl CatalogService {
    pub const fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// # Errors
    /// What stands against it; those of the store.
    pub async fn upsert_package(&self, tenant_id: TenantId, upsert: PackageUpsert) -> Result<UpsertResult<Package>> {
        let done = self.upsert_all(tenant_id, std::slice::from_ref(&upsert), |_| String::new()).await?;
        done.into_iter().next().ok_or_else(|| Error::internal("an upsert of one package answered none"))
    }

    /// All or none; a violation names its item, as in `packages[3].name`.
    ///
    /// # Errors
    /// What stands against it; those of the store.
    pub async fn batch_upsert_packages(
        &self,
        tenant_id: TenantId,
        upserts: Vec<PackageUpsert>,
    ) -> Result<Vec<UpsertResult<Package>>> {
        self.upsert_all(tenant_id, &upserts, |index| format!("packages[{index}].")).await
    }

    async fn upsert_all(
        &self,
        tenant_id: TenantId,
        upserts: &[PackageUpsert],
        path: impl Fn(usize) -> String,
    ) -> Result<Vec<UpsertResult<Package>>> {
        let now = self.clock.now();
        let id = || new_id(now, &mut system_rng());
        let packages = upserts.iter().map(|_| PackageId::from_uuid(id())).collect();
        let ids = NewIds { packages, general: SegmentId::from_uuid(id()) };
        match retry_on_conflict(|| self.store.upsert_packages(tenant_id, upserts, &ids, now)).await? {
            PackageBatchOutcome::Done { packages, recreated_general } => {
                log_segments(tenant_id, upserts, &packages, recreated_general);
                Ok(packages)
            }
            PackageBatchOutcome::Refused(problems) => Err(upsert_error(&problems, upserts, path)),
        }
    }

    /// # Errors
    /// [`Error::NotFound`]; those of the store.
    pub async fn get_package(&self, tenant_id: TenantId, package_id: PackageId) -> Result<Package> {
        self.store.get_package(tenant_id, package_id).await
    }

    /// # Errors
    /// [`Error::NotFound`]; those of the store.
    pub async fn list_packages(&self, list: ListPackages) -> Result<Page<Package>> {
        let rows = self.store.list_packages(list.tenant_id, &list, list.size.get() + 1).await?;
        let position = |package: &Package| Cursor { order: package.grouping_order.into(), id: package.id.as_uuid() };
        Ok(Page::from_rows(rows, list.size, &list.filter.page_token_scope(list.tenant_id), position))
    }

    /// # Errors
    /// [`Error::NotFound`], [`Error::FailedPrecondition`]; those of the store.
    pub async fn delete_package(&self, tenant_id: TenantId, package_id: PackageId) -> Result<()> {
        retry_on_conflict(|| self.store.delete_package(tenant_id, package_id)).await
    }

    /// # Errors
    /// What stands against it; those of the store.
    pub async fn upsert_segment(&self, tenant_id: TenantId, upsert: SegmentUpsert) -> Result<UpsertResult<Segment>> {
        let now = self.clock.now();
        let new_id = SegmentId::from_uuid(new_id(now, &mut system_rng()));
        let outcome = retry_on_conflict(|| self.store.upsert_segment(tenant_id, &upsert, new_id, now)).await?;
        outcome.map_err(|problem| match problem {
            Problem::Incomplete => {
                let mut violations = Violations::default();
                violations.add("name", InvalidValue::missing());
                violations.into()
            }
            Problem::SlugTaken => Error::already_exists(UniqueField::SegmentSlug, upsert.target.slug()),
            Problem::DefaultSegment => Error::FailedPrecondition(Precondition::DefaultSegment),
            Problem::NotFound | Problem::SegmentNotFound | Problem::Duplicate => Error::not_found(Resource::Segment),
        })
    }

    /// # Errors
    /// [`Error::NotFound`]; those of the store.
    pub async fn get_segment(&self, tenant_id: TenantId, segment_id: SegmentId) -> Result<Segment> {
        self.store.get_segment(tenant_id, segment_id).await
    }

    /// # Errors
    /// [`Error::NotFound`]; those of the store.
    pub async fn list_segments(&self, list: ListSegments) -> Result<Page<Segment>> {
        let rows = self.store.list_segments(list.tenant_id, &list, list.size.get() + 1).await?;
        let position = |segment: &Segment| Cursor { order: segment.sort_order.into(), id: segment.id.as_uuid() };
        Ok(Page::from_rows(rows, list.size, &ListSegments::page_token_scope(list.tenant_id), position))
    }

    /// # Errors
    /// [`Error::NotFound`], [`Error::FailedPrecondition`]; those of the store.
    pub async fn delete_segment(&self, tenant_id: TenantId, segment_id: SegmentId) -> Result<()> {
        retry_on_conflict(|| self.store.delete_segment(tenant_id, segment_id)).await
    }
}

/// All missing fields of all items, or else the first thing that stands against it.
fn upsert_error(problems: &[(usize, Problem)], upserts: &[PackageUpsert], path: impl Fn(usize) -> String) -> Error {
    let mut violations = Violations::default();
    for &(index, problem) in problems {
        let (path, upsert) = (path(index), &upserts[index]);
        match problem {
            Problem::Incomplete => {
                if upsert.name.is_none() {
                    violations.add(format!("{path}name"), InvalidValue::missing());
                }
                if upsert.base_price.is_none() {
                    violations.add(format!("{path}base_price"), InvalidValue::missing());
                }
            }
            Problem::Duplicate => {
                let field = if upsert.target.id().is_some() { "package_id" } else { "slug" };
                let why = InvalidValue::new(Reason::BadFormat, "is about the same package as an item before it");
                violations.add(format!("{path}{field}"), why);
            }
            _ => {}
        }
    }
    if !violations.as_slice().is_empty() {
        return violations.into();
    }
    let Some(&(index, problem)) = problems.first() else {
        return Error::internal("refused without a reason");
    };
    let missing = |resource, field| Error::NotFound { resource, field: Some(format!("{}{field}", path(index))) };
    match problem {
        Problem::SegmentNotFound => missing(Resource::Segment, "segment_id"),
        Problem::SlugTaken => Error::already_exists(UniqueField::PackageSlug, upserts[index].target.slug()),
        Problem::NotFound | Problem::Incomplete | Problem::Duplicate | Problem::DefaultSegment => {
            missing(Resource::Package, "package_id")
        }
    }
}

/// Lines that operators count.
fn log_segments(
    tenant_id: TenantId,
    upserts: &[PackageUpsert],
    packages: &[UpsertResult<Package>],
    recreated_general: Option<SegmentId>,
) {
    if recreated_general.is_some() {
        tracing::warn!(%tenant_id, "General segment was missing and has been created again");
    }
    for (upsert, package) in upserts.iter().zip(packages) {
        if package.created && upsert.segment_id.is_none() {
            let segment_id = package.item.segment_id;
            tracing::debug!(%tenant_id, %segment_id, "Package auto-assigned to General segment");
        }
    }
}
