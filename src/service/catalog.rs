//! A tenant's packages and segments.

use rand::rngs::SysRng;

use super::{clock::Clock, identity::new_id, retry::retrying};
use crate::{
    domain::{
        Invalid, Package, PackageId, Reason, Segment, SegmentId, TenantId, Violations,
        catalog::{ListPackages, ListSegments, PackageUpsert, PackageUpserts, Problem, SegmentUpsert, Upserted},
        paging::{Page, Position},
    },
    error::{Error, Resource, Result, Rule, Taken},
    store::{NewIds, Store},
};

/// The use cases of `PackageCatalog`.
#[derive(Debug)]
pub struct Catalog {
    pub store: Store,
    pub clock: Clock,
}

impl Catalog {
    /// # Errors
    /// What stands against it; those of the store.
    pub async fn upsert_package(&self, tenant_id: TenantId, upsert: PackageUpsert) -> Result<Upserted<Package>> {
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
    ) -> Result<Vec<Upserted<Package>>> {
        self.upsert_all(tenant_id, &upserts, |index| format!("packages[{index}].")).await
    }

    async fn upsert_all(
        &self,
        tenant_id: TenantId,
        upserts: &[PackageUpsert],
        path: impl Fn(usize) -> String,
    ) -> Result<Vec<Upserted<Package>>> {
        let now = self.clock.now();
        let id = || new_id(now, &mut SysRng).map_err(Error::internal);
        let packages = upserts.iter().map(|_| id().map(PackageId::from_uuid)).collect::<Result<_>>()?;
        let ids = NewIds { packages, general: SegmentId::from_uuid(id()?) };
        match retrying(|| self.store.upsert_packages(tenant_id, upserts, &ids, now)).await? {
            PackageUpserts::Done { packages, recreated_general } => {
                log_segments(tenant_id, upserts, &packages, recreated_general);
                Ok(packages)
            }
            PackageUpserts::Refused(problems) => Err(refusal(&problems, upserts, path)),
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
        let position = |package: &Package| Position { order: package.grouping_order.into(), id: package.id.as_uuid() };
        Ok(Page::cut(rows, list.size, &list.filter.binding(list.tenant_id), position))
    }

    /// # Errors
    /// [`Error::NotFound`], [`Error::Refused`]; those of the store.
    pub async fn delete_package(&self, tenant_id: TenantId, package_id: PackageId) -> Result<()> {
        retrying(|| self.store.delete_package(tenant_id, package_id)).await
    }

    /// # Errors
    /// What stands against it; those of the store.
    pub async fn upsert_segment(&self, tenant_id: TenantId, upsert: SegmentUpsert) -> Result<Upserted<Segment>> {
        let now = self.clock.now();
        let new_id = SegmentId::from_uuid(new_id(now, &mut SysRng).map_err(Error::internal)?);
        let outcome = retrying(|| self.store.upsert_segment(tenant_id, &upsert, new_id, now)).await?;
        outcome.map_err(|problem| match problem {
            Problem::Incomplete => {
                let mut violations = Violations::default();
                violations.add("name", Invalid::missing());
                violations.into()
            }
            Problem::SlugTaken => taken(Taken::SegmentSlug, upsert.target.slug()),
            Problem::DefaultSegment => Error::Refused(Rule::DefaultSegment),
            Problem::NotFound | Problem::SegmentNotFound | Problem::Repeated => Error::not_found(Resource::Segment),
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
        let position = |segment: &Segment| Position { order: segment.sort_order.into(), id: segment.id.as_uuid() };
        Ok(Page::cut(rows, list.size, &ListSegments::binding(list.tenant_id), position))
    }

    /// # Errors
    /// [`Error::NotFound`], [`Error::Refused`]; those of the store.
    pub async fn delete_segment(&self, tenant_id: TenantId, segment_id: SegmentId) -> Result<()> {
        retrying(|| self.store.delete_segment(tenant_id, segment_id)).await
    }
}

/// All missing fields of all items, or else the first thing that stands against it.
fn refusal(problems: &[(usize, Problem)], upserts: &[PackageUpsert], path: impl Fn(usize) -> String) -> Error {
    let mut violations = Violations::default();
    for &(index, problem) in problems {
        let (path, upsert) = (path(index), &upserts[index]);
        match problem {
            Problem::Incomplete => {
                if upsert.name.is_none() {
                    violations.add(format!("{path}name"), Invalid::missing());
                }
                if upsert.base_price.is_none() {
                    violations.add(format!("{path}base_price"), Invalid::missing());
                }
            }
            Problem::Repeated => {
                let field = if upsert.target.id().is_some() { "package_id" } else { "slug" };
                let why = Invalid::new(Reason::BadFormat, "is about the same package as an item before it");
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
    let missing = |resource, field| Error::NotFound { resource, field: format!("{}{field}", path(index)) };
    match problem {
        Problem::SegmentNotFound => missing(Resource::Segment, "segment_id"),
        Problem::SlugTaken => taken(Taken::PackageSlug, upserts[index].target.slug()),
        Problem::NotFound | Problem::Incomplete | Problem::Repeated | Problem::DefaultSegment => {
            missing(Resource::Package, "package_id")
        }
    }
}

fn taken(what: Taken, slug: Option<&str>) -> Error {
    Error::taken(what, slug.unwrap_or_default())
}

/// Lines that operators count.
fn log_segments(
    tenant_id: TenantId,
    upserts: &[PackageUpsert],
    packages: &[Upserted<Package>],
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
