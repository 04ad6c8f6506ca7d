//! Sends the calls about a tenant and its keys.

use prost_types::Duration as ProtoDuration;
use rand::RngExt as _;
use tonic::Status;
use turnkey::grpc::pb::{
    ApiKey, BatchCreateFullyProvisionedRequest, CreateApiKeyRequest, CreateFromSignupRequest,
    CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, DeleteTenantRequest, GetTenantRequest,
    ListApiKeysRequest, PurgeTenantRequest, ReactivateTenantRequest, RepairTenantRequest, RepairTenantResponse,
    RevokeApiKeyRequest, RotateApiKeyRequest, SuspendTenantRequest, Tenant, UndeleteTenantRequest, UpdateTenantRequest,
    VerifyApiKeyRequest, batch_create_fully_provisioned_result::Result as BatchResult, get_tenant_request::Identifier,
    tenant_provisioning_client::TenantProvisioningClient,
};

use super::{
    Client,
    views::{key_view, package_view, tenant_view},
};
use crate::{
    histories::{
        history::{Call, Outcome, Response},
        model::Origin,
    },
    support::{
        connect::Transport,
        requests::{named, signup},
    },
};

impl Client {
    pub(super) async fn create(&mut self, transport: Transport) -> Result<Outcome, Status> {
        let mut client = TenantProvisioningClient::new(transport);
        let Origin { slug, name, owner } = &self.common.origin;
        let request_id = Some(self.common.request_id.clone());
        if let Some(email) = owner {
            let request = CreateFromSignupRequest { slug: Some(slug.clone()), request_id, ..signup(name, email) };
            let created = client.create_from_signup(request).await?.into_inner();
            return Ok(created_outcome(created.tenant, created.secret_key, created.replayed));
        }
        let request = CreateFullyProvisionedRequest { name: name.clone(), request_id, ..named(slug) };
        let created = if self.random.random() {
            client.create_fully_provisioned(request).await?.into_inner()
        } else {
            // The other item is refused, which does not concern this one.
            let requests = vec![named("admin"), request];
            let batch = client.batch_create_fully_provisioned(BatchCreateFullyProvisionedRequest { requests }).await?;
            match batch.into_inner().results.pop().and_then(|result| result.result) {
                Some(BatchResult::Provisioned(created)) => created,
                Some(BatchResult::Error(error))
                    if ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"].contains(&&*error.code) =>
                {
                    return Ok(Outcome::Unknown);
                }
                Some(BatchResult::Error(error)) if error.code == "ALREADY_EXISTS" => {
                    return Ok(Outcome::Refused(error.reason));
                }
                other => panic!("unexpected: {other:?}"),
            }
        };
        let CreateFullyProvisionedResponse { tenant, secret_key, replayed, .. } = created;
        Ok(created_outcome(tenant, secret_key, replayed))
    }

    pub(super) async fn send_about_tenant(&self, call: &Call, transport: Transport) -> Result<Outcome, Status> {
        let mut client = TenantProvisioningClient::new(transport);
        let tenant_id = self.known.tenant_id.clone();
        let tenant = match call.clone() {
            Call::Rename { name, etag } => {
                let request = UpdateTenantRequest { tenant_id, name: Some(name), etag, ..Default::default() };
                client.update_tenant(request).await?.into_inner().tenant
            }
            Call::SetActive(false) => {
                client.suspend_tenant(SuspendTenantRequest { tenant_id }).await?.into_inner().tenant
            }
            Call::SetActive(true) => {
                client.reactivate_tenant(ReactivateTenantRequest { tenant_id }).await?.into_inner().tenant
            }
            Call::Delete { etag } => {
                client.delete_tenant(DeleteTenantRequest { tenant_id, etag }).await?.into_inner().tenant
            }
            Call::Undelete => client.undelete_tenant(UndeleteTenantRequest { tenant_id }).await?.into_inner().tenant,
            Call::Purge => {
                let request = PurgeTenantRequest { tenant_id, confirm_slug: self.common.origin.slug.clone() };
                client.purge_tenant(request).await?;
                return Ok(Outcome::Ok(Response::Empty));
            }
            Call::Repair => {
                let RepairTenantResponse { tenant, created_segment, created_packages, created_api_key, .. } =
                    client.repair_tenant(RepairTenantRequest { tenant_id }).await?.into_inner();
                assert_eq!((created_segment, created_api_key), (None, None));
                let packages = created_packages.into_iter().map(package_view).collect();
                return Ok(Outcome::Ok(Response::Repaired { tenant: tenant_view(tenant.unwrap()), packages }));
            }
            _ => {
                let identifier = Some(Identifier::TenantId(tenant_id));
                client.get_tenant(GetTenantRequest { identifier }).await?.into_inner().tenant
            }
        };
        Ok(Outcome::Ok(Response::Tenant(tenant_view(tenant.unwrap()))))
    }

    pub(super) async fn send_about_keys(&self, call: &Call, transport: Transport) -> Result<Outcome, Status> {
        let mut client = TenantProvisioningClient::new(transport);
        let tenant_id = self.known.tenant_id.clone();
        let added = |key: Option<ApiKey>, secret: String, replayed| {
            let secret = Some(secret).filter(|secret| !secret.is_empty());
            Response::Key { public_key: key.unwrap().public_key, secret, replayed }
        };
        Ok(Outcome::Ok(match call.clone() {
            Call::CreateKey { request_id } => {
                let request = CreateApiKeyRequest { tenant_id, request_id: Some(request_id), ..Default::default() };
                let response = client.create_api_key(request).await?.into_inner();
                added(response.api_key, response.secret_key, response.replayed)
            }
            Call::Rotate { request_id, replaced, at_once } => {
                let (overlap, request_id) = (at_once.then(ProtoDuration::default), Some(request_id));
                let request = RotateApiKeyRequest { tenant_id, overlap, request_id, public_key: replaced };
                let response = client.rotate_api_key(request).await?.into_inner();
                added(response.api_key, response.secret_key, response.replayed)
            }
            Call::Revoke { public_key } => {
                let request = RevokeApiKeyRequest { tenant_id, public_key };
                Response::Revoked(key_view(client.revoke_api_key(request).await?.into_inner().api_key.unwrap()))
            }
            Call::VerifyKey { public_key } => {
                let secret_key = self.known.keys[&public_key].clone();
                let response = client.verify_api_key(VerifyApiKeyRequest { secret_key }).await?.into_inner();
                Response::Verdict(response.verdict().as_str_name())
            }
            _ => {
                let request = ListApiKeysRequest { tenant_id, page_size: 500, ..Default::default() };
                let keys = client.list_api_keys(request).await?.into_inner().api_keys;
                Response::Keys(keys.into_iter().map(key_view).collect())
            }
        }))
    }
}

fn created_outcome(tenant: Option<Tenant>, secret: String, replayed: bool) -> Outcome {
    let secret = Some(secret).filter(|secret| !secret.is_empty());
    Outcome::Ok(Response::Created { tenant: tenant_view(tenant.unwrap()), secret, replayed })
}
