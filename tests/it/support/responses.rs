//! What the tests read from responses and statuses.

use tonic::Status;
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::CreateFullyProvisionedResponse;

/// The stable reason of an error.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, "turnkey");
    info.reason
}

/// The field and the reason of each violation.
pub fn violations(status: &Status) -> Vec<(String, String)> {
    let request = status.get_details_bad_request().expect("the error has a BadRequest");
    request.field_violations.into_iter().map(|violation| (violation.field, violation.reason)).collect()
}

/// The response as `validate_only` returns it: without ids, keys and times.
pub fn clear_generated_fields(mut response: CreateFullyProvisionedResponse) -> CreateFullyProvisionedResponse {
    response.secret_key.clear();
    let tenant = response.tenant.as_mut().unwrap();
    tenant.id.clear();
    tenant.api_key_public.clear();
    tenant.etag.clear();
    (tenant.created_at, tenant.updated_at) = (None, None);
    let segment = response.segment.as_mut().unwrap();
    segment.id.clear();
    segment.tenant_id.clear();
    segment.etag.clear();
    (segment.created_at, segment.updated_at) = (None, None);
    for package in &mut response.packages {
        package.id.clear();
        package.tenant_id.clear();
        package.segment_id.clear();
        package.etag.clear();
        (package.created_at, package.updated_at) = (None, None);
    }
    response
}
