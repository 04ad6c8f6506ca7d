//! What can be wrong with a tenant, and what is done about it.

use secrecy::SecretString;

use super::{api_key::ApiKey, ids::TenantId, package::Package, segment::Segment, tenant::Tenant};

/// One thing that is wrong. A tenant with several faults has one for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The id that the damaged row refers to, if the tenant itself is missing.
    pub tenant_id: TenantId,
    /// `None` if the tenant itself is missing.
    pub slug: Option<String>,
    pub kind: FindingKind,
    /// A sentence for people.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    NoGeneralSegment,
    NoPackage,
    /// None at all: one that was revoked, or has expired, is a key.
    NoApiKey,
    PackageWithoutSegment,
    PackageInForeignSegment,
    OwnerWithoutTenant,
    SignupWithoutOwner,
    DanglingIdempotencyRecord,
}

impl FindingKind {
    pub const ALL: [Self; 8] = [
        Self::NoGeneralSegment,
        Self::NoPackage,
        Self::NoApiKey,
        Self::PackageWithoutSegment,
        Self::PackageInForeignSegment,
        Self::OwnerWithoutTenant,
        Self::SignupWithoutOwner,
        Self::DanglingIdempotencyRecord,
    ];

    /// By the name it has in the API, without the enum's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoGeneralSegment => "NO_GENERAL_SEGMENT",
            Self::NoPackage => "NO_PACKAGE",
            Self::NoApiKey => "NO_API_KEY",
            Self::PackageWithoutSegment => "PACKAGE_WITHOUT_SEGMENT",
            Self::PackageInForeignSegment => "PACKAGE_IN_FOREIGN_SEGMENT",
            Self::OwnerWithoutTenant => "OWNER_WITHOUT_TENANT",
            Self::SignupWithoutOwner => "SIGNUP_WITHOUT_OWNER",
            Self::DanglingIdempotencyRecord => "DANGLING_IDEMPOTENCY_RECORD",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// What is wrong, in a sentence; `what` names the thing where that is not the tenant.
    pub fn detail(self, what: &str) -> String {
        match self {
            Self::NoGeneralSegment => "The tenant has no General segment.".to_owned(),
            Self::NoPackage => "The tenant has no package, so nobody can book with it.".to_owned(),
            Self::NoApiKey => "The tenant has no API key at all.".to_owned(),
            Self::PackageWithoutSegment => format!("The package {what} is in no segment."),
            Self::PackageInForeignSegment => format!("The package {what} is in a segment of another tenant."),
            Self::OwnerWithoutTenant => "There is an owner's address and password, and no such tenant.".to_owned(),
            Self::SignupWithoutOwner => "The tenant came by a sign-up and has no owner to log in.".to_owned(),
            Self::DanglingIdempotencyRecord => {
                format!("A request id of {what} points at a tenant or key that is not there.")
            }
        }
    }
}

/// The rows that an integrity check reads, one subject after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntegritySubject {
    Tenants,
    Owners,
    IdempotencyRecords,
}

impl IntegritySubject {
    pub const ALL: [Self; 3] = [Self::Tenants, Self::Owners, Self::IdempotencyRecords];
}

/// The result of one step of an integrity check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrityChunk {
    /// Tenants that were looked at since the last time.
    pub tenants: u64,
    pub findings: Vec<Finding>,
}

/// What a repair made. On a sound tenant that is nothing.
#[derive(Debug)]
pub struct RepairReport {
    pub tenant: Tenant,
    pub segment: Option<Segment>,
    pub packages: Vec<Package>,
    pub api_key: Option<(ApiKey, SecretString)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_by_its_name() {
        for kind in FindingKind::ALL {
            assert_eq!(FindingKind::from_name(kind.as_str()), Some(kind));
        }
    }
}
