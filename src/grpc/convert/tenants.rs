//! Messages about existing tenants.

use super::{branding, etag, timestamp};
use crate::{
    domain::{
        BrandingPatch, CommissionPercent, DisplayName, Email, ExternalId, InvalidValue, Labels, ListTenants, PublicKey,
        Reason, Slug, Tenant, TenantChange, TenantId, TenantIdentifier, TenantUpdate, UpdateTenant, Violations,
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
            Some(Identifier::ExternalId(id)) => {
                fields.check_optional("external_id", Some(id), |id| ExternalId::parse(&id)).map(Self::ExternalId)
            }
            Some(Identifier::PublicKey(key)) => {
                fields.check_optional("public_key", Some(key), |key| PublicKey::parse(&key)).map(Self::PublicKey)
            }
            Some(Identifier::OwnerEmail(email)) => {
                fields.check_optional("owner_email", Some(email), |email| Email::parse(&email)).map(Self::OwnerEmail)
            }
            None => {
                let description = "is required: set tenant_id, slug, external_id, public_key or owner_email";
                let invalid = InvalidValue::new(Reason::MissingField, description);
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
        let labels = fields.check_nested("labels", Labels::parse(request.labels));
        let order = fields.check("newest_first", order(request.newest_first, request.slug_prefix));
        let size = fields.check("page_size", PageSize::parse(request.page_size));
        let list = order.zip(size).zip(labels).map(|((order, size), labels)| {
            let filter = TenantFilter { is_active: request.is_active, show_deleted: request.show_deleted, labels };
            Self { tenants, filter, order, size }
        });
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

impl TryFrom<pb::UpdateTenantRequest> for (TenantId, UpdateTenant) {
    type Error = Violations;

    fn try_from(request: pb::UpdateTenantRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        let has_change = request.name.is_some()
            || request.commission_percent.is_some()
            || request.branding.is_some()
            || request.branding_patch.is_some()
            || request.external_id.is_some()
            || !request.labels.is_empty()
            || request.clear_labels;
        if !has_change {
            let description = "is required unless another field besides tenant_id and etag is set";
            fields.add("name", InvalidValue::new(Reason::MissingField, description));
        }
        let name = fields.check_optional("name", request.name, |name| DisplayName::parse(&name));
        let commission =
            fields.check_optional("commission_percent", request.commission_percent, CommissionPercent::parse);
        if request.branding.is_some() && request.branding_patch.is_some() {
            let invalid = InvalidValue::new(Reason::BadFormat, "must not be set together with branding");
            fields.add("branding_patch", invalid);
        }
        let branding = fields.check_optional("branding", request.branding, |message| branding::parse(&message));
        let patch = |message| branding::parse(&message).map(BrandingPatch::new);
        let branding_patch = fields.check_optional("branding_patch", request.branding_patch, patch);
        let external_id = fields.check_optional("external_id", request.external_id, |id| ExternalId::parse(&id));
        let has_labels = !request.labels.is_empty();
        let labels = fields.check_nested("labels", Labels::parse(request.labels));
        if request.clear_labels && has_labels {
            fields.add("clear_labels", InvalidValue::new(Reason::BadFormat, "must not be set together with labels"));
        }
        let labels = labels.filter(|_labels| request.clear_labels || has_labels);
        let update = TenantUpdate { name, commission, branding, external_id, labels, etag: etag(request.etag) };
        fields.into_result(|| Some((tenant_id?, UpdateTenant { update, branding_patch })))
    }
}

impl TryFrom<pb::DeleteTenantRequest> for (TenantId, TenantChange) {
    type Error = Violations;

    fn try_from(request: pb::DeleteTenantRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let tenant_id = fields.check("tenant_id", TenantId::parse(&request.tenant_id));
        fields.into_result(|| Some((tenant_id?, TenantChange::Delete(etag(request.etag)))))
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
            etag: tenant.etag.to_string(),
            external_id: tenant.external_id,
            labels: tenant.labels,
        }
    }
}
