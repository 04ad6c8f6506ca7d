//! Messages about integrity checks and repairs.

use secrecy::ExposeSecret as _;

use super::convert;
use crate::{
    domain::{
        TenantId, Violations,
        integrity::{CheckedTenants, Finding, FindingKind, RepairReport},
    },
    grpc::{pb, tenant_access::LimitedRequest},
};

impl TryFrom<LimitedRequest<pb::CheckIntegrityRequest>> for CheckedTenants {
    type Error = Violations;

    fn try_from(request: LimitedRequest<pb::CheckIntegrityRequest>) -> Result<Self, Violations> {
        let LimitedRequest { message, limit } = request;
        let mut fields = Violations::default();
        let tenant_id = fields.check_optional("tenant_id", message.tenant_id, |text| TenantId::parse(&text));
        fields.into_result(|| {
            Some(match (tenant_id, limit) {
                (Some(tenant_id), _) => Self::One(tenant_id),
                (None, Some(limit)) => Self::Limited(limit),
                (None, None) => Self::All,
            })
        })
    }
}

impl From<Finding> for pb::CheckIntegrityResponse {
    fn from(finding: Finding) -> Self {
        Self {
            finding: Some(pb::Finding {
                tenant_id: finding.tenant_id.to_string(),
                slug: finding.slug.unwrap_or_default(),
                kind: pb::FindingKind::from(finding.kind).into(),
                detail: finding.detail,
            }),
        }
    }
}

impl From<RepairReport> for pb::RepairTenantResponse {
    fn from(report: RepairReport) -> Self {
        let (created_api_key, secret_key) = report.api_key.unzip();
        Self {
            tenant: report.tenant.map(Into::into),
            created_segment: report.segment.map(Into::into),
            created_packages: convert(report.packages),
            created_api_key: created_api_key.map(Into::into),
            secret_key: secret_key.map(|secret| secret.expose_secret().to_owned()),
        }
    }
}

impl From<FindingKind> for pb::FindingKind {
    fn from(kind: FindingKind) -> Self {
        match kind {
            FindingKind::NoGeneralSegment => Self::NoGeneralSegment,
            FindingKind::NoPackage => Self::NoPackage,
            FindingKind::NoApiKey => Self::NoApiKey,
            FindingKind::PackageWithoutSegment => Self::PackageWithoutSegment,
            FindingKind::PackageInForeignSegment => Self::PackageInForeignSegment,
            FindingKind::OwnerWithoutTenant => Self::OwnerWithoutTenant,
            FindingKind::SignupWithoutOwner => Self::SignupWithoutOwner,
            FindingKind::DanglingIdempotencyRecord => Self::DanglingIdempotencyRecord,
            FindingKind::WrongUsageCount => Self::WrongUsageCount,
            FindingKind::SegmentWithoutTenant => Self::SegmentWithoutTenant,
            FindingKind::PackageWithoutTenant => Self::PackageWithoutTenant,
            FindingKind::ApiKeyWithoutTenant => Self::ApiKeyWithoutTenant,
            FindingKind::UsageCountWithoutTenant => Self::UsageCountWithoutTenant,
            FindingKind::WrongCanonicalEmail => Self::WrongCanonicalEmail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_kind_has_the_same_name_in_the_domain_and_in_the_api() {
        for &kind in <FindingKind as strum::VariantArray>::VARIANTS {
            assert_eq!(pb::FindingKind::from(kind).as_str_name(), format!("FINDING_KIND_{kind}"));
        }
    }
}
