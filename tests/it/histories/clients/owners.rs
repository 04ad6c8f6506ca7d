//! Sends the calls about owners: their passwords, tokens and addresses.

use tonic::Status;
use turnkey::grpc::pb::{
    ChangePasswordRequest, CreateOwnerTokenRequest, SetOwnerRequest, VerifyEmailRequest,
    tenant_provisioning_client::TenantProvisioningClient,
};

use super::{
    Client, fresh,
    views::{owner_view, tenant_view},
};
use crate::{
    histories::history::{Call, Outcome, Response},
    support::{
        connect::Transport,
        owners::{reset_request, verify_password_request},
    },
};

impl Client {
    pub(super) async fn send_about_owner(&self, call: &Call, transport: Transport) -> Result<Outcome, Status> {
        let mut client = TenantProvisioningClient::new(transport);
        Ok(Outcome::Ok(match call.clone() {
            Call::SetOwner { email, password } => {
                let request = SetOwnerRequest { tenant_id: self.known.tenant_id.clone(), email, password };
                Response::Tenant(tenant_view(client.set_owner(request).await?.into_inner().tenant.unwrap()))
            }
            Call::CreateOwnerToken { email, purpose } => {
                let request = CreateOwnerTokenRequest { email, purpose: purpose.into(), ttl: None };
                let token = client.create_owner_token(request).await?.into_inner().token;
                Response::Token(Some(token).filter(|token| !token.is_empty()))
            }
            Call::ResetPassword { token, new_password } => {
                let response = client.reset_password(reset_request(&token, &new_password)).await?.into_inner();
                owner_view(response.verdict(), response.tenant_id)
            }
            Call::VerifyEmail { token } => {
                let response = client.verify_email(VerifyEmailRequest { token }).await?.into_inner();
                owner_view(response.verdict(), response.tenant_id)
            }
            Call::ChangePassword { email, current, new } => {
                let request = ChangePasswordRequest {
                    email,
                    current_password: current,
                    new_password: new,
                    client_address: Some(new_client_address()),
                };
                let response = client.change_password(request).await?.into_inner();
                owner_view(response.verdict(), response.tenant_id)
            }
            Call::VerifyPassword { email, password } => {
                let request = verify_password_request(&email, &password, Some(&new_client_address()));
                let response = client.verify_password(request).await?.into_inner();
                owner_view(response.verdict(), response.tenant_id)
            }
            other => panic!("{other:?} is not about an owner"),
        }))
    }
}

/// Another one for each attempt: ten wrong passwords from one would lock it out.
fn new_client_address() -> String {
    format!("client-{}", fresh())
}
