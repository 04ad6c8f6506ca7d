//! Many tenants at once: each item is parsed, and answered, for itself.

use super::provisioning;
use crate::{
    domain::{CreateFullyProvisioned, InvalidValue, Reason, Violations, provisioning::CreateOutcome},
    error::{Error, Result},
    grpc::{pb, status},
};

const MAX_ITEMS: usize = 500;

type Item = std::result::Result<CreateFullyProvisioned, Violations>;

pub fn batch_create_fully_provisioned(request: pb::BatchCreateFullyProvisionedRequest) -> Result<Vec<Item>> {
    let mut fields = Violations::default();
    match request.requests.len() {
        0 => fields.add("requests", InvalidValue::missing()),
        1..=MAX_ITEMS => {}
        _ => fields.add("requests", InvalidValue::new(Reason::TooLong, "must have at most 500 items")),
    }
    Ok(fields.finish(|| Some(request.requests.into_iter().map(item).collect()))?)
}

fn item(request: pb::CreateFullyProvisionedRequest) -> Item {
    if request.validate_only {
        let mut fields = Violations::default();
        fields.add("validate_only", InvalidValue::new(Reason::BadFormat, "must not be set in a batch"));
        return Err(fields);
    }
    provisioning::wish(request)
}

pub fn batch_create_fully_provisioned_response(
    outcomes: Vec<Result<CreateOutcome>>,
) -> pb::BatchCreateFullyProvisionedResponse {
    use pb::batch_create_fully_provisioned_result::Result as BatchResult;

    let result = |outcome| pb::BatchCreateFullyProvisionedResult {
        result: Some(match outcome {
            Ok(outcome) => BatchResult::Provisioned(provisioning::outcome_response(outcome)),
            Err(error) => BatchResult::Error(failure(error)),
        }),
    };
    pb::BatchCreateFullyProvisionedResponse { results: outcomes.into_iter().map(result).collect() }
}

fn failure(error: Error) -> pb::BatchCreateFullyProvisionedError {
    let failure = status::describe(error);
    pb::BatchCreateFullyProvisionedError {
        code: failure.code_name().to_owned(),
        reason: failure.reason().to_owned(),
        field_violations: failure
            .violations()
            .map(|violation| pb::FieldViolation {
                field: violation.field.clone(),
                reason: violation.reason.clone(),
                description: violation.description.clone(),
            })
            .collect(),
        message: failure.message,
    }
}
