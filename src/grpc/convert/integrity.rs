//! Damage, found and repaired.

use secrecy::ExposeSecret as _;

use super::{
    api_keys::api_key,
    package, segment,
    tenants::{tenant, tenant_id},
};
use crate::{
    domain::{
        TenantId, Violations,
        integrity::{Finding, FindingKind, RepairReport},
    },
    error::Result,
    grpc::pb,
};

pub fn check_integrity(request: pb::CheckIntegrityRequest) -> Result<Option<TenantId>> {
    let mut fields = Violations::default();
    let only = fields.check_optional("tenant_id", request.tenant_id, |text| TenantId::parse(&text));
    Ok(fields.finish(|| only)?)
}

pub fn check_integrity_response(finding: Finding) -> pb::CheckIntegrityResponse {
    pb::CheckIntegrityResponse {
        finding: Some(pb::Finding {
            tenant_id: finding.tenant_id.to_string(),
            slug: finding.slug.unwrap_or_default(),
            kind: kind(finding.kind).into(),
            detail: finding.detail,
        }),
    }
}

pub fn repair_tenant(request: pb::RepairTenantRequest) -> Result<TenantId> {
    tenant_id(&request.tenant_id)
}

pub fn repair_tenant_response(repaired: RepairReport) -> pb::RepairTenantResponse {
    let (created_api_key, secret_key) = repaired.api_key.unzip();
    pb::RepairTenantResponse {
        tenant: Some(tenant(repaired.tenant)),
        created_segment: repaired.segment.map(segment),
        created_packages: repaired.packages.into_iter().map(package).collect(),
        created_api_key: created_api_key.map(api_key),
        secret_key: secret_key.map(|secret| secret.expose_secret().to_owned()),
    }
}

const fn kind(kind: FindingKind) -> pb::FindingKind {
    match kind {
        FindingKind::NoGeneralSegment => pb::FindingKind::NoGeneralSegment,
        FindingKind::NoPackage => pb::FindingKind::NoPackage,
        FindingKind::NoApiKey => pb::FindingKind::NoApiKey,
        FindingKind::PackageWithoutSegment => pb::FindingKind::PackageWithoutSegment,
        FindingKind::PackageInForeignSegment => pb::FindingKind::PackageInForeignSegment,
        FindingKind::OwnerWithoutTenant => pb::FindingKind::OwnerWithoutTenant,
        FindingKind::SignupWithoutOwner => pb::FindingKind::SignupWithoutOwner,
        FindingKind::DanglingIdempotencyRecord => pb::FindingKind::DanglingIdempotencyRecord,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_one_name() {
        for &known in <FindingKind as strum::VariantArray>::VARIANTS {
            assert_eq!(kind(known).as_str_name(), format!("FINDING_KIND_{known}"));
        }
    }
}
