//! Messages about owners' passwords.

use zeroize::Zeroizing;

use crate::{
    domain::{Email, Password, TenantId, Violations},
    grpc::pb,
};

/// A malformed address or password is not a violation: it matches no owner, which is a verdict.
impl TryFrom<pb::VerifyPasswordRequest> for (Option<Email>, Option<Password>) {
    type Error = Violations;

    fn try_from(request: pb::VerifyPasswordRequest) -> Result<Self, Violations> {
        let password = Zeroizing::new(request.password);
        Ok((Email::parse(&request.email).ok(), Password::parse(&password).ok()))
    }
}

impl From<Option<TenantId>> for pb::VerifyPasswordResponse {
    fn from(tenant_id: Option<TenantId>) -> Self {
        let verdict = if tenant_id.is_some() { pb::Verdict::Valid } else { pb::Verdict::Invalid };
        let tenant_id = tenant_id.map(|tenant_id| tenant_id.to_string()).unwrap_or_default();
        Self { verdict: verdict.into(), tenant_id }
    }
}
