//! Messages about owners: their passwords, tokens and addresses.

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{durations, timestamp};
use crate::{
    domain::{
        Email, InvalidValue, LogIn, Password, Reason, TenantId, Violations,
        log_in::ClientAddress,
        owner::{
            ChangePassword, CreateOwnerToken, DEFAULT_TOKEN_TTL, MAX_TOKEN_TTL, MIN_TOKEN_TTL, NewOwnerToken,
            OwnerTokenPurpose, PasswordForm, ResetPassword, SetOwner,
        },
    },
    grpc::pb,
};

/// A malformed address or password is not a violation: it matches no owner, which is a verdict.
impl TryFrom<pb::VerifyPasswordRequest> for LogIn {
    type Error = Violations;

    fn try_from(request: pb::VerifyPasswordRequest) -> Result<Self, Violations> {
        let password = Zeroizing::new(request.password);
        let mut fields = Violations::default();
        let client_address = client_address(&mut fields, request.client_address);
        fields.into_result(|| Some(Self::new(&request.email, &password, client_address.as_ref())))
    }
}

fn client_address(fields: &mut Violations, text: Option<String>) -> Option<ClientAddress> {
    fields.check_optional("client_address", text, |text| ClientAddress::parse(&text))
}

/// The violations stay in the form until the strength of the password is known.
impl TryFrom<pb::ChangePasswordRequest> for PasswordForm<ChangePassword> {
    type Error = Violations;

    fn try_from(request: pb::ChangePasswordRequest) -> Result<Self, Violations> {
        let (current, new) = (Zeroizing::new(request.current_password), Zeroizing::new(request.new_password));
        let mut violations = Violations::default();
        let new_password = violations.check("new_password", Password::parse(&new));
        let client_address = client_address(&mut violations, request.client_address);
        let log_in = LogIn::new(&request.email, &current, client_address.as_ref());
        let (password, email) = (new_password.clone(), log_in.email.clone());
        let request = new_password.map(|new_password| ChangePassword { log_in, new_password });
        Ok(Self { violations, field: "new_password", password, email, request })
    }
}

impl TryFrom<pb::CreateOwnerTokenRequest> for CreateOwnerToken {
    type Error = Violations;

    fn try_from(request: pb::CreateOwnerTokenRequest) -> Result<Self, Violations> {
        let mut fields = Violations::default();
        let purpose = fields.check("purpose", purpose(request.purpose));
        let permitted = MIN_TOKEN_TTL..=MAX_TOKEN_TTL;
        let ttl = fields.check_optional("ttl", request.ttl, |message| {
            durations::parse(message, &permitted, "must be between 1 second and 7 days")
        });
        let (email, ttl) = (Email::parse(&request.email).ok(), ttl.unwrap_or(DEFAULT_TOKEN_TTL));
        fields.into_result(|| Some(Self { email, purpose: purpose?, ttl }))
    }
}

fn purpose(number: i32) -> Result<OwnerTokenPurpose, InvalidValue> {
    match pb::OwnerTokenPurpose::try_from(number) {
        Ok(pb::OwnerTokenPurpose::ResetPassword) => Ok(OwnerTokenPurpose::ResetPassword),
        Ok(pb::OwnerTokenPurpose::VerifyEmail) => Ok(OwnerTokenPurpose::VerifyEmail),
        Ok(pb::OwnerTokenPurpose::Unspecified) => Err(InvalidValue::missing()),
        Err(_unknown) => Err(InvalidValue::new(Reason::OutOfRange, "must be a known purpose")),
    }
}

impl TryFrom<pb::ResetPasswordRequest> for ResetPassword {
    type Error = Violations;

    fn try_from(request: pb::ResetPasswordRequest) -> Result<Self, Violations> {
        let new_password = Zeroizing::new(request.new_password);
        let mut fields = Violations::default();
        let token = request.token.into();
        let new_password = fields.check("new_password", Password::parse(&new_password));
        fields.into_result(|| Some(Self { token, new_password: new_password? }))
    }
}

/// A malformed token is not a violation: the verdict of an invalid token is the response.
impl TryFrom<pb::VerifyEmailRequest> for SecretString {
    type Error = Violations;

    fn try_from(request: pb::VerifyEmailRequest) -> Result<Self, Violations> {
        Ok(request.token.into())
    }
}

/// The violations stay in the form until the strength of the password is known.
impl TryFrom<pb::SetOwnerRequest> for PasswordForm<SetOwner> {
    type Error = Violations;

    fn try_from(request: pb::SetOwnerRequest) -> Result<Self, Violations> {
        let password = request.password.map(Zeroizing::new);
        let mut violations = Violations::default();
        let tenant_id = violations.check("tenant_id", TenantId::parse(&request.tenant_id));
        let email = violations.check("email", Email::parse(&request.email));
        let password = violations.check_optional("password", password, |text| Password::parse(&text));
        let request = tenant_id.zip(email.clone()).map(|(tenant_id, email)| SetOwner {
            tenant_id,
            email,
            password: password.clone(),
        });
        Ok(Self { violations, field: "password", password, email, request })
    }
}

impl From<NewOwnerToken> for pb::CreateOwnerTokenResponse {
    fn from(NewOwnerToken { token, expires_at }: NewOwnerToken) -> Self {
        let token = token.map(|token| token.expose_secret().to_owned()).unwrap_or_default();
        Self { token, expires_at: Some(timestamp(expires_at)) }
    }
}

/// Implements `From` for the responses that consist of a verdict, and of the tenant if it is valid.
macro_rules! verdicts {
    ($($message:ident),+) => {$(
        impl From<Option<TenantId>> for pb::$message {
            fn from(tenant_id: Option<TenantId>) -> Self {
                let verdict = if tenant_id.is_some() { pb::Verdict::Valid } else { pb::Verdict::Invalid };
                let tenant_id = tenant_id.map(|tenant_id| tenant_id.to_string()).unwrap_or_default();
                Self { verdict: verdict.into(), tenant_id }
            }
        }
    )+};
}

verdicts!(VerifyPasswordResponse, ChangePasswordResponse, ResetPasswordResponse, VerifyEmailResponse);
