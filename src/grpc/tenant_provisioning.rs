//! Handlers of `turnkey.v1.TenantProvisioning`. Each converts, calls its method of [`TenantService`] and converts back.

use futures_util::{TryStreamExt as _, stream};
use tonic::{Request, async_trait};

use super::{
    handler::{Handler, ResponseStream, RpcResult},
    pb::{self, tenant_provisioning_server::TenantProvisioning},
    stream_end::stream_end,
    tenant_access::with_limit,
};
use crate::{
    domain::{ProvisioningSource, TenantChange, integrity::IntegrityChunk},
    service::TenantService,
};

/// Whether `RepairTenant` creates an API key for a tenant without one. Its response can show the secret, so it does.
const REPAIR_WITH_KEY: bool = true;

#[async_trait]
impl TenantProvisioning for Handler<TenantService> {
    type CheckIntegrityStream = ResponseStream<pb::CheckIntegrityResponse>;
    type WatchEventsStream = ResponseStream<pb::WatchEventsResponse>;

    async fn create_fully_provisioned(
        &self,
        request: Request<pb::CreateFullyProvisionedRequest>,
    ) -> RpcResult<pb::CreateFullyProvisionedResponse> {
        self.unary_by_actor(request, |service, actor, spec| async move {
            service.create_fully_provisioned(actor, spec).await
        })
        .await
    }

    async fn create_from_signup(
        &self,
        request: Request<pb::CreateFromSignupRequest>,
    ) -> RpcResult<pb::CreateFromSignupResponse> {
        self.unary_by_actor(
            request,
            |service, actor, form| async move { service.create_from_signup(actor, form).await },
        )
        .await
    }

    async fn batch_create_fully_provisioned(
        &self,
        request: Request<pb::BatchCreateFullyProvisionedRequest>,
    ) -> RpcResult<pb::BatchCreateFullyProvisionedResponse> {
        self.unary_by_actor(request, |service, actor, items| async move {
            service.batch_create_fully_provisioned(actor, ProvisioningSource::Batch, items).await
        })
        .await
    }

    async fn get_tenant(&self, request: Request<pb::GetTenantRequest>) -> RpcResult<pb::GetTenantResponse> {
        self.unary(request, |service, id| async move { service.get_tenant(id).await }).await
    }

    async fn list_tenants(&self, request: Request<pb::ListTenantsRequest>) -> RpcResult<pb::ListTenantsResponse> {
        self.unary(with_limit(request), |service, list| async move { service.list_tenants(list).await }).await
    }

    async fn update_tenant(&self, request: Request<pb::UpdateTenantRequest>) -> RpcResult<pb::UpdateTenantResponse> {
        self.unary_by_actor(request, |service, actor, (id, update)| async move {
            service.update_tenant(id, update, actor).await
        })
        .await
    }

    async fn suspend_tenant(&self, request: Request<pb::SuspendTenantRequest>) -> RpcResult<pb::SuspendTenantResponse> {
        self.unary_by_actor(request, |service, actor, id| async move {
            service.change_tenant(id, TenantChange::Suspend, actor).await
        })
        .await
    }

    async fn reactivate_tenant(
        &self,
        request: Request<pb::ReactivateTenantRequest>,
    ) -> RpcResult<pb::ReactivateTenantResponse> {
        self.unary_by_actor(request, |service, actor, id| async move {
            service.change_tenant(id, TenantChange::Reactivate, actor).await
        })
        .await
    }

    async fn delete_tenant(&self, request: Request<pb::DeleteTenantRequest>) -> RpcResult<pb::DeleteTenantResponse> {
        self.unary_by_actor(request, |service, actor, (id, change)| async move {
            service.change_tenant(id, change, actor).await
        })
        .await
    }

    async fn undelete_tenant(
        &self,
        request: Request<pb::UndeleteTenantRequest>,
    ) -> RpcResult<pb::UndeleteTenantResponse> {
        self.unary_by_actor(request, |service, actor, id| async move {
            service.change_tenant(id, TenantChange::Undelete, actor).await
        })
        .await
    }

    async fn purge_tenant(&self, request: Request<pb::PurgeTenantRequest>) -> RpcResult<pb::PurgeTenantResponse> {
        self.unary_by_actor(request, |service, actor, (id, confirmed)| async move {
            service.purge_tenant(id, confirmed, actor).await
        })
        .await
    }

    async fn create_api_key(&self, request: Request<pb::CreateApiKeyRequest>) -> RpcResult<pb::CreateApiKeyResponse> {
        self.unary_by_actor(
            request,
            |service, actor, creation| async move { service.create_api_key(actor, creation).await },
        )
        .await
    }

    async fn rotate_api_key(&self, request: Request<pb::RotateApiKeyRequest>) -> RpcResult<pb::RotateApiKeyResponse> {
        self.unary_by_actor(
            request,
            |service, actor, rotation| async move { service.rotate_api_key(actor, rotation).await },
        )
        .await
    }

    async fn list_api_keys(&self, request: Request<pb::ListApiKeysRequest>) -> RpcResult<pb::ListApiKeysResponse> {
        self.unary(request, |service, (id, list)| async move { service.list_api_keys(id, list).await }).await
    }

    async fn revoke_api_key(&self, request: Request<pb::RevokeApiKeyRequest>) -> RpcResult<pb::RevokeApiKeyResponse> {
        self.unary_by_actor(request, |service, actor, (id, public_key)| async move {
            service.revoke_api_key(id, public_key, actor).await
        })
        .await
    }

    async fn verify_api_key(&self, request: Request<pb::VerifyApiKeyRequest>) -> RpcResult<pb::VerifyApiKeyResponse> {
        self.unary(request, |service, secret_key| async move { service.verify_api_key(secret_key).await }).await
    }

    async fn verify_password(
        &self,
        request: Request<pb::VerifyPasswordRequest>,
    ) -> RpcResult<pb::VerifyPasswordResponse> {
        self.unary(request, |service, log_in| async move { service.verify_password(log_in).await }).await
    }

    async fn change_password(
        &self,
        request: Request<pb::ChangePasswordRequest>,
    ) -> RpcResult<pb::ChangePasswordResponse> {
        self.unary_by_actor(request, |service, actor, form| async move { service.change_password(form, actor).await })
            .await
    }

    async fn create_owner_token(
        &self,
        request: Request<pb::CreateOwnerTokenRequest>,
    ) -> RpcResult<pb::CreateOwnerTokenResponse> {
        self.unary(request, |service, request| async move { service.create_owner_token(request).await }).await
    }

    async fn reset_password(&self, request: Request<pb::ResetPasswordRequest>) -> RpcResult<pb::ResetPasswordResponse> {
        self.unary_by_actor(request, |service, actor, reset| async move { service.reset_password(reset, actor).await })
            .await
    }

    async fn verify_email(&self, request: Request<pb::VerifyEmailRequest>) -> RpcResult<pb::VerifyEmailResponse> {
        self.unary_by_actor(request, |service, actor, token| async move { service.verify_email(token, actor).await })
            .await
    }

    async fn set_owner(&self, request: Request<pb::SetOwnerRequest>) -> RpcResult<pb::SetOwnerResponse> {
        self.unary_by_actor(request, |service, actor, form| async move { service.set_owner(form, actor).await }).await
    }

    async fn check_integrity(
        &self,
        request: Request<pb::CheckIntegrityRequest>,
    ) -> RpcResult<Self::CheckIntegrityStream> {
        let findings = |chunk: IntegrityChunk| stream::iter(chunk.findings.into_iter().map(Ok));
        self.server_streaming(with_limit(request), |service, tenants| {
            service.check_integrity(tenants).map_ok(findings).try_flatten()
        })
    }

    async fn list_events(&self, request: Request<pb::ListEventsRequest>) -> RpcResult<pb::ListEventsResponse> {
        self.unary(with_limit(request), |service, list| async move { service.list_events(list).await }).await
    }

    async fn watch_events(&self, request: Request<pb::WatchEventsRequest>) -> RpcResult<Self::WatchEventsStream> {
        let end = stream_end(&request);
        self.server_streaming(with_limit(request), |service, watch| service.watch_events(watch, end))
    }

    async fn repair_tenant(&self, request: Request<pb::RepairTenantRequest>) -> RpcResult<pb::RepairTenantResponse> {
        self.unary_by_actor(request, |service, actor, id| async move {
            service.repair_tenant(id, REPAIR_WITH_KEY, actor).await
        })
        .await
    }
}
