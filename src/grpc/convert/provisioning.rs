//! Messages that create one tenant.

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::convert;
use crate::{
    domain::{
        CommissionPercent, CreateFullyProvisioned, DisplayName, Email, ExternalId, Labels, Password, RequestId,
        SignupForm, SignupSlug, SlugStem, TenantSlug, Violations, defaults,
        provisioning::{CreateOutcome, CreateResult},
    },
    grpc::pb,
};

impl TryFrom<pb::CreateFullyProvisionedRequest> for CreateFullyProvisioned {
    type Error = Violations;

    fn try_from(request: pb::CreateFullyProvisionedRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let slug = fields.check("slug", TenantSlug::parse(&request.slug));
        let name = fields.check("name", DisplayName::parse(&request.name));
        let commission =
            fields.check_optional("commission_percent", request.commission_percent, CommissionPercent::parse);
        let external_id = fields.check_optional("external_id", request.external_id, |id| ExternalId::parse(&id));
        let labels = fields.check_nested("labels", Labels::parse(request.labels));
        let request_id = fields.check_optional("request_id", request.request_id, |text| RequestId::parse(&text));
        fields.into_result(|| {
            Some(Self {
                slug: slug?,
                name: name?,
                commission: commission.unwrap_or(defaults::COMMISSION),
                external_id,
                labels: labels?,
                request_id,
                validate_only: request.validate_only,
            })
        })
    }
}

impl From<CreateResult> for pb::CreateFullyProvisionedResponse {
    fn from(result: CreateResult) -> Self {
        let mut response = result.outcome.into();
        if result.dry_run {
            clear_generated_fields(&mut response);
        }
        response
    }
}

impl From<CreateOutcome> for pb::CreateFullyProvisionedResponse {
    fn from(outcome: CreateOutcome) -> Self {
        match outcome {
            CreateOutcome::Created(created) => Self {
                tenant: Some(created.tenant.into()),
                secret_key: created.secret_key.expose_secret().to_owned(),
                segment: Some(created.segment.into()),
                packages: convert(created.packages),
                replayed: false,
            },
            CreateOutcome::Replayed(replay) => Self {
                tenant: Some(replay.created.tenant.into()),
                secret_key: replay.secret_key.map(|secret| secret.expose_secret().to_owned()).unwrap_or_default(),
                segment: replay.created.segment.map(Into::into),
                packages: convert(replay.created.packages),
                replayed: true,
            },
        }
    }
}

/// Clears what only a stored tenant has: ids, keys and times.
fn clear_generated_fields(response: &mut pb::CreateFullyProvisionedResponse) {
    response.secret_key.clear();
    if let Some(tenant) = &mut response.tenant {
        (tenant.id, tenant.api_key_public, tenant.etag) = Default::default();
        (tenant.created_at, tenant.updated_at, tenant.deleted_at) = Default::default();
    }
    if let Some(segment) = &mut response.segment {
        (segment.id, segment.tenant_id, segment.etag) = Default::default();
        (segment.created_at, segment.updated_at) = Default::default();
    }
    for package in &mut response.packages {
        (package.id, package.tenant_id, package.segment_id, package.etag) = Default::default();
        (package.created_at, package.updated_at) = Default::default();
    }
}

/// The violations stay in the form until the strength of the password is known.
impl TryFrom<pb::CreateFromSignupRequest> for SignupForm {
    type Error = Violations;

    fn try_from(request: pb::CreateFromSignupRequest) -> Result<Self, Violations> {
        let password = Zeroizing::new(request.password);
        let mut violations = Violations::default();
        let business_name = violations.check("business_name", DisplayName::parse(&request.business_name));
        let slug = match (request.slug, &business_name) {
            (Some(slug), _) => violations
                .check_optional("slug", Some(slug), |slug| TenantSlug::parse(&slug))
                .map(SignupSlug::Requested),
            (None, Some(name)) => {
                violations.check("business_name", SlugStem::from_name(name.as_str())).map(SignupSlug::Derived)
            }
            (None, None) => None,
        };
        let email = violations.check("email", Email::parse(&request.email));
        let password = violations.check("password", Password::parse(&password));
        let request_id = violations.check_optional("request_id", request.request_id, |text| RequestId::parse(&text));
        Ok(Self { violations, business_name, email, password, slug, request_id })
    }
}

impl From<CreateOutcome> for pb::CreateFromSignupResponse {
    fn from(outcome: CreateOutcome) -> Self {
        let pb::CreateFullyProvisionedResponse { tenant, secret_key, segment, packages, replayed } = outcome.into();
        Self { tenant, secret_key, segment, packages, replayed }
    }
}
