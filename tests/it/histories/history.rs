//! What clients called, and what they received: the history of one tenant.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

/// A call for one tenant. Names, addresses and prices are used once, so that a read shows which change it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// By `CreateFullyProvisioned`, alone or in a batch, or by `CreateFromSignup`. All calls for a tenant are identical.
    Create,
    Rename {
        name: String,
        etag: Option<String>,
    },
    SetActive(bool),
    Delete {
        etag: Option<String>,
    },
    Undelete,
    SetOwner {
        email: String,
    },
    CreateKey {
        request_id: String,
    },
    /// The keys before it end at once, or after 24 hours.
    Rotate {
        request_id: String,
        at_once: bool,
    },
    Revoke {
        public_key: String,
    },
    /// By `UpsertPackage`, or by `BatchUpsertPackages` for several.
    UpsertPackages {
        items: Vec<(String, i64)>,
        etag: Option<String>,
    },
    DeletePackage {
        id: String,
        etag: Option<String>,
    },
    UpsertSegment {
        slug: String,
        name: String,
        etag: Option<String>,
    },
    DeleteSegment {
        id: String,
        etag: Option<String>,
    },
    GetTenant,
    ListKeys,
    Verify {
        public_key: String,
    },
    ListPackages,
    ListSegments,
}

/// The fields of a tenant that the calls change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TenantView {
    pub id: String,
    pub name: String,
    pub is_active: bool,
    pub is_deleted: bool,
    pub owner: Option<String>,
    pub etag: String,
}

/// A package with its price, or a segment with its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ItemView {
    pub id: String,
    pub slug: String,
    pub value: String,
    pub etag: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    pub public_key: String,
    pub is_revoked: bool,
    pub has_expiry: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    Tenant(TenantView),
    Created {
        tenant: TenantView,
        secret: Option<String>,
        replayed: bool,
    },
    Key {
        public_key: String,
        secret: Option<String>,
        replayed: bool,
    },
    Revoked(KeyView),
    /// Newest first.
    Keys(Vec<KeyView>),
    /// The name of the verdict.
    Verdict(&'static str),
    /// Of each item: whether it was created, and how it is now.
    Upserted(Vec<(bool, ItemView)>),
    Items(Vec<ItemView>),
    Empty,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Ok(Response),
    /// The reason of an error that says that nothing was changed.
    Refused(String),
    /// The response was lost, or the error leaves open whether the change was made.
    Unknown,
}

/// A call with its outcome. The numbers are those of a clock that counts invocations and responses.
#[derive(Debug, Clone)]
pub struct Operation {
    pub call: Call,
    pub outcome: Outcome,
    pub invoked: u64,
    pub returned: u64,
}

/// The history of one tenant, written by its clients.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Vec<Operation>>>);

/// Counts what happens in all histories.
static CLOCK: AtomicU64 = AtomicU64::new(0);

pub fn tick() -> u64 {
    CLOCK.fetch_add(1, Ordering::SeqCst)
}

impl History {
    /// Records a call that was made at `invoked` and has just returned. A read without a response shows nothing.
    pub fn record(&self, call: Call, outcome: Outcome, invoked: u64) {
        if outcome != Outcome::Unknown || !call.is_read() {
            self.0.lock().unwrap().push(Operation { call, outcome, invoked, returned: tick() });
        }
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.0.lock().unwrap().clone()
    }
}

impl Call {
    pub fn is_read(&self) -> bool {
        matches!(self, Self::GetTenant | Self::ListKeys | Self::Verify { .. } | Self::ListPackages | Self::ListSegments)
    }
}
