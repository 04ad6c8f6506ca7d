//! What of a response is recorded.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{ApiKey, Package, Segment, Tenant, Verdict};

use crate::{
    histories::history::{ItemView, KeyView, Outcome, Response, TenantView},
    support::load::is_expected_during_faults,
};

/// The outcome of a call that failed.
pub fn refusal(status: &Status) -> Outcome {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    let is_definite = matches!(status.code(), Code::AlreadyExists | Code::NotFound | Code::FailedPrecondition);
    if is_definite || reason == "ETAG_MISMATCH" {
        return Outcome::Refused(reason);
    }
    assert!(is_expected_during_faults(status), "{status:?}");
    Outcome::Unknown
}

pub fn tenant_view(tenant: Tenant) -> TenantView {
    TenantView {
        id: tenant.id,
        name: tenant.name,
        is_active: tenant.is_active,
        is_deleted: tenant.deleted_at.is_some(),
        owner: tenant.owner_email,
        is_owner_verified: tenant.owner_email_verified_at.is_some(),
        etag: tenant.etag,
    }
}

pub fn key_view(key: ApiKey) -> KeyView {
    KeyView { public_key: key.public_key, is_revoked: key.revoked_at.is_some(), has_expiry: key.expires_at.is_some() }
}

pub fn package_view(package: Package) -> ItemView {
    let value = package.base_price.unwrap_or_default().to_string();
    ItemView { id: package.id, slug: package.slug, value, etag: package.etag }
}

pub fn segment_view(segment: Segment) -> ItemView {
    ItemView { id: segment.id, slug: segment.slug, value: segment.name, etag: segment.etag }
}

/// The tenant of an owner, if the verdict is that the password or the token is valid.
pub fn owner_view(verdict: Verdict, tenant_id: String) -> Response {
    Response::Owner(match verdict {
        Verdict::Valid => Some(tenant_id),
        other => {
            assert_eq!((other, tenant_id.as_str()), (Verdict::Invalid, ""));
            None
        }
    })
}
