//! API keys as they are shown, and the requests that create and list them. Their format is in [`super::key_format`],
//! the verdict on a presented key in [`super::key_verdict`].

use secrecy::SecretString;
use serde::Deserialize;
use time::{Duration, OffsetDateTime, serde::rfc3339};

use super::{
    idempotency::{Fingerprint, IdempotentRpc},
    ids::TenantId,
    key_format::PublicKey,
    paging::{ListRow, Page, PageCursor, PageSize, PageTokenScope, micros_since_epoch, time_from_micros},
    request_id::RequestId,
    text::DisplayName,
};

/// What a key permits. It is stored as text, in the form of its name in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, strum::EnumString, strum::IntoStaticStr)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum ApiKeyScope {
    /// To read and change the tenant's own catalog.
    #[default]
    Catalog,
    /// To read it.
    CatalogRead,
}

impl ApiKeyScope {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A key without its secret.
///
/// Deserializes from `to_jsonb` of a row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ApiKey {
    pub public_key: String,
    pub tenant_id: TenantId,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    pub name: Option<String>,
    pub scope: ApiKeyScope,
    /// When the key was last seen in use, up to an hour before its last use.
    #[serde(with = "rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// When a rotation replaced the key, which also set its expiry.
    #[serde(with = "rfc3339::option")]
    pub rotated_at: Option<OffsetDateTime>,
}

impl ApiKey {
    /// Returns the id of the key, with which its public half ends.
    pub fn key_id(&self) -> &str {
        self.public_key.rsplit('_').next().unwrap_or_default()
    }

    /// Returns a key as a tenant's first one is created: without a name and an expiry, in the default scope.
    pub fn new(public_key: String, tenant_id: TenantId, created_at: OffsetDateTime) -> Self {
        Self {
            public_key,
            tenant_id,
            created_at,
            expires_at: None,
            revoked_at: None,
            name: None,
            scope: ApiKeyScope::default(),
            last_used_at: None,
            rotated_at: None,
        }
    }
}

/// A request to add a key beside the existing ones.
#[derive(Debug, Clone)]
pub struct CreateApiKey {
    pub tenant_id: TenantId,
    pub name: Option<DisplayName>,
    pub scope: ApiKeyScope,
    /// Must be in the future, which only the service can check.
    pub expires_at: Option<OffsetDateTime>,
    pub request_id: Option<RequestId>,
}

/// A request to add a key and to let those that it replaces expire.
#[derive(Debug, Clone)]
pub struct RotateApiKey {
    pub tenant_id: TenantId,
    /// The key to replace, whose name, scope and expiry the new key gets. `None` replaces all keys of the tenant by one
    /// as a tenant's first key.
    pub public_key: Option<PublicKey>,
    /// How long the replaced keys stay valid.
    pub overlap: Duration,
    pub request_id: Option<RequestId>,
}

/// A request that adds a key to a tenant.
#[derive(Debug, Clone)]
pub enum AddApiKey {
    Create(CreateApiKey),
    Rotate(RotateApiKey),
}

impl AddApiKey {
    pub const fn rpc(&self) -> IdempotentRpc {
        match self {
            Self::Create(_) => IdempotentRpc::CreateApiKey,
            Self::Rotate(_) => IdempotentRpc::RotateApiKey,
        }
    }

    pub const fn tenant_id(&self) -> TenantId {
        match self {
            Self::Create(CreateApiKey { tenant_id, .. }) | Self::Rotate(RotateApiKey { tenant_id, .. }) => *tenant_id,
        }
    }

    pub const fn request_id(&self) -> Option<&RequestId> {
        match self {
            Self::Create(CreateApiKey { request_id, .. }) | Self::Rotate(RotateApiKey { request_id, .. }) => {
                request_id.as_ref()
            }
        }
    }

    /// An absent field is hashed as an empty one, which no present field is.
    pub fn fingerprint(&self) -> Fingerprint {
        let tenant_id = self.tenant_id().as_uuid();
        match self {
            Self::Create(CreateApiKey { name, scope, expires_at, .. }) => {
                let name = name.as_ref().map_or("", DisplayName::as_str);
                let expires_at = expires_at.map(|end| end.unix_timestamp_nanos().to_be_bytes());
                let expires_at = expires_at.as_ref().map_or(&[][..], |end| end);
                let scope = scope.as_str().as_bytes();
                Fingerprint::compute(&[tenant_id.as_bytes(), name.as_bytes(), scope, expires_at])
            }
            Self::Rotate(RotateApiKey { public_key, overlap, .. }) => {
                let overlap = overlap.whole_nanoseconds().to_be_bytes();
                let public_key = public_key.as_ref().map_or("", PublicKey::as_str);
                Fingerprint::compute(&[tenant_id.as_bytes(), &overlap, public_key.as_bytes()])
            }
        }
    }
}

/// The result of an [`AddApiKey`].
#[derive(Debug)]
pub struct AddedApiKey {
    pub api_key: ApiKey,
    /// `None` if the call was replayed too late to return the secret again.
    pub secret_key: Option<SecretString>,
    pub replayed: bool,
}

/// A list of a tenant's keys, newest first.
#[derive(Debug, Clone)]
pub struct ListApiKeys {
    pub size: PageSize,
    /// The position after which the page begins. `None` is the start of the list.
    pub after: Option<KeyCursor>,
}

/// The position of a key in the order of creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCursor {
    pub created_at: OffsetDateTime,
    pub key_id: String,
}

impl ListApiKeys {
    /// Returns the scope that page tokens of this tenant's keys are bound to.
    pub fn page_token_scope(tenant_id: TenantId) -> PageTokenScope {
        PageTokenScope::new(format!("ListApiKeys {tenant_id}"))
    }

    /// Returns the page of these rows, which may be more than its size.
    pub fn page(&self, tenant_id: TenantId, rows: Vec<ListRow<ApiKey>>) -> Page<ApiKey> {
        Page::from_rows(rows, self.size, &Self::page_token_scope(tenant_id), |key| KeyCursor {
            created_at: key.created_at,
            key_id: key.key_id().to_owned(),
        })
    }
}

impl PageCursor for KeyCursor {
    fn to_bytes(&self) -> Vec<u8> {
        [&micros_since_epoch(self.created_at).to_be_bytes()[..], self.key_id.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (micros, key_id) = bytes.split_first_chunk()?;
        let created_at = time_from_micros(i64::from_be_bytes(*micros))?;
        // Postgres would reject a NUL character.
        let is_key_id = key_id.iter().all(u8::is_ascii_alphanumeric);
        is_key_id.then(|| Self { created_at, key_id: key_id.iter().copied().map(char::from).collect() })
    }
}
