//! The packages and segments of a tenant, and their repair. `catalog_model` has the rules of the catalog in full.

use std::collections::BTreeMap;

use super::{ETAG_MISMATCH, Etag, Expected, Result, Step, mismatches};
use crate::histories::history::{Call, ItemView};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Item {
    /// `None` for what the tenant was created with, until a read shows it.
    id: Option<String>,
    value: Option<String>,
    etag: Etag,
}

pub(super) type Items = BTreeMap<String, Item>;

const DEFAULT_PACKAGES: [&str; 3] = ["basic-package", "premium-package", "standard-package"];

pub(super) fn default_packages() -> Items {
    DEFAULT_PACKAGES.iter().map(|slug| ((*slug).to_owned(), Item { id: None, value: None, etag: None })).collect()
}

pub(super) fn default_segments() -> Items {
    [("general".to_owned(), Item { id: None, value: None, etag: None })].into()
}

pub(super) fn confirms(items: &mut Items, view: &ItemView) -> bool {
    let Some(item) = items.get_mut(&view.slug) else { return false };
    *item.id.get_or_insert_with(|| view.id.clone()) == view.id
        && *item.value.get_or_insert_with(|| view.value.clone()) == view.value
        && *item.etag.get_or_insert_with(|| view.etag.clone()) == view.etag
}

impl Step<'_> {
    pub(super) fn change_packages(&mut self, call: &Call) -> Option<Result> {
        let mut packages = std::mem::take(&mut self.tenant.as_mut()?.packages);
        let result = match call {
            Call::UpsertPackages { items, etag } => {
                let items: Vec<_> = items.iter().map(|(slug, price)| (slug.as_str(), price.to_string())).collect();
                self.upsert(&mut packages, &items, etag.as_ref(), ["package", "base_price"])
            }
            Call::DeletePackage { id, etag } => {
                self.delete(&mut packages, id, etag.as_ref(), "package", "PACKAGE_NOT_FOUND")
            }
            _ => None,
        };
        self.tenant.as_mut()?.packages = packages;
        result
    }

    pub(super) fn change_segments(&mut self, call: &Call) -> Option<Result> {
        let mut segments = std::mem::take(&mut self.tenant.as_mut()?.segments);
        let result = match call {
            Call::UpsertSegment { slug, name, etag } => {
                self.upsert(&mut segments, &[(slug, name.clone())], etag.as_ref(), ["segment", "name"])
            }
            Call::DeleteSegment { id, etag } => {
                self.delete(&mut segments, id, etag.as_ref(), "segment", "SEGMENT_NOT_FOUND")
            }
            _ => None,
        };
        self.tenant.as_mut()?.segments = segments;
        result
    }

    fn upsert(
        &mut self,
        items: &mut Items,
        upserts: &[(&str, String)],
        etag: Option<&String>,
        [noun, field]: [&str; 2],
    ) -> Option<Result> {
        let is_refused = |slug: &str| match items.get(slug) {
            Some(item) => mismatches(etag, &item.etag),
            None => etag.is_some(),
        };
        if upserts.iter().any(|(slug, _)| is_refused(slug)) {
            return Some(ETAG_MISMATCH);
        }
        let mut created = Vec::new();
        let id_field = format!("{noun}_id");
        for (slug, value) in upserts {
            if let Some(item) = items.get_mut(*slug) {
                let change = self.take(&format!("{noun}.updated"), &[(field, value)])?;
                let id = change.get(&id_field)?.to_owned();
                if item.id.as_ref().is_some_and(|known| *known != id) {
                    return None;
                }
                *item = Item { id: Some(id), value: Some(value.clone()), etag: None };
                created.push(false);
            } else {
                let change = self.take(&format!("{noun}.created"), &[("slug", slug), (field, value)])?;
                let id = change.get(&id_field).map(str::to_owned);
                items.insert((*slug).to_owned(), Item { id, value: Some(value.clone()), etag: None });
                created.push(true);
            }
        }
        Some(Ok(Expected::Upserted(created)))
    }

    fn delete(
        &mut self,
        items: &mut Items,
        id: &str,
        etag: Option<&String>,
        noun: &str,
        missing: &'static str,
    ) -> Option<Result> {
        let found = items.iter().find(|(_, item)| item.id.as_deref() == Some(id));
        let Some((slug, item)) = found.map(|(slug, item)| (slug.clone(), item)) else { return Some(Err(missing)) };
        if mismatches(etag, &item.etag) {
            return Some(ETAG_MISMATCH);
        }
        if items.len() == 1 {
            // Only of packages: the General segment is never deleted.
            return Some(Err("LAST_PACKAGE"));
        }
        items.remove(&slug);
        self.take(&format!("{noun}.deleted"), &[(&format!("{noun}_id"), id)])?;
        Some(Ok(Expected::Read))
    }

    /// Deletes all packages, and leaves counts that are too high.
    pub(super) fn damage(&mut self) -> Option<Result> {
        let tenant = self.tenant.as_mut()?;
        tenant.has_wrong_counts |= !tenant.packages.is_empty();
        tenant.packages.clear();
        Some(Ok(Expected::Read))
    }

    /// Creates the default packages if there are none, and counts again. An intact tenant has no event.
    pub(super) fn repair(&mut self) -> Option<Result> {
        let tenant = self.tenant.as_mut()?;
        if !tenant.has_wrong_counts {
            return Some(Ok(Expected::Repaired { is_refilled: false }));
        }
        let is_refilled = tenant.packages.is_empty();
        if is_refilled {
            tenant.packages = default_packages();
        }
        tenant.has_wrong_counts = false;
        self.take("tenant.repaired", &[("packages_created", if is_refilled { "3" } else { "0" })])?;
        Some(Ok(Expected::Repaired { is_refilled }))
    }
}
