//! Findings of an integrity check, and the result of a repair. `store::integrity` and `store::repair` have the SQL.

use secrecy::SecretString;

use super::{
    api_key::ApiKey, ids::TenantId, package::Package, segment::Segment, tenant::Tenant, tenant_limit::TenantLimit,
};

/// The tenants of an integrity check, with the rows that refer to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckedTenants {
    /// All tenants, and all ids of missing tenants.
    All,
    /// Those that the caller is limited to. They need not exist.
    Limited(TenantLimit),
    /// A tenant that must exist, or to which rows refer.
    One(TenantId),
}

/// One defect. A tenant with several defects has a finding for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// If the tenant does not exist, the id that the damaged row refers to.
    pub tenant_id: TenantId,
    /// `None` if the tenant does not exist.
    pub slug: Option<String>,
    pub kind: FindingKind,
    /// A sentence for people.
    pub detail: String,
}

/// The kind of a defect. Its text form is the name in the API without the prefix `FINDING_KIND_`.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum FindingKind {
    NoGeneralSegment,
    NoPackage,
    /// The tenant has no API key. Expired and revoked keys count as keys.
    NoApiKey,
    PackageWithoutSegment,
    PackageInForeignSegment,
    OwnerWithoutTenant,
    SignupWithoutOwner,
    DanglingIdempotencyRecord,
    /// A usage counter of the tenant differs from the number of its rows.
    WrongUsageCount,
    SegmentWithoutTenant,
    PackageWithoutTenant,
    ApiKeyWithoutTenant,
    UsageCountWithoutTenant,
    /// The owner's address and the form in which it is compared do not match.
    WrongCanonicalEmail,
}

impl FindingKind {
    /// Describes the defect in a sentence. `affected` is the package's slug, the RPC of the idempotency record, or the
    /// plural of what was counted wrongly; the other kinds ignore it.
    pub fn detail(self, affected: &str) -> String {
        match self {
            Self::NoGeneralSegment => "The tenant has no General segment.".to_owned(),
            Self::NoPackage => "The tenant has no package, so customers cannot book with it.".to_owned(),
            Self::NoApiKey => "The tenant has no API key at all.".to_owned(),
            Self::PackageWithoutSegment => format!("The package {affected} is not in any segment."),
            Self::PackageInForeignSegment => format!("The package {affected} is in a segment of another tenant."),
            Self::OwnerWithoutTenant => {
                "An owner's e-mail address and password belong to a tenant that does not exist.".to_owned()
            }
            Self::SignupWithoutOwner => {
                "The tenant was created by CreateFromSignup but has no owner, so the business cannot log in.".to_owned()
            }
            Self::DanglingIdempotencyRecord => {
                format!("An idempotency record of {affected} refers to a tenant or key that does not exist.")
            }
            Self::WrongUsageCount => {
                format!("The stored number of the tenant's {affected} differs from the actual number.")
            }
            Self::SegmentWithoutTenant => "Segments belong to a tenant that does not exist.".to_owned(),
            Self::PackageWithoutTenant => "Packages belong to a tenant that does not exist.".to_owned(),
            Self::ApiKeyWithoutTenant => "API keys belong to a tenant that does not exist.".to_owned(),
            Self::UsageCountWithoutTenant => {
                "The stored numbers of packages and segments belong to a tenant that does not exist.".to_owned()
            }
            Self::WrongCanonicalEmail => {
                "The owner's e-mail address and its canonical form do not match, so the owner cannot log in.".to_owned()
            }
        }
    }
}

/// The result of one step of an integrity check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrityChunk {
    /// Number of tenants checked in this step.
    pub tenants: u64,
    pub findings: Vec<Finding>,
}

/// The tenant after a repair, and what the repair created. An intact tenant gets nothing.
#[derive(Debug)]
pub struct RepairReport {
    /// `None` if the tenant does not exist. The repair then deleted the rows that refer to it.
    pub tenant: Option<Tenant>,
    pub segment: Option<Segment>,
    pub packages: Vec<Package>,
    pub api_key: Option<(ApiKey, SecretString)>,
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    #[test]
    fn every_finding_kind_is_parsed_from_its_text_form() {
        for &kind in FindingKind::VARIANTS {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
    }
}
