//! `turnkey.v1.TenantProvisioning`: convert, call, convert.

use std::sync::Arc;

use futures_util::{TryStreamExt as _, stream};

use tonic::{Request, Response, Status, async_trait};

use super::{
    call_tasks::{CallTasks, ResponseStream, caller},
    convert::{api_keys, batches, integrity, passwords, provisioning, tenants},
    pb::{self, tenant_provisioning_server::TenantProvisioning},
};
use crate::{
    domain::{ProvisioningSource, TenantChange, integrity::IntegrityChunk},
    service::TenantService,
};

/// Serves the RPCs; the work is done in [`TenantService`].
#[derive(Debug)]
pub struct TenantProvisioningHandler {
    service: Arc<TenantService>,
    calls: CallTasks,
}

impl TenantProvisioningHandler {
    pub const fn new(service: Arc<TenantService>, calls: CallTasks) -> Self {
        Self { service, calls }
    }
}

#[async_trait]
impl TenantProvisioning for TenantProvisioningHandler {
    type CheckIntegrityStream = ResponseStream<pb::CheckIntegrityResponse>;

    async fn create_fully_provisioned(
        &self,
        request: Request<pb::CreateFullyProvisionedRequest>,
    ) -> Result<Response<pb::CreateFullyProvisionedResponse>, Status> {
        let service = Arc::clone(&self.service);
        let caller = caller(&request);
        let work = |wish| async move { service.create_fully_provisioned(caller, wish).await };
        self.calls
            .answer(
                request,
                provisioning::create_fully_provisioned,
                work,
                provisioning::create_fully_provisioned_response,
            )
            .await
    }

    async fn create_from_signup(
        &self,
        request: Request<pb::CreateFromSignupRequest>,
    ) -> Result<Response<pb::CreateFromSignupResponse>, Status> {
        let service = Arc::clone(&self.service);
        let caller = caller(&request);
        let work = |form| async move { service.create_from_signup(caller, form).await };
        self.calls
            .answer(request, provisioning::create_from_signup, work, provisioning::create_from_signup_response)
            .await
    }

    async fn batch_create_fully_provisioned(
        &self,
        request: Request<pb::BatchCreateFullyProvisionedRequest>,
    ) -> Result<Response<pb::BatchCreateFullyProvisionedResponse>, Status> {
        let service = Arc::clone(&self.service);
        let caller = caller(&request);
        let work = |items| async move {
            service.batch_create_fully_provisioned(caller, ProvisioningSource::Batch, items).await
        };
        let parse = batches::batch_create_fully_provisioned;
        self.calls.answer(request, parse, work, batches::batch_create_fully_provisioned_response).await
    }

    async fn get_tenant(
        &self,
        request: Request<pb::GetTenantRequest>,
    ) -> Result<Response<pb::GetTenantResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |identifier| async move { service.get_tenant(identifier).await };
        self.calls.answer(request, tenants::get_tenant, work, tenants::get_tenant_response).await
    }

    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Result<Response<pb::ListTenantsResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |list| async move { service.list_tenants(list).await };
        self.calls.answer(request, tenants::list_tenants, work, tenants::list_tenants_response).await
    }

    async fn update_tenant(
        &self,
        request: Request<pb::UpdateTenantRequest>,
    ) -> Result<Response<pb::UpdateTenantResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(tenant_id, change)| async move { service.change_tenant(tenant_id, change).await };
        self.calls.answer(request, tenants::update_tenant, work, tenants::update_tenant_response).await
    }

    async fn suspend_tenant(
        &self,
        request: Request<pb::SuspendTenantRequest>,
    ) -> Result<Response<pb::SuspendTenantResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |tenant_id| async move { service.change_tenant(tenant_id, TenantChange::Suspend).await };
        self.calls.answer(request, tenants::suspend_tenant, work, tenants::suspend_tenant_response).await
    }

    async fn reactivate_tenant(
        &self,
        request: Request<pb::ReactivateTenantRequest>,
    ) -> Result<Response<pb::ReactivateTenantResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |tenant_id| async move { service.change_tenant(tenant_id, TenantChange::Reactivate).await };
        self.calls.answer(request, tenants::reactivate_tenant, work, tenants::reactivate_tenant_response).await
    }

    async fn delete_tenant(
        &self,
        request: Request<pb::DeleteTenantRequest>,
    ) -> Result<Response<pb::DeleteTenantResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |tenant_id| async move { service.change_tenant(tenant_id, TenantChange::Delete).await };
        self.calls.answer(request, tenants::delete_tenant, work, tenants::delete_tenant_response).await
    }

    async fn undelete_tenant(
        &self,
        request: Request<pb::UndeleteTenantRequest>,
    ) -> Result<Response<pb::UndeleteTenantResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |tenant_id| async move { service.change_tenant(tenant_id, TenantChange::Undelete).await };
        self.calls.answer(request, tenants::undelete_tenant, work, tenants::undelete_tenant_response).await
    }

    async fn rotate_api_key(
        &self,
        request: Request<pb::RotateApiKeyRequest>,
    ) -> Result<Response<pb::RotateApiKeyResponse>, Status> {
        let service = Arc::clone(&self.service);
        let caller = caller(&request);
        let work = |rotation| async move { service.rotate_api_key(caller, rotation).await };
        self.calls.answer(request, api_keys::rotate_api_key, work, api_keys::rotate_api_key_response).await
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Result<Response<pb::ListApiKeysResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |tenant_id| async move { service.list_api_keys(tenant_id).await };
        self.calls.answer(request, api_keys::list_api_keys, work, api_keys::list_api_keys_response).await
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Result<Response<pb::RevokeApiKeyResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(tenant_id, public_key)| async move { service.revoke_api_key(tenant_id, public_key).await };
        self.calls.answer(request, api_keys::revoke_api_key, work, api_keys::revoke_api_key_response).await
    }

    async fn verify_api_key(
        &self,
        request: Request<pb::VerifyApiKeyRequest>,
    ) -> Result<Response<pb::VerifyApiKeyResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |secret_key| async move { service.verify_api_key(secret_key).await };
        self.calls.answer(request, api_keys::verify_api_key, work, api_keys::verify_api_key_response).await
    }

    async fn verify_password(
        &self,
        request: Request<pb::VerifyPasswordRequest>,
    ) -> Result<Response<pb::VerifyPasswordResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |(email, password)| async move { service.verify_password(email, password).await };
        self.calls.answer(request, passwords::verify_password, work, passwords::verify_password_response).await
    }

    async fn check_integrity(
        &self,
        request: Request<pb::CheckIntegrityRequest>,
    ) -> Result<Response<Self::CheckIntegrityStream>, Status> {
        let service = Arc::clone(&self.service);
        let findings = |chunk: IntegrityChunk| stream::iter(chunk.findings.into_iter().map(Ok));
        let work = |only| service.check_integrity(only).map_ok(findings).try_flatten();
        self.calls.stream(request, integrity::check_integrity, work, integrity::check_integrity_response)
    }

    async fn repair_tenant(
        &self,
        request: Request<pb::RepairTenantRequest>,
    ) -> Result<Response<pb::RepairTenantResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |tenant_id| async move { service.repair_tenant(tenant_id, true).await };
        self.calls.answer(request, integrity::repair_tenant, work, integrity::repair_tenant_response).await
    }
}
