//! Tenants of the platform's old database: their rows as they are read, and what they become.
//!
//! [`OldTenant::adopt`] parses a tenant with all its rows. Every problem is reported, and the tenant comes over whole
//! or not at all. What an orphan lacks is created from [`super::defaults`], and what the old database left open has one
//! meaning; both are reported as repairs. Nothing else is changed.

mod catalog;
mod parse;
mod unique;

use std::fmt;

use time::OffsetDateTime;
use uuid::Uuid;

pub use unique::{UniqueField, UniqueFields, UniqueValueHash};

use super::{
    bcrypt_hash::BcryptHash,
    branding::Branding,
    commission::CommissionPercent,
    email::Email,
    external_id::ExternalId,
    ids::TenantId,
    labels::Labels,
    package::Package,
    provisioning::NewApiKey,
    segment::Segment,
    slug::TenantSlug,
    text::DisplayName,
    validation::{InvalidValue, Violation},
};

/// A row of the old table `Tenant` with all its rows of the other tables, oldest first. The texts are cut where they
/// exceed every limit. A time is `None` if it is outside the years 1 to 9999.
pub struct OldTenant {
    pub id: String,
    pub slug: String,
    pub name: String,
    pub email: Option<String>,
    pub password_hash: Option<String>,
    pub api_key_public: String,
    /// The SHA-256 of the secret key.
    pub api_key_secret: String,
    /// A decimal number.
    pub commission_percent: String,
    /// JSON; `None` if it is larger than every limit.
    pub branding: Option<String>,
    pub email_verified: bool,
    pub is_active: bool,
    pub is_test: bool,
    pub created_at: Option<OffsetDateTime>,
    pub updated_at: Option<OffsetDateTime>,
    pub segments: Vec<OldSegment>,
    pub packages: Vec<OldPackage>,
}

/// A row of the old table `Segment`.
pub struct OldSegment {
    pub id: String,
    pub slug: String,
    pub name: String,
    pub hero_title: String,
    pub description: Option<String>,
    pub sort_order: i32,
    pub active: bool,
    pub created_at: Option<OffsetDateTime>,
    pub updated_at: Option<OffsetDateTime>,
}

/// A row of the old table `Package`.
pub struct OldPackage {
    pub id: String,
    pub segment_id: Option<String>,
    pub slug: String,
    pub name: String,
    pub description: Option<String>,
    /// Minor units (cents).
    pub base_price: i32,
    /// `DATE` or `TIMESLOT`.
    pub booking_type: String,
    pub grouping_order: Option<i32>,
    pub active: bool,
    pub created_at: Option<OffsetDateTime>,
    pub updated_at: Option<OffsetDateTime>,
}

/// What the caller knows besides the tenant's rows.
pub struct AdoptionContext<'a> {
    /// The slug that replaces the tenant's own.
    pub new_slug: Option<&'a TenantSlug>,
    pub now: OffsetDateTime,
    /// Returns a UUIDv7 of this time.
    pub new_id: &'a mut dyn FnMut(OffsetDateTime) -> Uuid,
}

/// The result of parsing a tenant.
pub struct ParsedTenant {
    /// What no other tenant may have. Each is present if it is valid, even if the tenant is not.
    pub unique: UniqueFields,
    /// What comes over differently from how it is in the old database.
    pub repairs: Vec<String>,
    pub adoption: Result<Adoption, Vec<Problem>>,
}

/// A tenant to insert, complete.
#[derive(Debug, Clone)]
pub struct Adoption {
    pub tenant: AdoptedTenant,
    pub segments: Vec<Segment>,
    pub packages: Vec<Package>,
}

#[derive(Debug, Clone)]
pub struct AdoptedTenant {
    pub id: TenantId,
    /// The old id.
    pub external_id: ExternalId,
    pub slug: TenantSlug,
    pub name: DisplayName,
    pub commission: CommissionPercent,
    pub branding: Branding,
    pub is_active: bool,
    pub labels: Labels,
    pub owner: Option<AdoptedOwner>,
    pub key: NewApiKey,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

#[derive(Debug, Clone)]
pub struct AdoptedOwner {
    pub email: Email,
    pub password_hash: Option<BcryptHash>,
    pub email_verified_at: Option<OffsetDateTime>,
}

/// Why a tenant cannot come over: the column of the old database, the class of its value and what to do. It never shows
/// the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The column, with the row's old id if it is not the tenant's: `packages[cl9e…].basePrice`.
    pub field: String,
    /// A [`super::Reason`], or what other tenants have already: `SLUG_TAKEN`, `EMAIL_TAKEN`, `API_KEY_TAKEN`.
    pub class: String,
    /// Completes a sentence that begins with the field.
    pub description: String,
    pub remedy: &'static str,
}

impl Problem {
    const CORRECT: &str = "correct it in the old database";
    const RENAME: &str = "give the tenant another slug in the file of --renames";

    fn new(Violation { field, invalid }: Violation) -> Self {
        let InvalidValue { reason, description } = invalid;
        let remedy = if field == "slug" { Self::RENAME } else { Self::CORRECT };
        Self { field, class: reason.to_string(), description: description.into_owned(), remedy }
    }

    /// Another tenant has the value, in the old database or in the new one.
    pub fn already_exists(field: UniqueField, description: &str) -> Self {
        let (class, remedy) = match field {
            UniqueField::Slug => ("SLUG_TAKEN", Self::RENAME),
            UniqueField::Email => ("EMAIL_TAKEN", Self::CORRECT),
            UniqueField::KeyId | UniqueField::KeyHash => ("API_KEY_TAKEN", Self::CORRECT),
        };
        let description = description.to_owned();
        Self { field: field.column().to_owned(), class: class.to_owned(), description, remedy }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, class, description, remedy } = self;
        write!(f, "{field} {class}: {description}; {remedy}")
    }
}
