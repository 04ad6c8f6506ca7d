//! One tenant as the contract describes it: what each call does, and which events it leaves. Only the rules of the
//! calls that the clients make are here.

mod catalog;
mod change;
mod keys;
mod owners;

use turnkey::grpc::pb::OwnerTokenPurpose;

pub use self::change::Change;
use self::{
    catalog::{Items, confirms, default_packages, default_segments},
    keys::Key,
    owners::Owner,
};
use super::history::{Call, Operation, Outcome, Response, TenantView};
use crate::support::requests::PASSWORD;

/// The state of a tenant. `None` before it is created and after it is purged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State(Option<Tenant>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Tenant {
    id: String,
    name: String,
    is_active: bool,
    is_deleted: bool,
    owner: Option<Owner>,
    etag: Etag,
    /// Oldest first.
    keys: Vec<Key>,
    packages: Items,
    segments: Items,
    has_wrong_counts: bool,
}

/// `None` after a change without a response, until a read shows it.
type Etag = Option<String>;

/// The tenant of a history, and how it was created.
#[derive(Debug, Clone)]
pub struct Origin {
    pub slug: String,
    pub name: String,
    /// The address of a sign-up.
    pub owner: Option<String>,
}

/// A call that is applied: the state, and the events that follow.
struct Step<'a> {
    origin: &'a Origin,
    tenant: Option<Tenant>,
    changes: &'a [Change],
}

impl State {
    /// The state after the call and the number of its events, if its outcome and the next events are those of the
    /// contract.
    pub fn apply(&self, origin: &Origin, operation: &Operation, changes: &[Change]) -> Option<(Self, usize)> {
        let mut step = Step { origin, tenant: self.0.clone(), changes };
        let is_expected = match (step.run(operation)?, &operation.outcome) {
            (_, Outcome::Unknown) => true,
            (_, Outcome::Refused(reason)) if reason == "SLUG_TAKEN" => step.is_overtaken_by_purge(&operation.call),
            (Err(expected), Outcome::Refused(reason)) => expected == reason,
            (Ok(expected), Outcome::Ok(response)) => step.confirms(&operation.call, &expected, response),
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
    Owner { is_valid: bool },
    Token { purpose: OwnerTokenPurpose, has_owner: bool },
    Repaired { is_refilled: bool },
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
    fn run(&mut self, Operation { tenant_id, call, .. }: &Operation) -> Option<Result> {
        match &self.tenant {
            _ if !call.names_tenant() => self.call_without_tenant(call),
            Some(tenant) if tenant.id == *tenant_id => self.call_of_tenant(call),
            _ => Some(NO_TENANT),
        }
    }

    fn call_without_tenant(&mut self, call: &Call) -> Option<Result> {
        match call {
            Call::Create => self.create(),
            Call::VerifyKey { .. } => Some(Ok(Expected::Read)),
            _ => self.call_of_owner(call),
        }
    }

    fn call_of_tenant(&mut self, call: &Call) -> Option<Result> {
        let tenant = self.tenant.as_ref()?;
        if let Call::CreateKey { request_id } | Call::Rotate { request_id, .. } = call
            && let Some(index) = tenant.keys.iter().position(|key| key.request_id.as_ref() == Some(request_id))
        {
            return Some(Ok(Expected::Key { index, replayed: true }));
        }
        let accepts_deleted = matches!(
            call,
            Call::Delete { .. }
                | Call::Undelete
                | Call::Purge
                | Call::Damage
                | Call::Repair
                | Call::Revoke { .. }
                | Call::GetTenant
                | Call::ListKeys
        );
        if tenant.is_deleted && !accepts_deleted {
            return Some(NO_TENANT);
        }
        match call {
            Call::Rename { .. } | Call::SetActive(_) | Call::Delete { .. } | Call::Undelete => self.change_tenant(call),
            Call::Purge => self.purge(),
            Call::Damage => self.damage(),
            Call::Repair => self.repair(),
            Call::SetOwner { email, password } => self.set_owner(email, password.as_ref()),
            Call::CreateKey { request_id } => self.add_key(request_id, "api_key.created"),
            Call::Rotate { request_id, replaced, at_once } => self.rotate(request_id, replaced.as_ref(), *at_once),
            Call::Revoke { public_key } => self.revoke(public_key),
            Call::UpsertPackages { .. } | Call::DeletePackage { .. } => self.change_packages(call),
            Call::UpsertSegment { .. } | Call::DeleteSegment { .. } => self.change_segments(call),
            Call::GetTenant | Call::ListKeys | Call::ListPackages | Call::ListSegments => Some(Ok(Expected::Read)),
            _ => None,
        }
    }

    /// A repeat of a sign-up is recognized by the password too.
    fn create(&mut self) -> Option<Result> {
        let origin = self.origin;
        if let Some(tenant) = &self.tenant {
            let password = tenant.owner.as_ref().and_then(|owner| owner.password.as_deref());
            let is_recognized = origin.owner.is_none() || password == Some(PASSWORD);
            let replayed = Expected::Created { replayed: true };
            return Some(if is_recognized { Ok(replayed) } else { Err("REQUEST_ID_REUSED") });
        }
        let change = self.take("tenant.created", &[("slug", &origin.slug)])?;
        self.tenant = Some(Tenant {
            id: change.get("tenant_id").unwrap_or_default().to_owned(),
            name: origin.name.clone(),
            is_active: true,
            is_deleted: false,
            owner: origin.owner.as_ref().map(|email| Owner::new(email, Some(PASSWORD))),
            etag: None,
            keys: vec![Key::new(change.get("public_key")?, None)],
            packages: default_packages(),
            segments: default_segments(),
            has_wrong_counts: false,
        });
        Some(Ok(Expected::Created { replayed: false }))
    }

    /// Whether the call is a repeat of the creation at the moment of a purge. Its first statement finds the slug, and
    /// its second one no longer finds the record, so it is refused although no order of the two explains that.
    fn is_overtaken_by_purge(&self, call: &Call) -> bool {
        *call == Call::Create
            && self.tenant.is_some()
            && self.changes.first().is_some_and(|next| next.kind == "tenant.purged")
    }

    fn purge(&mut self) -> Option<Result> {
        let tenant = self.tenant.take_if(|tenant| tenant.is_deleted);
        let Some(tenant) = tenant else { return Some(Err("TENANT_NOT_DELETED")) };
        self.take("tenant.purged", &[("tenant_id", &tenant.id)])?;
        Some(Ok(Expected::Read))
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
            _ => return None,
        }
        Some(Ok(Expected::Read))
    }

    /// Compares a response with the state, and learns from it what the state lacks.
    fn confirms(&mut self, call: &Call, expected: &Expected, response: &Response) -> bool {
        match (call, response) {
            (Call::VerifyKey { public_key }, Response::Verdict(verdict)) => {
                return *verdict == self.tenant.as_ref().map_or("VERDICT_INVALID", |tenant| tenant.verdict(public_key));
            }
            (_, Response::Empty) => return matches!(expected, Expected::Read),
            (_, Response::Owner(None)) => return matches!(expected, Expected::Owner { is_valid: false }),
            (_, Response::Token(None)) => return matches!(expected, Expected::Token { has_owner: false, .. }),
            _ => {}
        }
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
            (Expected::Owner { is_valid }, Response::Owner(Some(id))) => *is_valid && tenant.id == *id,
            (Expected::Token { purpose, has_owner }, Response::Token(Some(text))) => {
                let token = tenant.owner.as_mut().and_then(|owner| owner.token_mut(*purpose).as_mut());
                *has_owner && token.is_some_and(|token| token.text.replace(text.clone()).is_none())
            }
            // The rest of the tenant is recorded as a read of its own.
            (Expected::Repaired { is_refilled }, Response::Repaired { tenant: view, packages }) => {
                let is_created = packages.iter().all(|view| confirms(&mut tenant.packages, view));
                let created = if *is_refilled { tenant.packages.len() } else { 0 };
                tenant.id == view.id && is_created && packages.len() == created
            }
            (Expected::Read, Response::Items(views)) => {
                let items = if *call == Call::ListSegments { &mut tenant.segments } else { &mut tenant.packages };
                items.len() == views.len() && views.iter().all(|view| confirms(items, view))
            }
            _ => false,
        }
    }
}

impl Tenant {
    fn confirms(&mut self, view: &TenantView) -> bool {
        let Self { name, is_active, is_deleted, owner, etag, .. } = self;
        let (email, is_verified) = owner.as_ref().map(|owner| (&owner.email, owner.is_verified)).unzip();
        (&view.name, view.is_active, view.is_deleted) == (name, *is_active, *is_deleted)
            && (view.owner.as_ref(), view.is_owner_verified) == (email, is_verified.unwrap_or_default())
            && *etag.get_or_insert_with(|| view.etag.clone()) == view.etag
            && self.id == view.id
    }
}

fn mismatches(given: Option<&String>, current: &Etag) -> bool {
    given.is_some_and(|given| current.as_ref() != Some(given))
}
