//! The database of the model: the tables that the protocol uses, and its two queries.

use crate::{protocol::Item, rules::Rule};

/// How long a replay has the secret, in hours.
pub const SECRET_LIFETIME: u16 = 24;
/// How long a record is in force, in hours.
pub const RECORD_LIFETIME: u16 = 30 * 24;

/// Identifies an attempt of a client, and what its server draws for it: the ids and the salt.
pub type AttemptId = u8;
/// Hours since the start.
pub type Time = u16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rpc {
    CreateFullyProvisioned,
    /// Creates a key, which has no slug. Rotations use the record in the same way.
    CreateApiKey,
}

/// A call. Everything except its caller, RPC and request id is its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    pub caller: u8,
    pub rpc: Rpc,
    /// The request id.
    pub id: Option<u8>,
    pub slug: Option<u8>,
    pub name: u8,
}

/// What a request id is unique in, and the request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    caller: Option<u8>,
    rpc: Option<Rpc>,
    request_id: u8,
}

pub type Fingerprint = (Option<u8>, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Secret {
    Derived { request_id: u8, salt: AttemptId },
    Random(AttemptId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    pub scope: Scope,
    fingerprint: Fingerprint,
    /// `None` once the cleanup has deleted it.
    salt: Option<AttemptId>,
    /// The tenant or key that the call created.
    pub created: AttemptId,
    pub created_at: Time,
}

/// A tenant with its key, or a key. Never deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant {
    pub id: AttemptId,
    /// The call that created it.
    pub request: Request,
    pub created_at: Time,
    pub committed_at: Time,
    /// What the hash of its key accepts.
    pub secret: Secret,
    /// Whether its key was rotated or revoked.
    pub key_has_ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Database {
    pub records: Vec<Record>,
    pub tenants: Vec<Tenant>,
}

/// What the statement did for an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Insertion {
    Created,
    /// The slug exists, or the request id has a record. Nothing was written.
    Exists,
}

/// What the second query found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lookup {
    NoRecord,
    OtherPayload,
    Replay { id: AttemptId, secret: Option<Secret>, age: Time, key_has_ended: bool },
}

impl Request {
    /// The scope and the request id, without what the omitted rules ignore.
    pub fn scope(self, omitted: Option<Rule>) -> Option<Scope> {
        self.id.map(|request_id| Scope {
            caller: Some(self.caller).filter(|_| omitted != Some(Rule::ScopeHasCaller)),
            rpc: Some(self.rpc).filter(|_| omitted != Some(Rule::ScopeHasRpc)),
            request_id,
        })
    }

    pub fn fingerprint(self) -> Fingerprint {
        (self.slug, self.name)
    }

    /// The secret of the key that this attempt creates.
    pub fn secret(self, attempt: AttemptId) -> Secret {
        self.id.map_or(Secret::Random(attempt), |request_id| Secret::Derived { request_id, salt: attempt })
    }
}

impl Database {
    pub fn tenant(&self, id: AttemptId) -> Option<&Tenant> {
        self.tenants.iter().find(|tenant| tenant.id == id)
    }

    pub fn has_slug(&self, slug: Option<u8>) -> bool {
        slug.is_some() && self.tenants.iter().any(|tenant| tenant.request.slug == slug)
    }

    /// The statement with this snapshot, from its inserts on. `None`: a slug was lost to a race, and nothing was
    /// written.
    pub fn insert(
        &mut self,
        items: &[Item],
        snapshot: &Self,
        now: Time,
        omitted: Option<Rule>,
    ) -> Option<Vec<Insertion>> {
        let mut after = self.clone();
        let mut insertions = Vec::new();
        for item in items {
            insertions.push(after.insert_record(item, snapshot, omitted));
        }
        for (item, insertion) in items.iter().zip(&insertions) {
            if *insertion == Insertion::Created
                && !after.insert_tenant(item, now)
                && omitted != Some(Rule::LostSlugRollsBack)
            {
                return None;
            }
        }
        *self = after;
        Some(insertions)
    }

    /// Inserts the record of an item, if it has a request id. `Created`: its tenant is to be inserted.
    pub fn insert_record(&mut self, item: &Item, snapshot: &Self, omitted: Option<Rule>) -> Insertion {
        let is_free = !snapshot.has_slug(item.request.slug);
        if !is_free && omitted != Some(Rule::RefusedCallWritesNoRecord) {
            return Insertion::Exists;
        }
        if let Some(scope) = item.request.scope(omitted) {
            let fingerprint = item.request.fingerprint();
            let (created, created_at) = (item.attempt, item.created_at);
            let record = Record { scope, fingerprint, salt: Some(item.attempt), created, created_at };
            let existing = self.records.iter_mut().find(|record| record.scope == scope);
            match existing.filter(|_| omitted != Some(Rule::RecordIsUnique)) {
                None => self.records.push(record),
                Some(existing) if existing.is_replaceable(item, snapshot, omitted) => *existing = record,
                Some(_) => return Insertion::Exists,
            }
        }
        if is_free { Insertion::Created } else { Insertion::Exists }
    }

    /// Inserts the tenant of an item. Returns false if its slug exists.
    pub fn insert_tenant(&mut self, item: &Item, now: Time) -> bool {
        let is_free = !self.has_slug(item.request.slug);
        if is_free {
            let secret = item.request.secret(item.attempt);
            let (id, request, created_at) = (item.attempt, item.request, item.created_at);
            self.tenants.push(Tenant { id, request, created_at, committed_at: now, secret, key_has_ended: false });
            self.tenants.sort();
        }
        is_free
    }

    /// The second query: finds the record of an item that was not created.
    pub fn look_up(&self, item: &Item, now: Time, omitted: Option<Rule>) -> Lookup {
        let is_in_force =
            |record: &Record| now - record.created_at < RECORD_LIFETIME || omitted == Some(Rule::RecordEndsAfter30Days);
        let scope = item.request.scope(omitted);
        let mut found = self.records.iter().filter(|record| Some(record.scope) == scope && is_in_force(record));
        let found = found.find_map(|record| Some((record, self.tenant(record.created)?)));
        let Some((record, tenant)) = found else { return Lookup::NoRecord };
        if record.fingerprint != item.request.fingerprint() && omitted != Some(Rule::FingerprintIsCompared) {
            return Lookup::OtherPayload;
        }
        let age = now - record.created_at;
        let is_in_time = age < SECRET_LIFETIME || omitted == Some(Rule::SecretEndsAfter24Hours);
        let is_of_use = !tenant.key_has_ended || omitted == Some(Rule::SecretEndsWithKey);
        let salt = record.salt.map(|salt| if omitted == Some(Rule::SaltIsThatOfRecord) { item.attempt } else { salt });
        let derive = |salt| item.request.id.map(|request_id| Secret::Derived { request_id, salt });
        let secret = salt.filter(|_| is_in_time && is_of_use).and_then(derive);
        Lookup::Replay { id: tenant.id, secret, age, key_has_ended: tenant.key_has_ended }
    }

    /// Deletes expired salts and records.
    pub fn clean_up(&mut self, now: Time, omitted: Option<Rule>) {
        self.records.retain(|record| now - record.created_at < RECORD_LIFETIME);
        for record in &mut self.records {
            let is_kept = now - record.created_at < SECRET_LIFETIME && omitted != Some(Rule::SaltIsKeptFor24Hours);
            record.salt = record.salt.filter(|_| is_kept);
        }
    }
}

impl Record {
    /// Whether the insert of this item replaces the record: it has expired, or it is stray.
    fn is_replaceable(&self, item: &Item, snapshot: &Database, omitted: Option<Rule>) -> bool {
        let has_expired = item.created_at.saturating_sub(self.created_at) >= RECORD_LIFETIME;
        let is_in_snapshot = snapshot.records.contains(self) || omitted == Some(Rule::StrayIsInSnapshot);
        let is_stray = is_in_snapshot && snapshot.tenant(self.created).is_none();
        has_expired && omitted != Some(Rule::ExpiredRecordIsReplaced) || is_stray
    }
}

impl Tenant {
    /// Whether the other tenant was committed within 30 days after this one was created, or the reverse.
    pub fn is_within_lifetime_of(&self, other: &Self) -> bool {
        let (earlier, later) = if self.committed_at <= other.committed_at { (self, other) } else { (other, self) };
        later.committed_at - earlier.created_at < RECORD_LIFETIME
    }
}
