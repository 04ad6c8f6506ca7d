//! Messages that create many tenants. Each item is parsed and has a result of its own.

use tonic_types::FieldViolation;

use super::convert;
use crate::{
    domain::{CreateFullyProvisioned, InvalidValue, Reason, Violations, provisioning::CreateOutcome},
    error::{self, Error},
    grpc::{
        pb,
        status::{self, code_name},
    },
};

const MAX_ITEMS: usize = 500;

type Item = Result<CreateFullyProvisioned, Violations>;

impl TryFrom<pb::BatchCreateFullyProvisionedRequest> for Vec<Item> {
    type Error = Violations;

    fn try_from(request: pb::BatchCreateFullyProvisionedRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        match request.requests.len() {
            0 => fields.add("requests", InvalidValue::missing()),
            1..=MAX_ITEMS => {}
            _ => fields.add("requests", InvalidValue::new(Reason::TooLong, "must have at most 500 items")),
        }
        fields.into_result(|| Some(request.requests.into_iter().map(item).collect()))
    }
}

fn item(request: pb::CreateFullyProvisionedRequest) -> Item {
    if request.validate_only {
        let mut fields = Violations::default();
        fields.add("validate_only", InvalidValue::new(Reason::BadFormat, "must not be set in a batch"));
        return Err(fields);
    }
    request.try_into()
}

impl From<error::Result<CreateOutcome>> for pb::BatchCreateFullyProvisionedResult {
    fn from(outcome: error::Result<CreateOutcome>) -> Self {
        use pb::batch_create_fully_provisioned_result::Result as BatchResult;

        Self {
            result: Some(match outcome {
                Ok(outcome) => BatchResult::Provisioned(outcome.into()),
                Err(error) => BatchResult::Error(item_error(error)),
            }),
        }
    }
}

fn item_error(error: Error) -> pb::BatchCreateFullyProvisionedError {
    let error = status::report(error);
    let violations = error.details.bad_request().map_or(&[][..], |bad_request| &bad_request.field_violations);
    pb::BatchCreateFullyProvisionedError {
        code: code_name(error.code).to_owned(),
        reason: error.reason().to_owned(),
        field_violations: convert(violations.to_vec()),
        message: error.message,
    }
}

impl From<FieldViolation> for pb::FieldViolation {
    fn from(violation: FieldViolation) -> Self {
        Self { field: violation.field, reason: violation.reason, description: violation.description }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Quotas, TenantId},
        error::Resource,
    };

    #[test]
    fn an_exceeded_quota_is_the_error_of_an_item_like_any_other() {
        let (tenant_id, limit) = (TenantId::from_uuid(uuid::Uuid::nil()), Quotas::DEFAULT.packages);
        let error = item_error(Error::QuotaExceeded { tenant_id, resource: Resource::Package, limit });
        assert_eq!((error.code.as_str(), error.reason.as_str()), ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"));
        assert_eq!(error.message, "a tenant can have at most 1000 packages");
    }
}
