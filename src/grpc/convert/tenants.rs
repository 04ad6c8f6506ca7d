//! Messages about existing tenants.

use super::{branding, timestamp};
use crate::{
    domain::{
        CommissionPercent, DisplayName, InvalidValue, ListTenants, Reason, Slug, Tenant, TenantChange, TenantId,
        TenantIdentifier, TenantUpdate, Violations,
        paging::PageSize,
        tenant::{TenantFilter, TenantOrder},
    },
    grpc::{pb, tenant_access::LimitedRequest},
};

impl TryFrom<pb::GetTenantRequest> for TenantIdentifier {
    type Error = Violations;

    fn try_from(request: pb::GetTenantRequest) -> Result<Self, Violations> {
        use pb::get_tenant_request::Identifier;

        let mut fields = Violations::default();
        let identifier = match request.identifier {
            Some(Identifier::TenantId(id)) => {
                fields.check_optional("tenant_id", Some(id), |id| TenantId::parse(&id)).map(Self::Id)
            }
            Some(Identifier::Slug(slug)) => {
                fields.check_optional("slug", Some(slug), |slug| Slug::parse(&slug)).map(Self::Slug)
            }
            None => {
                let invalid = InvalidValue::new(Reason::MissingField, "is required: set tenant_id or slug");
                fields.check("identifier", Err(invalid))
            }
        };
        fields.into_result(|| identifier)
    }
}

impl TryFrom<LimitedRequest<pb::ListTenantsRequest>> for ListTenants {
    type Error = Violations;

    fn try_from(request: LimitedRequest<pb::ListTenantsRequest>) -> Result<Self, Violations> {
        let LimitedRequest { message: request, limit: tenants } = request;
        let mut fields = Violations::default();
        let filter = TenantFilter { is_active: request.is_active, show_deleted: request.show_deleted };
        let order = fields.check("newest_first", order(request.newest_first, request.slug_prefix));
        let size = fields.check("page_size", PageSize::parse(request.page_size));
        let list = order.zip(size).map(|(order, size)| Self { tenants, filter, order, size });
        let list = list.and_then(|list| fields.check("page_token", list.after(&request.page_token)));
        fields.into_result(|| list)
    }
}

/// Returns the order at the start of the list.
fn order(newest_first: bool, slug_prefix: String) -> Result<TenantOrder, InvalidValue> {
    match (newest_first, slug_prefix.is_empty()) {
        (false, true) => Ok(TenantOrder::OldestFirst(None)),
        (true, true) => Ok(TenantOrder::NewestFirst(None)),
        (false, false) => Ok(TenantOrder::SlugPrefix(slug_prefix, None)),
        (true, false) => Err(InvalidValue::new(Reason::BadFormat, "must not be set together with slug_prefix")),
    }
}

impl TryFrom<pb::UpdateTenantRequest> for (TenantId, TenantChange) {
    type Error = Violations;

    fn try_from(request: pb::UpdateTenantRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        if request.name.is_none() && request.commission_percent.is_none() && request.branding.is_none() {
            let description = "is required unless commission_percent or branding is set";
            fields.add("name", InvalidValue::new(Reason::MissingField, description));
        }
        let name = fields.check_optional("name", request.name, |name| DisplayName::parse(&name));
        let commission =
            fields.check_optional("commission_percent", request.commission_percent, CommissionPercent::parse);
        let branding = fields.check_optional("branding", request.branding, |message| branding::parse(&message));
        fields.into_result(|| Some((tenant_id?, TenantChange::Update(TenantUpdate { name, commission, branding }))))
    }
}

impl TryFrom<pb::PurgeTenantRequest> for (TenantId, Slug) {
    type Error = Violations;

    fn try_from(request: pb::PurgeTenantRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        let confirmed = fields.check("confirm_slug", Slug::parse(&request.confirm_slug));
        fields.into_result(|| Some((tenant_id?, confirmed?)))
    }
}

impl From<Tenant> for pb::Tenant {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.id.to_string(),
            slug: tenant.slug,
            name: tenant.name,
            api_key_public: tenant.api_key_public,
            commission_percent: tenant.commission.as_f64(),
            is_active: tenant.is_active,
            created_at: Some(timestamp(tenant.created_at)),
            updated_at: Some(timestamp(tenant.updated_at)),
            branding: Some(branding::render(&tenant.branding)),
            owner_email: tenant.owner_email,
            deleted_at: tenant.deleted_at.map(timestamp),
            owner_email_verified_at: tenant.owner_email_verified_at.map(timestamp),
        }
    }
}
