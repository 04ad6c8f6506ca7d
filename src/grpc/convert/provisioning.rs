//! `TenantProvisioning`.

use prost_types::{Struct, Value as PbValue, value::Kind};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use super::{package, segment, timestamp};
use crate::{
    domain::{
        CommissionPercent, CreateFullyProvisioned, DisplayName, Invalid, Provisioned, Reason, RequestId, Slug, Tenant,
        TenantId, TenantIdentifier, TenantSlug, Violations, defaults, provisioning::Outcome,
    },
    error::Result,
    grpc::pb,
};

pub fn create_fully_provisioned(request: pb::CreateFullyProvisionedRequest) -> Result<CreateFullyProvisioned> {
    let mut fields = Violations::default();
    let slug = fields.check("slug", TenantSlug::parse(&request.slug));
    let name = fields.check("name", DisplayName::parse(&request.name));
    let commission = fields.check_optional("commission_percent", request.commission_percent, CommissionPercent::parse);
    let request_id = fields.check_optional("request_id", request.request_id, |text| RequestId::parse(&text));
    let input = fields.finish(|| {
        Some(CreateFullyProvisioned {
            slug: slug?,
            name: name?,
            commission: commission?.unwrap_or(defaults::COMMISSION),
            request_id: request_id?,
            validate_only: request.validate_only,
        })
    })?;
    Ok(input)
}

pub fn create_fully_provisioned_response(outcome: Outcome) -> pb::CreateFullyProvisionedResponse {
    match outcome {
        Outcome::Created(provisioned) => provisioned_response(provisioned),
        Outcome::Validated(provisioned) => without_identity(provisioned_response(provisioned)),
    }
}

fn provisioned_response(provisioned: Provisioned) -> pb::CreateFullyProvisionedResponse {
    pb::CreateFullyProvisionedResponse {
        tenant: Some(tenant(provisioned.tenant)),
        secret_key: provisioned.secret_key.expose_secret().to_owned(),
        segment: Some(segment(provisioned.segment)),
        packages: provisioned.packages.into_iter().map(package).collect(),
        replayed: false,
    }
}

/// Leaves out what only a written tenant has: ids, keys and times.
fn without_identity(response: pb::CreateFullyProvisionedResponse) -> pb::CreateFullyProvisionedResponse {
    let none = String::new;
    pb::CreateFullyProvisionedResponse {
        tenant: response.tenant.map(|tenant| pb::Tenant {
            id: none(),
            api_key_public: none(),
            created_at: None,
            updated_at: None,
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

pub fn get_tenant(request: pb::GetTenantRequest) -> Result<TenantIdentifier> {
    use pb::get_tenant_request::Identifier;

    let mut fields = Violations::default();
    let identifier = match request.identifier {
        Some(Identifier::TenantId(id)) => fields.check("tenant_id", TenantId::parse(&id)).map(TenantIdentifier::Id),
        Some(Identifier::Slug(slug)) => fields.check("slug", Slug::parse(&slug)).map(TenantIdentifier::Slug),
        None => {
            fields.add("identifier", Invalid::new(Reason::MissingField, "needs a tenant_id or a slug"));
            None
        }
    };
    Ok(fields.finish(|| identifier)?)
}

pub fn get_tenant_response(found: Tenant) -> pb::GetTenantResponse {
    pb::GetTenantResponse { tenant: Some(tenant(found)) }
}

fn tenant(tenant: Tenant) -> pb::Tenant {
    pb::Tenant {
        id: tenant.id.to_string(),
        slug: tenant.slug,
        name: tenant.name,
        api_key_public: tenant.api_key_public,
        commission_percent: tenant.commission.as_f64(),
        is_active: tenant.is_active,
        created_at: Some(timestamp(tenant.created_at)),
        updated_at: Some(timestamp(tenant.updated_at)),
        branding: Some(structure(tenant.branding)),
        owner_email: tenant.owner_email,
        deleted_at: tenant.deleted_at.map(timestamp),
    }
}

fn structure(map: Map<String, Value>) -> Struct {
    Struct { fields: map.into_iter().map(|(key, member)| (key, value(member))).collect() }
}

fn value(json: Value) -> PbValue {
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        // Struct knows doubles alone, and so did whatever was stored from one.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(value).collect() })
        }
        Value::Object(map) => Kind::StructValue(structure(map)),
    };
    PbValue { kind: Some(kind) }
}
