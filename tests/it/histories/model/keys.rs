//! The keys of a tenant.

use super::{Expected, Result, Step, Tenant};
use crate::histories::history::KeyView;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub public: String,
    /// `None` until a response contains it.
    secret: Option<String>,
    pub request_id: Option<String>,
    pub is_revoked: bool,
    is_rotated: bool,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum End {
    Past,
    Later,
    Never,
}

impl Key {
    pub fn new(public_key: &str, request_id: Option<String>) -> Self {
        let public = public_key.to_owned();
        Self { public, secret: None, request_id, is_revoked: false, is_rotated: false, end: End::Never }
    }

    fn verifies(&self) -> bool {
        !self.is_revoked && self.end != End::Past
    }

    fn replace(&mut self, at_once: bool) {
        self.end = self.end.min(if at_once { End::Past } else { End::Later });
        self.is_rotated = true;
    }

    pub fn view(&self) -> KeyView {
        KeyView { public_key: self.public.clone(), is_revoked: self.is_revoked, has_expiry: self.end != End::Never }
    }

    /// A response has the secret unless the key was rotated or revoked, and always the same.
    pub fn confirms(&mut self, secret: Option<&String>) -> bool {
        match secret {
            Some(secret) => {
                !self.is_revoked && !self.is_rotated && self.secret.get_or_insert_with(|| secret.clone()) == secret
            }
            None => self.is_revoked || self.is_rotated,
        }
    }
}

impl Step<'_> {
    pub(super) fn add_key(&mut self, request_id: &str, kind: &str) -> Option<Result> {
        let key = Key::new(self.take(kind, &[])?.get("public_key")?, Some(request_id.to_owned()));
        let keys = &mut self.tenant.as_mut()?.keys;
        keys.push(key);
        Some(Ok(Expected::Key { index: keys.len() - 1, replayed: false }))
    }

    /// Replaces one key, which must not have been replaced before, or all that verify.
    pub(super) fn rotate(&mut self, request_id: &str, replaced: Option<&String>, at_once: bool) -> Option<Result> {
        let mut keys = self.tenant.iter_mut().flat_map(|tenant| &mut tenant.keys);
        match replaced {
            None => keys.filter(|key| key.verifies()).for_each(|key| key.replace(at_once)),
            Some(public_key) => match keys.find(|key| key.public == *public_key) {
                None => return Some(Err("API_KEY_NOT_FOUND")),
                Some(key) if key.is_rotated || !key.verifies() => return Some(Err("API_KEY_ENDED")),
                Some(key) => key.replace(at_once),
            },
        }
        self.add_key(request_id, "api_key.rotated")
    }

    pub(super) fn revoke(&mut self, public_key: &str) -> Option<Result> {
        let mut keys = self.tenant.iter_mut().flat_map(|tenant| &mut tenant.keys);
        let Some(key) = keys.find(|key| key.public == public_key) else { return Some(Err("API_KEY_NOT_FOUND")) };
        if !key.is_revoked {
            key.is_revoked = true;
            self.take("api_key.revoked", &[("public_key", public_key)])?;
        }
        Some(Ok(Expected::Read))
    }

    /// Revokes all keys, with an event for each, in any order.
    pub(super) fn revoke_all(&mut self) -> Option<()> {
        let unrevoked = |tenant: &Tenant| tenant.keys.iter().filter(|key| !key.is_revoked).count();
        for _ in 0..self.tenant.as_ref().map_or(0, unrevoked) {
            let revoked = self.take("api_key.revoked", &[])?.get("public_key")?;
            let mut keys = self.tenant.iter_mut().flat_map(|tenant| &mut tenant.keys);
            keys.find(|key| key.public == revoked && !key.is_revoked)?.is_revoked = true;
        }
        Some(())
    }
}

impl Tenant {
    pub(super) fn verdict(&self, public_key: &str) -> &'static str {
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
