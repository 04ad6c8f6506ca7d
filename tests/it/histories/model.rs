//! One tenant as the contract describes it: what each call does, and which events it leaves. `catalog_model` has the rules
//! of the catalog in full; here are only those of the calls that the clients make.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use turnkey::grpc::pb::Event;

use super::history::{Call, ItemView, KeyView, Outcome, Response, TenantView};

/// What an event says, and what it tells of ids that no response contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: String,
    /// The texts of its data, with numbers as texts. Lists are left out.
    data: BTreeMap<String, String>,
}

/// The state of a tenant. `None` before it is created.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State(Option<Tenant>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Tenant {
    id: String,
    name: String,
    is_active: bool,
    is_deleted: bool,
    owner: Option<String>,
    /// Whether the owner has the password of the sign-up, by which a repeat of it is recognized.
    has_signup_password: bool,
    etag: Etag,
    /// Oldest first.
    keys: Vec<Key>,
    packages: BTreeMap<String, Item>,
    segments: BTreeMap<String, Item>,
}

/// `None` after a change without a response, until a read shows it.
type Etag = Option<String>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    public: String,
    /// `None` until a response contains it.
    secret: Option<String>,
    request_id: Option<String>,
    is_revoked: bool,
    is_rotated: bool,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum End {
    Past,
    Later,
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Item {
    /// `None` for what the tenant was created with, until a read shows it.
    id: Option<String>,
    value: Option<String>,
    etag: Etag,
}

/// The tenant of a history, and how it was created.
#[derive(Debug, Clone)]
pub struct Origin {
    pub slug: String,
    pub name: String,
    pub owner: Option<String>,
}

const DEFAULT_PACKAGES: [&str; 3] = ["basic-package", "premium-package", "standard-package"];

impl Change {
    pub fn of(event: &Event) -> Self {
        let text = |kind: &Kind| match kind {
            Kind::StringValue(text) => Some(text.clone()),
            Kind::NumberValue(number) => Some(format!("{number}")),
            Kind::BoolValue(is_true) => Some(is_true.to_string()),
            _ => None,
        };
        let fields = event.data.iter().flat_map(|data| &data.fields);
        let data = fields.filter_map(|(name, value)| Some((name.clone(), text(value.kind.as_ref()?)?)));
        let tenant_id = ("tenant_id".to_owned(), event.tenant_id.clone());
        Self { kind: event.r#type.clone(), data: data.chain([tenant_id]).collect() }
    }

    pub fn new(kind: &str, data: &[(&str, &str)]) -> Self {
        let data = data.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { kind: kind.to_owned(), data }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.data.get(name).map(String::as_str)
    }

    /// Whether it is of this kind and has these data.
    fn has(&self, kind: &str, data: &[(&str, &str)]) -> bool {
        self.kind == kind && data.iter().all(|(name, value)| self.get(name) == Some(value))
    }
}

impl Call {
    /// Whether this can be the first event of the call.
    pub fn may_leave(&self, change: &Change) -> bool {
        match self {
            Self::Create => change.kind == "tenant.created",
            Self::Rename { name, .. } => change.has("tenant.updated", &[("name", name)]),
            Self::SetActive(true) => change.kind == "tenant.reactivated",
            Self::SetActive(false) => change.kind == "tenant.suspended",
            Self::Delete { .. } => change.kind == "tenant.deleted",
            Self::Undelete => change.kind == "tenant.undeleted",
            Self::SetOwner { .. } => change.kind == "owner.set",
            Self::CreateKey { .. } => change.kind == "api_key.created",
            Self::Rotate { .. } => change.kind == "api_key.rotated",
            Self::Revoke { public_key } => change.has("api_key.revoked", &[("public_key", public_key)]),
            Self::UpsertPackages { items, .. } => change.get("base_price") == Some(&items[0].1.to_string()),
            Self::DeletePackage { id, .. } => change.has("package.deleted", &[("package_id", id)]),
            Self::UpsertSegment { name, .. } => change.get("name") == Some(name),
            Self::DeleteSegment { id, .. } => change.has("segment.deleted", &[("segment_id", id)]),
            _ => false,
        }
    }
}

/// A call that is applied: the state, and the events that follow.
struct Step<'a> {
    origin: &'a Origin,
    tenant: Option<Tenant>,
    changes: &'a [Change],
}

impl State {
    /// The state after the call and the number of its events, if its outcome and the next events are those of the contract.
    pub fn apply(&self, origin: &Origin, call: &Call, outcome: &Outcome, changes: &[Change]) -> Option<(Self, usize)> {
        let mut step = Step { origin, tenant: self.0.clone(), changes };
        let is_expected = match (step.run(call)?, outcome) {
            (_, Outcome::Unknown) => true,
            (Err(expected), Outcome::Refused(reason)) => expected == reason,
            (Ok(expected), Outcome::Ok(response)) => step.confirms(call, &expected, response),
            _ => false,
        };
        is_expected.then(|| (Self(step.tenant), changes.len() - step.changes.len()))
    }
}

/// What a response must contain besides the state.
enum Expected {
    Read,
    Created { replayed: bool },
    Key { index: usize, replayed: bool },
    Upserted(Vec<bool>),
}

type Result = std::result::Result<Expected, &'static str>;

const NO_TENANT: Result = Err("TENANT_NOT_FOUND");
const ETAG_MISMATCH: Result = Err("ETAG_MISMATCH");

impl<'a> Step<'a> {
    /// Takes the next event, which must be this one.
    fn take(&mut self, kind: &str, data: &[(&str, &str)]) -> Option<&'a Change> {
        let (next, rest) = self.changes.split_first()?;
        next.has(kind, data).then(|| {
            self.changes = rest;
            next
        })
    }

    /// `None`: the next event is not that of the call.
    fn run(&mut self, call: &Call) -> Option<Result> {
        if *call == Call::Create {
            return self.create();
        }
        let Some(tenant) = &self.tenant else { return Some(NO_TENANT) };
        let needs_life = !matches!(
            call,
            Call::Delete { .. }
                | Call::Undelete
                | Call::Revoke { .. }
                | Call::GetTenant
                | Call::ListKeys
                | Call::Verify { .. }
        );
        if let Call::CreateKey { request_id } | Call::Rotate { request_id, .. } = call
            && let Some(index) = tenant.keys.iter().position(|key| key.request_id.as_ref() == Some(request_id))
        {
            return Some(Ok(Expected::Key { index, replayed: true }));
        }
        if needs_life && tenant.is_deleted {
            return Some(NO_TENANT);
        }
        match call {
            Call::Rename { .. } | Call::SetActive(_) | Call::Delete { .. } | Call::Undelete | Call::SetOwner { .. } => {
                self.change_tenant(call)
            }
            Call::CreateKey { request_id } => self.add_key(request_id, "api_key.created"),
            Call::Rotate { request_id, at_once } => {
                let end = if *at_once { End::Past } else { End::Later };
                for key in self.tenant.iter_mut().flat_map(|tenant| &mut tenant.keys).filter(|key| key.verifies()) {
                    key.end = key.end.min(end);
                    key.is_rotated = true;
                }
                self.add_key(request_id, "api_key.rotated")
            }
            Call::Revoke { public_key } => self.revoke(public_key),
            Call::UpsertPackages { .. } | Call::DeletePackage { .. } => self.change_packages(call),
            Call::UpsertSegment { .. } | Call::DeleteSegment { .. } => self.change_segments(call),
            Call::GetTenant | Call::ListKeys | Call::Verify { .. } | Call::ListPackages | Call::ListSegments => {
                Some(Ok(Expected::Read))
            }
            Call::Create => None,
        }
    }

    fn create(&mut self) -> Option<Result> {
        let origin = self.origin;
        if let Some(tenant) = &self.tenant {
            let is_recognized = origin.owner.is_none() || tenant.has_signup_password;
            let replayed = Expected::Created { replayed: true };
            return Some(if is_recognized { Ok(replayed) } else { Err("REQUEST_ID_REUSED") });
        }
        let change = self.take("tenant.created", &[("slug", &origin.slug)])?;
        let item = || Item { id: None, value: None, etag: None };
        self.tenant = Some(Tenant {
            id: change.get("tenant_id").unwrap_or_default().to_owned(),
            name: origin.name.clone(),
            is_active: true,
            is_deleted: false,
            owner: origin.owner.clone(),
            has_signup_password: origin.owner.is_some(),
            etag: None,
            keys: vec![Key::new(change.get("public_key")?, None)],
            packages: DEFAULT_PACKAGES.iter().map(|slug| ((*slug).to_owned(), item())).collect(),
            segments: [("general".to_owned(), item())].into(),
        });
        Some(Ok(Expected::Created { replayed: false }))
    }

    fn change_tenant(&mut self, call: &Call) -> Option<Result> {
        let tenant = self.tenant.as_mut()?;
        let (etag, is_same) = match call {
            Call::Rename { etag, .. } => (etag.as_ref(), false),
            Call::Delete { etag } => (etag.as_ref(), tenant.is_deleted),
            Call::Undelete => (None, !tenant.is_deleted),
            Call::SetActive(is_active) => (None, tenant.is_active == *is_active),
            _ => (None, false),
        };
        if mismatches(etag, &tenant.etag) {
            return Some(ETAG_MISMATCH);
        }
        if is_same {
            return Some(Ok(Expected::Read));
        }
        tenant.etag = None;
        match call {
            Call::Rename { name, .. } => {
                tenant.name.clone_from(name);
                self.take("tenant.updated", &[("name", name)])?;
            }
            Call::SetActive(is_active) => {
                tenant.is_active = *is_active;
                self.take(if *is_active { "tenant.reactivated" } else { "tenant.suspended" }, &[])?;
            }
            Call::Delete { .. } => {
                tenant.is_deleted = true;
                self.take("tenant.deleted", &[])?;
            }
            Call::Undelete => {
                tenant.is_deleted = false;
                self.take("tenant.undeleted", &[])?;
            }
            Call::SetOwner { email } => {
                tenant.owner = Some(email.clone());
                tenant.has_signup_password = false;
                self.take("owner.set", &[("is_new_address", "true")])?;
            }
            _ => return None,
        }
        Some(Ok(Expected::Read))
    }

    fn add_key(&mut self, request_id: &str, kind: &str) -> Option<Result> {
        let key = Key::new(self.take(kind, &[])?.get("public_key")?, Some(request_id.to_owned()));
        let keys = &mut self.tenant.as_mut()?.keys;
        keys.push(key);
        Some(Ok(Expected::Key { index: keys.len() - 1, replayed: false }))
    }

    fn revoke(&mut self, public_key: &str) -> Option<Result> {
        let mut keys = self.tenant.iter_mut().flat_map(|tenant| &mut tenant.keys);
        let Some(key) = keys.find(|key| key.public == public_key) else { return Some(Err("API_KEY_NOT_FOUND")) };
        if !key.is_revoked {
            key.is_revoked = true;
            self.take("api_key.revoked", &[("public_key", public_key)])?;
        }
        Some(Ok(Expected::Read))
    }

    fn change_packages(&mut self, call: &Call) -> Option<Result> {
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

    fn change_segments(&mut self, call: &Call) -> Option<Result> {
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
        items: &mut BTreeMap<String, Item>,
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
        items: &mut BTreeMap<String, Item>,
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
        items.remove(&slug);
        self.take(&format!("{noun}.deleted"), &[(&format!("{noun}_id"), id)])?;
        Some(Ok(Expected::Read))
    }

    /// Compares a response with the state, and learns from it what the state lacks.
    fn confirms(&mut self, call: &Call, expected: &Expected, response: &Response) -> bool {
        let Some(tenant) = &mut self.tenant else { return false };
        match (expected, response) {
            (Expected::Created { replayed }, Response::Created { tenant: view, secret, replayed: is_replayed }) => {
                tenant.confirms(view) && replayed == is_replayed && tenant.keys[0].confirms(secret.as_ref())
            }
            (Expected::Key { index, replayed }, Response::Key { public_key, secret, replayed: is_replayed }) => {
                let key = &mut tenant.keys[*index];
                key.public == *public_key && replayed == is_replayed && key.confirms(secret.as_ref())
            }
            (Expected::Upserted(created), Response::Upserted(results)) => {
                let items = if matches!(call, Call::UpsertSegment { .. }) {
                    &mut tenant.segments
                } else {
                    &mut tenant.packages
                };
                let is_created = results.iter().map(|(is_created, _)| is_created);
                is_created.eq(created) && results.iter().all(|(_, view)| confirms(items, view))
            }
            (Expected::Read, Response::Tenant(view)) => tenant.confirms(view),
            (Expected::Read, Response::Keys(views)) => {
                tenant.keys.iter().rev().map(Key::view).eq(views.iter().cloned())
            }
            (Expected::Read, Response::Revoked(view)) => tenant.keys.iter().any(|key| key.view() == *view),
            (Expected::Read, Response::Verdict(verdict)) => {
                let Call::Verify { public_key } = call else { return false };
                *verdict == tenant.verdict(public_key)
            }
            (Expected::Read, Response::Items(views)) => {
                let items = if *call == Call::ListSegments { &mut tenant.segments } else { &mut tenant.packages };
                items.len() == views.len() && views.iter().all(|view| confirms(items, view))
            }
            (Expected::Read, Response::Empty) => true,
            _ => false,
        }
    }
}

impl Tenant {
    fn confirms(&mut self, view: &TenantView) -> bool {
        let Self { name, is_active, is_deleted, owner, etag, .. } = self;
        (&view.name, view.is_active, view.is_deleted, &view.owner) == (name, *is_active, *is_deleted, owner)
            && *etag.get_or_insert_with(|| view.etag.clone()) == view.etag
            && self.id == view.id
    }

    fn verdict(&self, public_key: &str) -> &'static str {
        match self.keys.iter().find(|key| key.public == public_key) {
            None => "VERDICT_INVALID",
            Some(_) if self.is_deleted => "VERDICT_INVALID",
            Some(key) if key.is_revoked => "VERDICT_REVOKED",
            Some(key) if key.end == End::Past => "VERDICT_EXPIRED",
            Some(_) if self.is_active => "VERDICT_VALID",
            Some(_) => "VERDICT_TENANT_SUSPENDED",
        }
    }
}

impl Key {
    fn new(public_key: &str, request_id: Option<String>) -> Self {
        let public = public_key.to_owned();
        Self { public, secret: None, request_id, is_revoked: false, is_rotated: false, end: End::Never }
    }

    fn verifies(&self) -> bool {
        !self.is_revoked && self.end != End::Past
    }

    fn view(&self) -> KeyView {
        KeyView { public_key: self.public.clone(), is_revoked: self.is_revoked, has_expiry: self.end != End::Never }
    }

    /// A response has the secret unless the key was rotated or revoked, and always the same.
    fn confirms(&mut self, secret: Option<&String>) -> bool {
        match secret {
            Some(secret) => {
                !self.is_revoked && !self.is_rotated && self.secret.get_or_insert_with(|| secret.clone()) == secret
            }
            None => self.is_revoked || self.is_rotated,
        }
    }
}

fn mismatches(given: Option<&String>, current: &Etag) -> bool {
    given.is_some_and(|given| current.as_ref() != Some(given))
}

fn confirms(items: &mut BTreeMap<String, Item>, view: &ItemView) -> bool {
    let Some(item) = items.get_mut(&view.slug) else { return false };
    *item.id.get_or_insert_with(|| view.id.clone()) == view.id
        && *item.value.get_or_insert_with(|| view.value.clone()) == view.value
        && *item.etag.get_or_insert_with(|| view.etag.clone()) == view.etag
}
