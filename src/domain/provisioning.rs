//! The creation of a tenant: the request, what is inserted, and the result. Sign-ups are parsed in [`super::signup`].

use secrecy::SecretString;
use strum::IntoStaticStr;
use time::OffsetDateTime;

use super::{
    branding::StoredBranding,
    commission::CommissionPercent,
    defaults,
    email::Email,
    etag::Etag,
    external_id::ExternalId,
    idempotency::{Fingerprint, NewIdempotencyRecord, Replay},
    ids::{PackageId, SegmentId, TenantId},
    key_format::PublicKey,
    labels::Labels,
    package::Package,
    request_id::RequestId,
    segment::Segment,
    slug::{Slug, TenantSlug},
    tenant::Tenant,
    text::DisplayName,
};

/// A request to create one tenant.
#[derive(Debug, Clone)]
pub struct CreateFullyProvisioned {
    pub slug: TenantSlug,
    pub name: DisplayName,
    pub commission: CommissionPercent,
    pub external_id: Option<ExternalId>,
    pub labels: Labels,
    pub request_id: Option<RequestId>,
    /// If true, everything is checked and nothing is written.
    pub validate_only: bool,
}

impl CreateFullyProvisioned {
    pub fn fingerprint(&self) -> Fingerprint {
        let commission = self.commission.hundredths().to_be_bytes();
        let mut parts = vec![self.slug.as_str().as_bytes(), self.name.as_str().as_bytes(), &commission];
        // An even number of parts has an external id, an odd one has none.
        parts.extend(self.external_id.as_ref().map(|id| id.as_str().as_bytes()));
        parts.extend(self.labels.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]));
        Fingerprint::compute(&parts)
    }
}

/// The kind of call that created a tenant. Logged as `flow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum ProvisioningSource {
    Admin,
    Signup,
    Batch,
    Import,
}

impl ProvisioningSource {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Identifies an existing tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantIdentifier {
    Id(TenantId),
    Slug(Slug),
    ExternalId(ExternalId),
    /// Of any of its keys, expired and revoked ones included.
    PublicKey(PublicKey),
    OwnerEmail(Email),
}

/// A tenant to be inserted, without its key. All ids are generated before anything is written.
#[derive(Debug, Clone)]
pub struct NewTenant {
    pub id: TenantId,
    pub slug: TenantSlug,
    pub name: DisplayName,
    pub commission: CommissionPercent,
    pub external_id: Option<ExternalId>,
    pub labels: Labels,
    pub segment_id: SegmentId,
    /// In the order of [`defaults::PACKAGES`].
    pub package_ids: [PackageId; defaults::PACKAGES.len()],
    /// Only for a sign-up.
    pub owner: Option<NewOwner>,
    pub created_at: OffsetDateTime,
}

/// The owner of a tenant that signs up.
#[derive(Debug, Clone)]
pub struct NewOwner {
    pub email: Email,
    /// Argon2id in PHC format.
    pub password_hash: String,
}

/// A key to be inserted.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    pub key_id: String,
    pub public_key: String,
    /// Argon2id in PHC format.
    pub secret_hash: String,
}

/// Everything that the provisioning statement inserts for one tenant.
#[derive(Debug, Clone)]
pub struct TenantInsert {
    pub tenant: NewTenant,
    pub key: NewApiKey,
    pub record: Option<NewIdempotencyRecord>,
}

/// A tenant that was created, with everything that was created with it.
#[derive(Debug)]
pub struct ProvisionedTenant {
    pub tenant: Tenant,
    pub segment: Segment,
    pub packages: Vec<Package>,
    /// Returned in the response of this call only.
    pub secret_key: SecretString,
}

/// The outcome of a request to create a tenant.
#[derive(Debug)]
pub enum CreateOutcome {
    Created(ProvisionedTenant),
    /// Created by an earlier call with the same request id.
    Replayed(Replay),
}

/// The result of `CreateFullyProvisioned`, which can also be a dry run.
#[derive(Debug)]
pub struct CreateResult {
    pub outcome: CreateOutcome,
    /// If true, nothing was written, and the response leaves out generated ids, keys and times.
    pub dry_run: bool,
}

impl NewTenant {
    /// Returns the tenant as it was stored, with its key.
    pub fn into_provisioned(self, public_key: String, secret_key: SecretString) -> ProvisionedTenant {
        ProvisionedTenant {
            segment: default_segment(self.id, self.segment_id, defaults::PACKAGE_COUNT, self.created_at),
            packages: default_packages(self.id, self.segment_id, self.package_ids, self.created_at),
            tenant: self.tenant(public_key),
            secret_key,
        }
    }

    fn tenant(self, api_key_public: String) -> Tenant {
        Tenant {
            id: self.id,
            slug: self.slug.to_string(),
            name: self.name.into_string(),
            api_key_public,
            commission: self.commission,
            is_active: true,
            branding: StoredBranding::empty(),
            // The owner's first revision is the tenant's.
            etag: Etag {
                owner_revision: self.owner.as_ref().map(|_owner| self.id.as_uuid()),
                ..Etag::new(self.id.as_uuid(), None)
            },
            owner_email: self.owner.map(|owner| owner.email.as_str().to_owned()),
            owner_email_verified_at: None,
            external_id: self.external_id.map(ExternalId::into_string),
            labels: self.labels.into_map(),
            created_at: self.created_at,
            updated_at: self.created_at,
            deleted_at: None,
        }
    }
}

/// Returns a new General segment with this number of packages.
pub fn default_segment(tenant_id: TenantId, id: SegmentId, package_count: i32, created_at: OffsetDateTime) -> Segment {
    let default = &defaults::SEGMENT;
    Segment {
        id,
        tenant_id,
        slug: default.slug.to_owned(),
        name: default.name.to_owned(),
        hero_title: default.hero_title.to_owned(),
        description: default.description.to_owned(),
        sort_order: default.sort_order,
        active: true,
        created_at,
        updated_at: created_at,
        external_id: None,
        revision: None,
        package_count,
    }
}

/// Returns the packages of a new tenant, with these ids in the order of [`defaults::PACKAGES`].
pub fn default_packages(
    tenant_id: TenantId,
    segment_id: SegmentId,
    ids: impl IntoIterator<Item = PackageId>,
    created_at: OffsetDateTime,
) -> Vec<Package> {
    let package = |(id, default): (PackageId, &defaults::DefaultPackage)| Package {
        id,
        tenant_id,
        segment_id,
        slug: default.slug.to_owned(),
        name: default.name.to_owned(),
        description: default.description.to_owned(),
        base_price: default.base_price,
        booking_type: defaults::BOOKING_TYPE,
        grouping_order: default.grouping_order,
        active: true,
        created_at,
        updated_at: created_at,
        external_id: None,
        revision: None,
    };
    ids.into_iter().zip(&defaults::PACKAGES).map(package).collect()
}
