//! The RPCs that make tenants.

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{package, segment, tenants::tenant};
use crate::{
    domain::{
        CommissionPercent, CreateFullyProvisioned, DisplayName, Email, Password, ProvisionedTenant, RequestId,
        SignupForm, SignupSlug, SlugStem, TenantSlug, Violations, defaults,
        idempotency::Replay,
        provisioning::{CreateOutcome, CreateResult},
    },
    error::Result,
    grpc::pb,
};

pub fn create_fully_provisioned(request: pb::CreateFullyProvisionedRequest) -> Result<CreateFullyProvisioned> {
    Ok(wish(request)?)
}

pub(super) fn wish(
    request: pb::CreateFullyProvisionedRequest,
) -> std::result::Result<CreateFullyProvisioned, Violations> {
    let mut fields = Violations::default();
    let slug = fields.check("slug", TenantSlug::parse(&request.slug));
    let name = fields.check("name", DisplayName::parse(&request.name));
    let commission = fields.check_optional("commission_percent", request.commission_percent, CommissionPercent::parse);
    let request_id = fields.check_optional("request_id", request.request_id, |text| RequestId::parse(&text));
    fields.finish(|| {
        Some(CreateFullyProvisioned {
            slug: slug?,
            name: name?,
            commission: commission?.unwrap_or(defaults::COMMISSION),
            request_id: request_id?,
            validate_only: request.validate_only,
        })
    })
}

pub fn create_fully_provisioned_response(result: CreateResult) -> pb::CreateFullyProvisionedResponse {
    let response = outcome_response(result.outcome);
    if result.dry_run { clear_generated_fields(response) } else { response }
}

pub(super) fn outcome_response(outcome: CreateOutcome) -> pb::CreateFullyProvisionedResponse {
    match outcome {
        CreateOutcome::Created(provisioned) => provisioned_response(provisioned),
        CreateOutcome::Replayed(replay) => replayed_response(replay),
    }
}

fn provisioned_response(provisioned: ProvisionedTenant) -> pb::CreateFullyProvisionedResponse {
    pb::CreateFullyProvisionedResponse {
        tenant: Some(tenant(provisioned.tenant)),
        secret_key: provisioned.secret_key.expose_secret().to_owned(),
        segment: Some(segment(provisioned.segment)),
        packages: provisioned.packages.into_iter().map(package).collect(),
        replayed: false,
    }
}

fn replayed_response(replay: Replay) -> pb::CreateFullyProvisionedResponse {
    pb::CreateFullyProvisionedResponse {
        tenant: Some(tenant(replay.created.tenant)),
        secret_key: replay.secret_key.map(|secret| secret.expose_secret().to_owned()).unwrap_or_default(),
        segment: replay.created.segment.map(segment),
        packages: replay.created.packages.into_iter().map(package).collect(),
        replayed: true,
    }
}

pub fn create_from_signup(request: pb::CreateFromSignupRequest) -> Result<SignupForm> {
    let password = Zeroizing::new(request.password);
    let mut violations = Violations::default();
    let business_name = violations.check("business_name", DisplayName::parse(&request.business_name));
    let slug = match (request.slug, &business_name) {
        (Some(slug), _) => violations.check("slug", TenantSlug::parse(&slug)).map(SignupSlug::Requested),
        (None, Some(name)) => {
            violations.check("business_name", SlugStem::from_name(name.as_str())).map(SignupSlug::Derived)
        }
        (None, None) => None,
    };
    let email = violations.check("email", Email::parse(&request.email));
    let password = violations.check("password", Password::parse(&password));
    let request_id = violations.check_optional("request_id", request.request_id, |text| RequestId::parse(&text));
    Ok(SignupForm { violations, business_name, email, password, slug, request_id: request_id.flatten() })
}

pub fn create_from_signup_response(outcome: CreateOutcome) -> pb::CreateFromSignupResponse {
    let pb::CreateFullyProvisionedResponse { tenant, secret_key, segment, packages, replayed } =
        outcome_response(outcome);
    pb::CreateFromSignupResponse { tenant, secret_key, segment, packages, replayed }
}

/// Leaves out what only a written tenant has: ids, keys and times.
fn clear_generated_fields(response: pb::CreateFullyProvisionedResponse) -> pb::CreateFullyProvisionedResponse {
    let none = String::new;
    pb::CreateFullyProvisionedResponse {
        tenant: response.tenant.map(|tenant| pb::Tenant {
            id: none(),
            api_key_public: none(),
            created_at: None,
            updated_at: None,
            deleted_at: None,
            ..tenant
        }),
        secret_key: none(),
        segment: response.segment.map(|segment| pb::Segment {
            id: none(),
            tenant_id: none(),
            created_at: None,
            updated_at: None,
            ..segment
        }),
        packages: response
            .packages
            .into_iter()
            .map(|package| pb::Package {
                id: none(),
                tenant_id: none(),
                segment_id: none(),
                created_at: None,
                updated_at: None,
                ..package
            })
            .collect(),
        replayed: response.replayed,
    }
}
