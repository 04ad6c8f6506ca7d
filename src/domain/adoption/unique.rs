//! The fields of an old tenant that no other tenant may have.

use sha2::{Digest as _, Sha256};

use super::OldTenant;
use crate::domain::{
    Email, InvalidValue, LegacyKeyHash, PublicKey, Reason, TenantSlug, Violations, legacy_key::is_legacy_public_key,
};

/// The fields that are present are valid.
#[derive(Debug, Clone, Default)]
pub struct UniqueFields {
    pub slug: Option<TenantSlug>,
    pub email: Option<Email>,
    pub public_key: Option<PublicKey>,
    pub key_hash: Option<LegacyKeyHash>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueField {
    Slug,
    Email,
    /// The id with which the public key ends.
    KeyId,
    KeyHash,
}

impl UniqueField {
    /// Returns the name of the old column.
    pub const fn column(self) -> &'static str {
        match self {
            Self::Slug => "slug",
            Self::Email => "email",
            Self::KeyId => "apiKeyPublic",
            Self::KeyHash => "apiKeySecret",
        }
    }
}

/// Half of a SHA-256 of a field and its value. Among a million tenants, two values have the same one with a probability
/// of 10⁻²⁶.
pub type UniqueValueHash = u128;

impl UniqueFields {
    pub const COUNT: usize = 4;

    /// Parses the unique fields of a tenant, and adds the violations of the others.
    pub fn parse(
        slug: &str,
        new_slug: Option<&TenantSlug>,
        email: Option<&str>,
        api_key_public: &str,
        api_key_secret: &str,
        violations: &mut Violations,
    ) -> Self {
        let slug = match new_slug {
            Some(new_slug) => Some(new_slug.clone()),
            None => violations.check("slug", TenantSlug::parse(slug)),
        };
        let email = violations.check_optional("email", email, Email::parse);
        let public_key = violations.check("apiKeyPublic", legacy_public_key(api_key_public));
        let key_hash = violations.check("apiKeySecret", LegacyKeyHash::parse(api_key_secret));
        Self { slug, email, public_key, key_hash }
    }

    pub(super) fn of(old: &OldTenant, new_slug: Option<&TenantSlug>, violations: &mut Violations) -> Self {
        let OldTenant { slug, email, api_key_public, api_key_secret, .. } = old;
        Self::parse(slug, new_slug, email.as_deref(), api_key_public, api_key_secret, violations)
    }

    /// Returns the hash of each field that is present.
    pub fn hashes(&self) -> impl Iterator<Item = (UniqueField, UniqueValueHash)> {
        let values = [
            (UniqueField::Slug, self.slug.as_ref().map(TenantSlug::as_str)),
            // As addresses are compared.
            (UniqueField::Email, self.email.as_ref().map(Email::canonical)),
            (UniqueField::KeyId, self.public_key.as_ref().map(PublicKey::key_id)),
            (UniqueField::KeyHash, self.key_hash.as_ref().map(LegacyKeyHash::as_str)),
        ];
        values.into_iter().filter_map(|(field, value)| Some((field, hash(field, value?))))
    }
}

fn hash(field: UniqueField, value: &str) -> UniqueValueHash {
    let digest = Sha256::new().chain_update(field.column()).chain_update([0]).chain_update(value).finalize();
    let (half, _) = digest.split_at(size_of::<UniqueValueHash>());
    half.iter().fold(0, |hash, byte| hash << 8 | UniqueValueHash::from(*byte))
}

fn legacy_public_key(text: &str) -> Result<PublicKey, InvalidValue> {
    if text.is_empty() {
        return Err(InvalidValue::missing());
    }
    if !is_legacy_public_key(text) {
        return Err(InvalidValue::new(Reason::BadFormat, "must have the form pk_live_<slug>_<16 hex digits>"));
    }
    PublicKey::parse(text)
}
