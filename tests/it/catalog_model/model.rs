//! An in-memory model of the catalog: the documented result of every call.

use std::{collections::BTreeSet, fmt::Debug};

use prost_types::Timestamp;
use turnkey::grpc::pb::{BookingType, Package, PackageUpsert, Segment, UpsertSegmentRequest};

use super::rules::{
    DEFAULT_SEGMENT, Expectation, LAST_PACKAGE, NO_PACKAGE, NO_SEGMENT, NO_TENANT, PACKAGE_SLUG_TAKEN, Rejection,
    SEGMENT_NOT_EMPTY, SEGMENT_SLUG_TAKEN, Violations, clear_empty, description_violation, expect_rejection_or_success,
    free_slug, id_violation, item_violations, name_field, name_violation, name_violation_in_upsert, note, price_field,
    slug_violation, stored_description, without_empty_texts,
};

/// An entity before and after an upsert. A new one lacks its id and its times, which only the service knows. A changed
/// one still has the old `updated_at`.
#[derive(Debug)]
pub struct UpsertResult<T> {
    pub before: Option<T>,
    pub after: T,
}

/// The position of an entity in a list.
pub type Position = (i32, String);

/// The common properties of packages and segments.
pub trait CatalogEntity: Clone + Debug + PartialEq {
    fn order(&self) -> i32;
    fn position(&self) -> Position {
        (self.order(), self.id().to_owned())
    }
    fn id(&self) -> &str;
    fn slug(&self) -> &str;
    /// The times of the creation and of the last change.
    fn times(&self) -> (Option<Timestamp>, Option<Timestamp>);
    fn etag(&self) -> &str;
    /// The same entity with the id, the times and the etag of another.
    fn with_generated_fields_of(self, by: &Self) -> Self;
    fn of(tenant: &mut Tenant) -> &mut Vec<Self>;
}

macro_rules! impl_catalog_entity {
    ($name:ident, $order:ident, $of:ident) => {
        impl CatalogEntity for $name {
            fn order(&self) -> i32 {
                self.$order
            }

            fn id(&self) -> &str {
                &self.id
            }

            fn slug(&self) -> &str {
                &self.slug
            }

            fn times(&self) -> (Option<Timestamp>, Option<Timestamp>) {
                (self.created_at, self.updated_at)
            }

            fn etag(&self) -> &str {
                &self.etag
            }

            fn with_generated_fields_of(self, by: &Self) -> Self {
                let (id, etag) = (by.id.clone(), by.etag.clone());
                Self { id, created_at: by.created_at, updated_at: by.updated_at, etag, ..self }
            }

            fn of(tenant: &mut Tenant) -> &mut Vec<Self> {
                &mut tenant.$of
            }
        }
    };
}
impl_catalog_entity!(Package, grouping_order, packages);
impl_catalog_entity!(Segment, sort_order, segments);

/// The list that a page token belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    pub of_packages: bool,
    pub tenant_id: String,
    pub segment_id: Option<String>,
    pub active: Option<bool>,
}

impl List {
    pub fn of_packages(tenant_id: &str) -> Self {
        Self { of_packages: true, tenant_id: tenant_id.to_owned(), segment_id: None, active: None }
    }

    pub fn of_segments(tenant_id: &str) -> Self {
        Self { of_packages: false, ..Self::of_packages(tenant_id) }
    }
}

/// A page token of the service and the position that it encodes.
#[derive(Debug, Clone)]
pub struct Token {
    pub text: String,
    pub list: List,
    pub after: Position,
}

#[derive(Debug, Default)]
pub struct Model {
    pub tenants: Vec<Tenant>,
    pub tokens: Vec<Token>,
    /// Ids that do not exist or no longer exist.
    pub deleted_ids: Vec<String>,
}

#[derive(Debug)]
pub struct Tenant {
    pub id: String,
    pub packages: Vec<Package>,
    pub segments: Vec<Segment>,
}

impl Model {
    fn tenant(&self, tenant_id: &str) -> Option<&Tenant> {
        self.tenants.iter().find(|tenant| tenant.id == tenant_id)
    }

    /// All items or none. `path` is the prefix of the fields of an item.
    pub fn upsert_packages(
        &self,
        tenant_id: &str,
        items: &[PackageUpsert],
        path: fn(usize) -> String,
    ) -> Expectation<Vec<UpsertResult<Package>>> {
        let items = &items.iter().map(without_empty_texts).collect::<Vec<_>>();
        let (mut must, mut may) = (Violations::new(), Violations::new());
        note(&mut must, "tenant_id", id_violation(tenant_id));
        note(&mut must, "packages", items.is_empty().then_some("MISSING_FIELD"));
        let violations_by_item: Vec<Violations> =
            items.iter().enumerate().map(|(number, item)| item_violations(item, &path(number))).collect();
        for (later, item) in items.iter().enumerate() {
            for (earlier, before) in items[..later].iter().enumerate() {
                let both_are_fine = violations_by_item[earlier].is_empty() && violations_by_item[later].is_empty();
                let into = if both_are_fine { &mut must } else { &mut may };
                let repeats = |one: &Option<String>, other| (one.is_some() && one == other).then_some("BAD_FORMAT");
                note(into, format!("{}package_id", path(later)), repeats(&item.package_id, &before.package_id));
                note(into, format!("{}slug", path(later)), repeats(&item.slug, &before.slug));
            }
        }
        must.extend(violations_by_item.into_iter().flatten());
        let tenant = self.tenant(tenant_id);
        let (missing, rejections) =
            tenant.map_or_else(|| (Violations::new(), vec![NO_TENANT]), |tenant| tenant.compare(items, path));
        expect_rejection_or_success(must, &may, missing, rejections)?;
        Ok(tenant.map(|tenant| tenant.with_upserts(items)).unwrap_or_default())
    }

    pub fn upsert_segment(&self, request: &UpsertSegmentRequest) -> Expectation<UpsertResult<Segment>> {
        let mut request = request.clone();
        let UpsertSegmentRequest { segment_id, slug, name, hero_title, .. } = &mut request;
        clear_empty(&mut [segment_id, slug, name, hero_title]);
        let mut must = Violations::new();
        let (id, slug, name) = (request.segment_id.as_deref(), request.slug.as_deref(), request.name.as_deref());
        note(&mut must, "tenant_id", id_violation(&request.tenant_id));
        note(&mut must, "segment_id", id.and_then(id_violation));
        note(&mut must, "slug", slug.and_then(slug_violation));
        note(&mut must, "name", name_violation_in_upsert(id, slug, name));
        note(&mut must, "hero_title", request.hero_title.as_deref().and_then(name_violation));
        note(&mut must, "description", request.description.as_deref().and_then(description_violation));

        let (mut missing, mut rejections) = (Violations::new(), Vec::new());
        let tenant = self.tenant(&request.tenant_id);
        let target = tenant.and_then(|tenant| target(&tenant.segments, id, slug)).cloned();
        match (tenant, &target) {
            (None, _) => rejections.push(NO_TENANT),
            (Some(_), None) if id.is_some() => rejections.push(NO_SEGMENT),
            (Some(_), None) => note(&mut missing, "name", name.is_none().then_some("MISSING_FIELD")),
            (Some(tenant), Some(target)) => {
                if target.slug == "general" && slug.is_some_and(|slug| slug != "general") {
                    rejections.push(DEFAULT_SEGMENT);
                }
                rejections.extend(slug_exists(&tenant.segments, slug, target).then_some(SEGMENT_SLUG_TAKEN));
            }
        }
        expect_rejection_or_success(must, &Violations::new(), missing, rejections)?;
        let segments = tenant.map(|tenant| tenant.segments.as_slice()).unwrap_or_default();
        let mut after = target.clone().unwrap_or_else(|| {
            let existing = segments.iter().map(|segment| segment.slug.clone()).collect();
            Segment {
                tenant_id: request.tenant_id.clone(),
                slug: slug.map_or_else(|| free_slug(name.unwrap_or_default(), &existing), str::to_owned),
                hero_title: name.unwrap_or_default().trim().to_owned(),
                sort_order: segments.iter().map(CatalogEntity::order).max().unwrap_or_default().saturating_add(1),
                active: true,
                ..Segment::default()
            }
        });
        set(&mut after.slug, slug.map(str::to_owned));
        set(&mut after.name, name.map(|name| name.trim().to_owned()));
        set(&mut after.hero_title, request.hero_title.as_deref().map(|title| title.trim().to_owned()));
        set(&mut after.description, request.description.as_deref().map(stored_description));
        set(&mut after.sort_order, request.sort_order);
        set(&mut after.active, request.active);
        Ok(UpsertResult { before: target, after })
    }

    pub fn get_package(&self, tenant_id: &str, package_id: &str) -> Expectation<Package> {
        let tenant = self.tenant_that_has(tenant_id, "package_id", package_id)?;
        tenant.package(package_id).cloned().ok_or_else(|| vec![NO_PACKAGE])
    }

    pub fn get_segment(&self, tenant_id: &str, segment_id: &str) -> Expectation<Segment> {
        let tenant = self.tenant_that_has(tenant_id, "segment_id", segment_id)?;
        tenant.segment(segment_id).cloned().ok_or_else(|| vec![NO_SEGMENT])
    }

    pub fn delete_package(&self, tenant_id: &str, package_id: &str) -> Expectation<Package> {
        let package = self.get_package(tenant_id, package_id)?;
        let is_last = self.tenant(tenant_id).is_some_and(|tenant| tenant.packages.len() == 1);
        if is_last { Err(vec![LAST_PACKAGE]) } else { Ok(package) }
    }

    pub fn delete_segment(&self, tenant_id: &str, segment_id: &str) -> Expectation<Segment> {
        let segment = self.get_segment(tenant_id, segment_id)?;
        let mut packages = self.tenant(tenant_id).into_iter().flat_map(|tenant| &tenant.packages);
        let mut rejections = Vec::new();
        rejections.extend((segment.slug == "general").then_some(DEFAULT_SEGMENT));
        rejections.extend(packages.any(|package| package.segment_id == segment_id).then_some(SEGMENT_NOT_EMPTY));
        if rejections.is_empty() { Ok(segment) } else { Err(rejections) }
    }

    fn tenant_that_has(&self, tenant_id: &str, field: &str, id: &str) -> Expectation<&Tenant> {
        let mut must = Violations::new();
        note(&mut must, "tenant_id", id_violation(tenant_id));
        note(&mut must, field, id_violation(id));
        expect_rejection_or_success(must, &Violations::new(), Violations::new(), Vec::new())?;
        self.tenant(tenant_id).ok_or_else(|| vec![NO_TENANT])
    }

    /// Returns a page, and whether another page follows.
    pub fn list_packages(&self, list: &List, size: i32, token: &str) -> Expectation<(Vec<Package>, bool)> {
        let is_listed = |package: &&Package| {
            list.segment_id.as_ref().is_none_or(|id| *id == package.segment_id)
                && list.active.is_none_or(|active| active == package.active)
        };
        self.page(list, size, token, |tenant| tenant.packages.iter().filter(is_listed).cloned().collect())
    }

    /// Returns a page, and whether another page follows.
    pub fn list_segments(&self, list: &List, size: i32, token: &str) -> Expectation<(Vec<Segment>, bool)> {
        self.page(list, size, token, |tenant| tenant.segments.clone())
    }

    fn page<T: CatalogEntity>(
        &self,
        list: &List,
        size: i32,
        token: &str,
        rows: impl Fn(&Tenant) -> Vec<T>,
    ) -> Expectation<(Vec<T>, bool)> {
        let (mut must, mut may) = (Violations::new(), Violations::new());
        note(&mut must, "tenant_id", id_violation(&list.tenant_id));
        note(&mut must, "segment_id", list.segment_id.as_deref().and_then(id_violation));
        let names_a_list = must.is_empty();
        note(&mut must, "page_size", (size < 0).then_some("OUT_OF_RANGE"));
        let known = self.tokens.iter().find(|known| known.text == token && known.list == *list);
        let bad_token = (known.is_none() && !token.is_empty()).then_some("BAD_FORMAT");
        note(if names_a_list { &mut must } else { &mut may }, "page_token", bad_token);
        expect_rejection_or_success(must, &may, Violations::new(), Vec::new())?;

        let tenant = self.tenant(&list.tenant_id).ok_or_else(|| vec![NO_TENANT])?;
        if list.segment_id.as_deref().is_some_and(|id| tenant.segment(id).is_none()) {
            return Err(vec![NO_SEGMENT]);
        }
        let mut rows = rows(tenant);
        rows.retain(|row| known.is_none_or(|known| row.position() > known.after));
        rows.sort_by_key(T::position);
        let size = if size == 0 { 50 } else { usize::try_from(size).unwrap_or_default().min(500) };
        let has_more = rows.len() > size;
        rows.truncate(size);
        Ok((rows, has_more))
    }

    /// Stores the result of an upsert.
    pub fn put<T: CatalogEntity>(&mut self, tenant_id: &str, entity: &T) {
        for tenant in self.tenants.iter_mut().filter(|tenant| tenant.id == tenant_id) {
            let entities = T::of(tenant);
            entities.retain(|other| other.id() != entity.id());
            entities.push(entity.clone());
            tenant.count_packages();
        }
    }

    /// Removes a deleted entity.
    pub fn remove<T: CatalogEntity>(&mut self, entity: &T) {
        self.deleted_ids.push(entity.id().to_owned());
        for tenant in &mut self.tenants {
            T::of(tenant).retain(|other| other.id() != entity.id());
            tenant.count_packages();
        }
    }
}

impl Tenant {
    /// Sets the count of each segment.
    fn count_packages(&mut self) {
        for segment in &mut self.segments {
            let in_segment = self.packages.iter().filter(|package| package.segment_id == segment.id);
            segment.package_count = i32::try_from(in_segment.count()).unwrap();
        }
    }

    fn package(&self, id: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.id == id)
    }

    fn segment(&self, id: &str) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.id == id)
    }

    /// Violations and other rejections that depend on the tenant, for items that are valid on their own.
    fn compare(&self, items: &[PackageUpsert], path: fn(usize) -> String) -> (Violations, Vec<Rejection>) {
        let (mut missing, mut rejections) = (Violations::new(), Vec::new());
        let targets: Vec<Option<&Package>> = items.iter().map(|item| self.target(item)).collect();
        for (number, item) in items.iter().enumerate() {
            let at = |field: &str| format!("{}{field}", path(number));
            match targets[number] {
                None if item.package_id.is_some() => rejections.push(NO_PACKAGE),
                None => {
                    note(&mut missing, at("name"), name_field(item).1.is_none().then_some("MISSING_FIELD"));
                    note(&mut missing, at("base_price"), price_field(item).1.is_none().then_some("MISSING_FIELD"));
                }
                Some(target) => {
                    let is_repeated = targets[..number].contains(&Some(target));
                    let field = if item.package_id.is_some() { "package_id" } else { "slug" };
                    note(&mut missing, at(field), is_repeated.then_some("BAD_FORMAT"));
                    let slug_exists = slug_exists(&self.packages, item.slug.as_deref(), target);
                    rejections.extend(slug_exists.then_some(PACKAGE_SLUG_TAKEN));
                }
            }
            let has_unknown_segment = item.segment_id.as_deref().is_some_and(|id| self.segment(id).is_none());
            rejections.extend(has_unknown_segment.then_some(NO_SEGMENT));
        }
        (missing, rejections)
    }

    fn with_upserts(&self, items: &[PackageUpsert]) -> Vec<UpsertResult<Package>> {
        let given = items.iter().filter_map(|item| item.grouping_order);
        let mut last = self.packages.iter().map(CatalogEntity::order).chain(given).max().unwrap_or_default();
        let named = items.iter().filter_map(|item| item.slug.as_ref());
        let mut existing: BTreeSet<String> =
            self.packages.iter().map(|package| &package.slug).chain(named).cloned().collect();
        let mut upsert = |item: &PackageUpsert| {
            let before = self.target(item).cloned();
            let name = name_field(item).1.map(|name| name.trim().to_owned());
            let mut after = before.clone().unwrap_or_else(|| {
                let slug =
                    item.slug.clone().unwrap_or_else(|| free_slug(name.as_deref().unwrap_or_default(), &existing));
                existing.insert(slug.clone());
                last = if item.grouping_order.is_none() { last.saturating_add(1) } else { last };
                Package {
                    tenant_id: self.id.clone(),
                    segment_id: self.general().id.clone(),
                    slug,
                    booking_type: BookingType::Date.into(),
                    grouping_order: last,
                    active: true,
                    ..Package::default()
                }
            });
            set(&mut after.slug, item.slug.clone());
            set(&mut after.name, name);
            set(&mut after.description, item.description.as_deref().map(stored_description));
            set(&mut after.base_price, price_field(item).1.map(Some));
            set(&mut after.booking_type, Some(item.booking_type).filter(|&number| number != 0));
            set(&mut after.active, item.active);
            set(&mut after.grouping_order, item.grouping_order);
            set(&mut after.segment_id, item.segment_id.clone());
            UpsertResult { before, after }
        };
        items.iter().map(&mut upsert).collect()
    }

    fn target(&self, item: &PackageUpsert) -> Option<&Package> {
        target(&self.packages, item.package_id.as_deref(), item.slug.as_deref())
    }

    fn general(&self) -> &Segment {
        self.segments.iter().find(|segment| segment.slug == "general").expect("every tenant has a General segment")
    }
}

/// The entity that an upsert changes: the one with the id, or else the one with the slug.
fn target<'a, T: CatalogEntity>(entities: &'a [T], id: Option<&str>, slug: Option<&str>) -> Option<&'a T> {
    entities.iter().find(|entity| id.map_or(Some(entity.slug()) == slug, |id| entity.id() == id))
}

fn slug_exists<T: CatalogEntity>(entities: &[T], slug: Option<&str>, target: &T) -> bool {
    entities.iter().any(|other| Some(other.slug()) == slug && other.id() != target.id())
}

/// Changes the field if a value is present.
fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}
