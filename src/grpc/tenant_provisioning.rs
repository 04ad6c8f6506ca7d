//! `turnkey.v1.TenantProvisioning`: convert, call, convert.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{
    call::Calls,
    convert::provisioning as convert,
    pb::{self, tenant_provisioning_server::TenantProvisioning},
};
use crate::service::Provisioning;

/// Serves the RPCs; the work is done in [`Provisioning`].
#[derive(Debug)]
pub struct TenantProvisioningHandler {
    service: Arc<Provisioning>,
    calls: Calls,
}

impl TenantProvisioningHandler {
    #[must_use]
    pub fn new(service: Provisioning, calls: Calls) -> Self {
        Self { service: Arc::new(service), calls }
    }
}

#[async_trait]
impl TenantProvisioning for TenantProvisioningHandler {
    async fn create_fully_provisioned(
        &self,
        request: Request<pb::CreateFullyProvisionedRequest>,
    ) -> Result<Response<pb::CreateFullyProvisionedResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |wish| async move { service.create_fully_provisioned(wish).await };
        let (parse, render) = (convert::create_fully_provisioned, convert::create_fully_provisioned_response);
        self.calls.answer(request, parse, work, render).await
    }

    async fn get_tenant(
        &self,
        request: Request<pb::GetTenantRequest>,
    ) -> Result<Response<pb::GetTenantResponse>, Status> {
        let service = Arc::clone(&self.service);
        let work = |identifier| async move { service.get_tenant(identifier).await };
        self.calls.answer(request, convert::get_tenant, work, convert::get_tenant_response).await
    }
}
