//! Passwords of owners.

use zeroize::Zeroizing;

use crate::{
    domain::{Email, Password, TenantId},
    error::Result,
    grpc::pb,
};

/// Nothing is a bad request here: what cannot be an address or a password is merely not right.
pub fn verify_password(request: pb::VerifyPasswordRequest) -> Result<(Option<Email>, Option<Password>)> {
    let password = Zeroizing::new(request.password);
    Ok((Email::parse(&request.email).ok(), Password::parse(&password).ok()))
}

pub fn verify_password_response(tenant_id: Option<TenantId>) -> pb::VerifyPasswordResponse {
    match tenant_id {
        Some(tenant_id) => {
            pb::VerifyPasswordResponse { verdict: pb::Verdict::Valid.into(), tenant_id: tenant_id.to_string() }
        }
        None => pb::VerifyPasswordResponse { verdict: pb::Verdict::Invalid.into(), tenant_id: String::new() },
    }
}
