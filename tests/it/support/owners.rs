//! Calls about owners: passwords, tokens and addresses.

use prost_types::Duration as ProtoDuration;
use sqlx::AssertSqlSafe;
use tonic::{Response, Status};
use turnkey::grpc::pb::{
    ChangePasswordRequest, CreateOwnerTokenRequest, CreateOwnerTokenResponse, OwnerTokenPurpose, ResetPasswordRequest,
    SetOwnerRequest, Tenant, Verdict, VerifyEmailRequest, VerifyPasswordRequest,
};

use super::{fixture::Fixture, requests::signup};

pub const BELLA: &str = "bella@example.com";
pub const NEW_PASSWORD: &str = "roses beside a lamp";

pub fn verify_password_request(email: &str, password: &str, client_address: Option<&str>) -> VerifyPasswordRequest {
    VerifyPasswordRequest {
        email: email.to_owned(),
        password: password.to_owned(),
        client_address: client_address.map(str::to_owned),
    }
}

pub fn reset_request(token: &str, new_password: &str) -> ResetPasswordRequest {
    ResetPasswordRequest { token: token.to_owned(), new_password: new_password.to_owned() }
}

/// The response of a call whose credential is invalid.
pub fn invalid() -> (Verdict, String) {
    (Verdict::Invalid, String::new())
}

impl Fixture {
    /// Signs Bella up and returns the id of her tenant, and its secret key.
    pub async fn sign_bella_up(&self) -> (String, String) {
        let response = self.sign_up(signup("Bella", BELLA)).await.unwrap();
        (response.tenant.unwrap().id, response.secret_key)
    }

    pub async fn verify_password(
        &self,
        email: &str,
        password: &str,
        client_address: Option<&str>,
    ) -> Result<(Verdict, String), Status> {
        let request = verify_password_request(email, password, client_address);
        let response = self.provisioning.clone().verify_password(request).await?.into_inner();
        Ok((response.verdict(), response.tenant_id))
    }

    pub async fn change_password(
        &self,
        email: &str,
        current_password: &str,
        new_password: &str,
    ) -> Result<(Verdict, String), Status> {
        let request = ChangePasswordRequest {
            email: email.to_owned(),
            current_password: current_password.to_owned(),
            new_password: new_password.to_owned(),
            client_address: None,
        };
        let response = self.provisioning.clone().change_password(request).await?.into_inner();
        Ok((response.verdict(), response.tenant_id))
    }

    pub async fn create_owner_token(
        &self,
        email: &str,
        purpose: OwnerTokenPurpose,
        ttl: Option<ProtoDuration>,
    ) -> Result<CreateOwnerTokenResponse, Status> {
        let request = CreateOwnerTokenRequest { email: email.to_owned(), purpose: purpose.into(), ttl };
        self.provisioning.clone().create_owner_token(request).await.map(Response::into_inner)
    }

    pub async fn reset_token(&self, email: &str) -> String {
        self.create_owner_token(email, OwnerTokenPurpose::ResetPassword, None).await.unwrap().token
    }

    pub async fn verification_token(&self, email: &str) -> String {
        self.create_owner_token(email, OwnerTokenPurpose::VerifyEmail, None).await.unwrap().token
    }

    pub async fn reset_password(&self, token: &str, new_password: &str) -> Result<(Verdict, String), Status> {
        let request = reset_request(token, new_password);
        let response = self.provisioning.clone().reset_password(request).await?.into_inner();
        Ok((response.verdict(), response.tenant_id))
    }

    pub async fn verify_email(&self, token: &str) -> (Verdict, String) {
        let request = VerifyEmailRequest { token: token.to_owned() };
        let response = self.provisioning.clone().verify_email(request).await.unwrap().into_inner();
        (response.verdict(), response.tenant_id)
    }

    pub async fn set_owner(&self, tenant_id: &str, email: &str, password: Option<&str>) -> Result<Tenant, Status> {
        let request = SetOwnerRequest {
            tenant_id: tenant_id.to_owned(),
            email: email.to_owned(),
            password: password.map(str::to_owned),
        };
        Ok(self.provisioning.clone().set_owner(request).await?.into_inner().tenant.unwrap())
    }

    /// The rows of `password_attempts` that meet the condition.
    pub async fn attempts_where(&self, condition: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM password_attempts WHERE {condition}");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.superuser_pool().await).await.unwrap()
    }
}
