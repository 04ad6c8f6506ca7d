//! Replaces the keys whose secrets are lost: a resumed import repeats the creation of a tenant whose key is not in the
//! keys file, and after 24 hours the replay no longer has the secret. The import then rotates that key.
//!
//! The import rotates only a key that it has created itself, and the server refuses that if an operator has revoked or
//! rotated the key, even at the same moment. The tenant's other keys stay as they are. A rotation is recorded in the
//! journal before it is sent, and repeated with the same request id if the import is killed before the new key is in
//! the keys file.

use time::{Duration, OffsetDateTime};

use super::{
    journal::{Journal, Rotation},
    target::{ImportedTenant, Target},
};
use crate::{
    cli::retry::AttemptError,
    domain::{PublicKey, TenantId, api_key::RotateApiKey},
};

/// Returns the tenant with a new key. The lost one expires at once. `created_at` is the tenant's, which its first key
/// shares.
///
/// # Errors
/// A permanent one if the key that the import has created last is revoked, rotated or deleted.
pub async fn replace(
    target: &Target,
    journal: &Journal,
    slug: &str,
    tenant_id: TenantId,
    created_at: OffsetDateTime,
) -> Result<ImportedTenant, AttemptError> {
    let lost_key = match journal.rotation(slug) {
        None => target.first_key(tenant_id, created_at).await?,
        Some(rotation) => match rotate(target, tenant_id, rotation).await? {
            Rotated::Replaced(tenant) => return Ok(tenant),
            Rotated::Lost(public_key) => Some(public_key),
        },
    };
    let lost_key = lost_key.ok_or_else(|| lost("does not exist"))?;
    let rotation = journal.add_rotation(slug, lost_key).map_err(AttemptError::permanent)?;
    match rotate(target, tenant_id, rotation).await? {
        Rotated::Replaced(tenant) => Ok(tenant),
        Rotated::Lost(_) => Err(AttemptError::permanent("the rotation returned no secret")),
    }
}

enum Rotated {
    Replaced(ImportedTenant),
    /// The rotation was sent more than 24 hours ago: the secret of this key, which it created, is lost, too.
    Lost(PublicKey),
}

async fn rotate(target: &Target, tenant_id: TenantId, rotation: Rotation) -> Result<Rotated, AttemptError> {
    let Rotation { request_id, public_key } = rotation;
    let rotation =
        RotateApiKey { tenant_id, public_key: Some(public_key), overlap: Duration::ZERO, request_id: Some(request_id) };
    let key = match target.rotate_key(rotation).await {
        Err(error) if !error.retryable => return Err(lost(&format!("was not rotated: {}", error.cause))),
        key => key?,
    };
    match key.secret_key {
        Some(secret_key) => ImportedTenant::new(tenant_id, secret_key).map(Rotated::Replaced),
        None => PublicKey::parse(&key.public_key).map(Rotated::Lost).map_err(|_invalid| lost("has no public key")),
    }
}

fn lost(problem: &str) -> AttemptError {
    AttemptError::permanent(format!(
        "the secret of its key is lost, and the key {problem}. If no caller has the secret of the tenant's newest key, \
         create another"
    ))
}
