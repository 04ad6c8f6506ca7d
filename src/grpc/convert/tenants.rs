//! A tenant's life after its creation.

use super::{branding, timestamp};
use crate::{
    domain::{
        CommissionPercent, DisplayName, InvalidValue, ListTenants, Reason, Slug, Tenant, TenantChange, TenantId,
        TenantIdentifier, TenantUpdate, Violations,
        paging::{Page, PageSize},
        tenant::TenantFilter,
    },
    error::Result,
    grpc::pb,
};

pub fn get_tenant(request: pb::GetTenantRequest) -> Result<TenantIdentifier> {
    use pb::get_tenant_request::Identifier;

    let mut fields = Violations::default();
    let identifier = match request.identifier {
        Some(Identifier::TenantId(id)) => fields.check("tenant_id", TenantId::parse(&id)).map(TenantIdentifier::Id),
        Some(Identifier::Slug(slug)) => fields.check("slug", Slug::parse(&slug)).map(TenantIdentifier::Slug),
        None => {
            fields.add("identifier", InvalidValue::new(Reason::MissingField, "needs a tenant_id or a slug"));
            None
        }
    };
    Ok(fields.finish(|| identifier)?)
}

pub fn get_tenant_response(found: Tenant) -> pb::GetTenantResponse {
    pb::GetTenantResponse { tenant: Some(tenant(found)) }
}

pub fn list_tenants(request: pb::ListTenantsRequest) -> Result<ListTenants> {
    let mut fields = Violations::default();
    let filter = TenantFilter {
        is_active: request.is_active,
        slug_prefix: request.slug_prefix,
        show_deleted: request.show_deleted,
    };
    let size = fields.check("page_size", PageSize::parse(request.page_size));
    let after = fields.check("page_token", filter.decode_page_token(&request.page_token));
    Ok(fields.finish(|| Some(ListTenants { filter, size: size?, after: after? }))?)
}

pub fn list_tenants_response(page: Page<Tenant>) -> pb::ListTenantsResponse {
    pb::ListTenantsResponse {
        tenants: page.items.into_iter().map(tenant).collect(),
        next_page_token: page.next_page_token,
    }
}

pub fn update_tenant(request: pb::UpdateTenantRequest) -> Result<(TenantId, TenantChange)> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
    if request.name.is_none() && request.commission_percent.is_none() && request.branding.is_none() {
        let why = "is required, or commission_percent, or branding: nothing is to be changed";
        fields.add("name", InvalidValue::new(Reason::MissingField, why));
    }
    let name = fields.check_optional("name", request.name, |name| DisplayName::parse(&name));
    let commission = fields.check_optional("commission_percent", request.commission_percent, CommissionPercent::parse);
    let branding = fields.check_optional("branding", request.branding, branding::parse);
    Ok(fields.finish(|| {
        let update = TenantUpdate { name: name?, commission: commission?, branding: branding? };
        Some((tenant_id?, TenantChange::Update(update)))
    })?)
}

pub fn update_tenant_response(updated: Tenant) -> pb::UpdateTenantResponse {
    pb::UpdateTenantResponse { tenant: Some(tenant(updated)) }
}

pub fn suspend_tenant(request: pb::SuspendTenantRequest) -> Result<TenantId> {
    tenant_id(&request.tenant_id)
}

pub fn suspend_tenant_response(suspended: Tenant) -> pb::SuspendTenantResponse {
    pb::SuspendTenantResponse { tenant: Some(tenant(suspended)) }
}

pub fn reactivate_tenant(request: pb::ReactivateTenantRequest) -> Result<TenantId> {
    tenant_id(&request.tenant_id)
}

pub fn reactivate_tenant_response(reactivated: Tenant) -> pb::ReactivateTenantResponse {
    pb::ReactivateTenantResponse { tenant: Some(tenant(reactivated)) }
}

pub fn delete_tenant(request: pb::DeleteTenantRequest) -> Result<TenantId> {
    tenant_id(&request.tenant_id)
}

pub fn delete_tenant_response(deleted: Tenant) -> pb::DeleteTenantResponse {
    pb::DeleteTenantResponse { tenant: Some(tenant(deleted)) }
}

pub fn undelete_tenant(request: pb::UndeleteTenantRequest) -> Result<TenantId> {
    tenant_id(&request.tenant_id)
}

pub fn undelete_tenant_response(undeleted: Tenant) -> pb::UndeleteTenantResponse {
    pb::UndeleteTenantResponse { tenant: Some(tenant(undeleted)) }
}

/// Of a request that has nothing else.
pub(super) fn tenant_id(text: &str) -> Result<TenantId> {
    let mut fields = Violations::default();
    let tenant_id = fields.check("tenant_id", TenantId::parse(text));
    Ok(fields.finish(|| tenant_id)?)
}

pub(super) fn tenant(tenant: Tenant) -> pb::Tenant {
    pb::Tenant {
        id: tenant.id.to_string(),
        slug: tenant.slug,
        name: tenant.name,
        api_key_public: tenant.api_key_public,
        commission_percent: tenant.commission.as_f64(),
        is_active: tenant.is_active,
        created_at: Some(timestamp(tenant.created_at)),
        updated_at: Some(timestamp(tenant.updated_at)),
        branding: Some(branding::render(tenant.branding)),
        owner_email: tenant.owner_email,
        deleted_at: tenant.deleted_at.map(timestamp),
    }
}
