//! Replaces the keys whose secrets are lost: a resumed import repeats the creation of a tenant whose key is not in the
//! keys file, and after 24 hours the replay no longer has the secret. The import then rotates that key.
//!
//! The import does not replace a key that an operator has created or changed. It rotates only the key that it has created
//! itself, if that is the newest one and has no end. A rotation is recorded in the journal before it is sent, and repeated
//! with the same request id if the import is killed before the new key is in the keys file.

use time::Duration;

use super::{
    journal::Journal,
    target::{ImportError, ImportedTenant, Target},
};
use crate::domain::{ApiKey, RequestId, TenantId, api_key::RotateApiKey};

/// Returns the tenant with a new key. All other keys of the tenant expire at once.
///
/// # Errors
/// A permanent one if the tenant's keys have been changed since the import created the last of them.
pub async fn replace(
    target: &Target,
    journal: &Journal,
    slug: &str,
    tenant_id: TenantId,
) -> Result<ImportedTenant, ImportError> {
    let keys = target.list_keys(tenant_id).await?;
    let earlier = journal.rotation_id(slug);
    let is_untouched = match keys.as_slice() {
        [only] => has_no_end(only),
        [newest, previous, ..] => {
            has_no_end(newest) && earlier.as_ref().is_some_and(|id| is_rotation_by(id, newest, previous))
        }
        [] => false,
    };
    if !is_untouched {
        return Err(ImportError::permanent(
            "the secret of its key is lost, and its keys have been changed since the import created it, so the import \
             does not rotate them. If no caller has the secret of the newest key, rotate it",
        ));
    }
    if let Some(id) = earlier
        && let Some(tenant) = rotate(target, tenant_id, id).await?
    {
        return Ok(tenant);
    }
    let id = journal.add_rotation(slug).map_err(ImportError::permanent)?;
    rotate(target, tenant_id, id).await?.ok_or_else(|| ImportError::permanent("the rotation returned no secret"))
}

/// Returns `None` if the rotation was sent more than 24 hours ago: its secret is lost, too.
async fn rotate(target: &Target, tenant_id: TenantId, id: RequestId) -> Result<Option<ImportedTenant>, ImportError> {
    let rotation = RotateApiKey { tenant_id, overlap: overlap(&id), request_id: Some(id) };
    let key = target.rotate_key(rotation).await?;
    let public_key = key.public_key;
    Ok(key.secret_key.map(|secret_key| ImportedTenant { tenant_id, public_key, secret_key }))
}

const fn has_no_end(key: &ApiKey) -> bool {
    key.expires_at.is_none() && key.revoked_at.is_none()
}

/// Whether this rotation created `newest`. Another rotation gives the previous key another end.
fn is_rotation_by(id: &RequestId, newest: &ApiKey, previous: &ApiKey) -> bool {
    previous.expires_at == Some(newest.created_at + overlap(id))
}

/// Between 1 µs and 66 ms. It distinguishes a rotation of this import from others.
fn overlap(id: &RequestId) -> Duration {
    let [first, second, ..] = *id.expose();
    Duration::microseconds(1 + i64::from(u16::from_be_bytes([first, second])))
}
