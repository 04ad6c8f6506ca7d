//! What clients called, and what they received: the history of one tenant.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use turnkey::grpc::pb::OwnerTokenPurpose;

/// A call for one tenant. Names, addresses and prices are used once, so that a read shows which change it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// By `CreateFullyProvisioned`, alone or in a batch, or by `CreateFromSignup`. All calls for a tenant are
    /// identical.
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
    /// Erases the tenant, which must be deleted. `Create` then creates another one.
    Purge,
    /// A superuser deletes all packages without triggers, which leaves wrong counts.
    Damage,
    Repair,
    SetOwner {
        email: String,
        password: Option<String>,
    },
    CreateOwnerToken {
        email: String,
        purpose: OwnerTokenPurpose,
    },
    ResetPassword {
        token: String,
        new_password: String,
    },
    VerifyEmail {
        token: String,
    },
    ChangePassword {
        email: String,
        current: String,
        new: String,
    },
    CreateKey {
        request_id: String,
    },
    /// The replaced key, or all keys, end at once or after 24 hours.
    Rotate {
        request_id: String,
        replaced: Option<String>,
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
    VerifyKey {
        public_key: String,
    },
    VerifyPassword {
        email: String,
        password: String,
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
    pub is_owner_verified: bool,
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
    /// The name of a key's verdict.
    Verdict(&'static str),
    /// The tenant of an owner whose password or token is valid.
    Owner(Option<String>),
    /// A token, if the address has an owner.
    Token(Option<String>),
    /// The tenant as it was read after the repair, and the packages that the repair created.
    Repaired {
        tenant: TenantView,
        packages: Vec<ItemView>,
    },
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
    /// Of the tenant that the client knows, for the calls that name one. `Create` after a purge creates another one.
    pub tenant_id: String,
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
    pub fn record(&self, tenant_id: String, call: Call, outcome: Outcome, invoked: u64) {
        if outcome != Outcome::Unknown || !call.is_read() {
            self.0.lock().unwrap().push(Operation { tenant_id, call, outcome, invoked, returned: tick() });
        }
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.0.lock().unwrap().clone()
    }
}

impl Call {
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Self::GetTenant
                | Self::ListKeys
                | Self::VerifyKey { .. }
                | Self::VerifyPassword { .. }
                | Self::ListPackages
                | Self::ListSegments
        )
    }

    /// Whether it changes something and leaves no event.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::CreateOwnerToken { .. } | Self::Damage)
    }

    /// Whether it names the tenant. The others are for whichever tenant has the key, the address or the token.
    pub fn names_tenant(&self) -> bool {
        !matches!(
            self,
            Self::Create
                | Self::CreateOwnerToken { .. }
                | Self::ResetPassword { .. }
                | Self::VerifyEmail { .. }
                | Self::ChangePassword { .. }
                | Self::VerifyKey { .. }
                | Self::VerifyPassword { .. }
        )
    }
}
