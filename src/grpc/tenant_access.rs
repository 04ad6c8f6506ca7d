//! Which requests a caller may make that is limited to tenants: one with a tenant's key, or with a token or certificate
//! that the tokens file limits. `handler` checks each request before it is converted and before anything is read.
//!
//! Such a caller may make calls that name one of its tenants in `tenant_id`, and list what its tenants have. Every
//! other call is denied, so a request that is new in the API is denied until this file says what it names.

use tonic::Request;

use super::{layers::call_context::CallContext, pb};
use crate::domain::{Caller, TenantId, TenantLimit};

/// The tenants that a request concerns.
pub enum RequestedTenants<'request> {
    /// The tenant with this id, which may be malformed.
    One(&'request str),
    /// Those that the caller may access.
    Accessible,
    /// A new tenant, or one that the request does not name in `tenant_id`.
    Any,
}

pub trait TenantRequest {
    fn tenants(&self) -> RequestedTenants<'_>;
}

/// Whether a caller may make a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Permitted,
    Denied,
    /// The caller is limited, and the id is malformed. The conversion of the request reports that with all other
    /// violations.
    MalformedId,
}

impl Access {
    pub fn check(caller: &Caller, request: &impl TenantRequest) -> Self {
        let Some(limit) = caller.tenant_limit() else { return Self::Permitted };
        match request.tenants() {
            RequestedTenants::One(id) => match TenantId::parse(id) {
                Ok(id) if limit.contains(id) => Self::Permitted,
                Ok(_) => Self::Denied,
                Err(_) => Self::MalformedId,
            },
            RequestedTenants::Accessible => Self::Permitted,
            RequestedTenants::Any => Self::Denied,
        }
    }
}

/// A request whose response shows several tenants, and the tenants that its caller is limited to.
#[derive(Debug)]
pub struct LimitedRequest<Message> {
    pub message: Message,
    pub limit: Option<TenantLimit>,
}

/// Adds the limit of the caller to its request.
pub fn with_limit<Message>(request: Request<Message>) -> Request<LimitedRequest<Message>> {
    // `handler` refuses a request without a caller.
    let caller = request.extensions().get::<CallContext>().and_then(|context| context.caller.as_ref());
    let limit = caller.and_then(Caller::tenant_limit);
    request.map(|message| LimitedRequest { message, limit })
}

impl<Message: TenantRequest> TenantRequest for LimitedRequest<Message> {
    fn tenants(&self) -> RequestedTenants<'_> {
        self.message.tenants()
    }
}

macro_rules! with_a_tenant_id {
    ($($request:ident)+) => {$(
        impl TenantRequest for pb::$request {
            fn tenants(&self) -> RequestedTenants<'_> {
                RequestedTenants::One(&self.tenant_id)
            }
        }
    )+};
}

macro_rules! without_a_tenant_id {
    ($($request:ident)+) => {$(
        impl TenantRequest for pb::$request {
            fn tenants(&self) -> RequestedTenants<'_> {
                RequestedTenants::Any
            }
        }
    )+};
}

with_a_tenant_id! {
    UpdateTenantRequest SuspendTenantRequest ReactivateTenantRequest DeleteTenantRequest UndeleteTenantRequest
    PurgeTenantRequest
    CreateApiKeyRequest RotateApiKeyRequest ListApiKeysRequest RevokeApiKeyRequest SetOwnerRequest RepairTenantRequest
    UpsertPackageRequest BatchUpsertPackagesRequest GetPackageRequest ListPackagesRequest DeletePackageRequest
    UpsertSegmentRequest GetSegmentRequest ListSegmentsRequest DeleteSegmentRequest
}

without_a_tenant_id! {
    CreateFullyProvisionedRequest CreateFromSignupRequest BatchCreateFullyProvisionedRequest
    VerifyApiKeyRequest VerifyPasswordRequest ChangePasswordRequest CreateOwnerTokenRequest ResetPasswordRequest
    VerifyEmailRequest
}

impl TenantRequest for pb::GetTenantRequest {
    fn tenants(&self) -> RequestedTenants<'_> {
        match &self.identifier {
            Some(pb::get_tenant_request::Identifier::TenantId(id)) => RequestedTenants::One(id),
            _ => RequestedTenants::Any,
        }
    }
}

impl TenantRequest for pb::ListTenantsRequest {
    fn tenants(&self) -> RequestedTenants<'_> {
        RequestedTenants::Accessible
    }
}

impl TenantRequest for pb::ListEventsRequest {
    fn tenants(&self) -> RequestedTenants<'_> {
        self.tenant_id.as_deref().map_or(RequestedTenants::Accessible, RequestedTenants::One)
    }
}

impl TenantRequest for pb::WatchEventsRequest {
    fn tenants(&self) -> RequestedTenants<'_> {
        self.tenant_id.as_deref().map_or(RequestedTenants::Accessible, RequestedTenants::One)
    }
}

impl TenantRequest for pb::CheckIntegrityRequest {
    fn tenants(&self) -> RequestedTenants<'_> {
        self.tenant_id.as_deref().map_or(RequestedTenants::Accessible, RequestedTenants::One)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{ApiKeyScope, PublicKey, Role, caller::PresentedKey};

    #[test]
    fn a_limited_caller_may_name_its_tenants_and_list_what_they_have() {
        use pb::get_tenant_request::Identifier;

        let ids = [1, 2, 3].map(|id| TenantId::from_uuid(Uuid::from_u128(id)));
        let [one, two, other] = ids.map(|id| id.to_string());
        let limit = TenantLimit::new(ids[..2].iter().copied()).unwrap();
        let limited = Caller::service("booking", &[Role::Provisioner], Some(limit));
        let public_key = PublicKey::parse("pk_live_bella_0123456789abcdef").unwrap();
        let scope = ApiKeyScope::Catalog;
        let tenant = Caller::tenant_key(PresentedKey { tenant_id: ids[0], public_key, scope });
        let named = |id: &str| pb::DeleteTenantRequest { tenant_id: id.to_owned(), ..Default::default() };
        for (id, by_service, by_tenant) in [
            (&*one, Access::Permitted, Access::Permitted),
            (&two, Access::Permitted, Access::Denied),
            (&other, Access::Denied, Access::Denied),
            ("", Access::MalformedId, Access::MalformedId),
            ("bella", Access::MalformedId, Access::MalformedId),
        ] {
            let get = pb::GetTenantRequest { identifier: Some(Identifier::TenantId(id.to_owned())) };
            let check = pb::CheckIntegrityRequest { tenant_id: Some(id.to_owned()) };
            for (caller, expected) in [(&limited, by_service), (&tenant, by_tenant)] {
                assert_eq!(Access::check(caller, &named(id)), expected, "{id}");
                assert_eq!(Access::check(caller, &get), expected, "{id}");
                assert_eq!(Access::check(caller, &check), expected, "{id}");
            }
            assert_eq!(Access::check(&Caller::anonymous(), &named(id)), Access::Permitted);
        }
        assert_eq!(Access::check(&limited, &pb::ListTenantsRequest::default()), Access::Permitted);
        assert_eq!(Access::check(&limited, &pb::CheckIntegrityRequest::default()), Access::Permitted);
        assert_eq!(Access::check(&limited, &pb::GetTenantRequest::default()), Access::Denied);
        for identifier in [Identifier::Slug, Identifier::ExternalId, Identifier::PublicKey, Identifier::OwnerEmail] {
            let get = pb::GetTenantRequest { identifier: Some(identifier(one.clone())) };
            assert_eq!(Access::check(&limited, &get), Access::Denied);
        }
        assert_eq!(Access::check(&limited, &pb::VerifyApiKeyRequest::default()), Access::Denied);
    }
}
