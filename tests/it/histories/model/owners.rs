//! The owner of a tenant: the password, the tokens and the verified address. An owner of a deleted tenant is as unknown
//! as an address without an owner.

use turnkey::grpc::pb::OwnerTokenPurpose;

use super::{Expected, Result, Step};
use crate::histories::history::Call;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub email: String,
    pub password: Option<String>,
    pub is_verified: bool,
    pub reset_token: Option<Token>,
    pub verification_token: Option<Token>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Token {
    /// `None` until a response contains it. If that was lost, the token voids an older one, and is not used.
    pub text: Option<String>,
    is_used: bool,
}

impl Owner {
    pub fn new(email: &str, password: Option<&str>) -> Self {
        let (email, password) = (email.to_owned(), password.map(str::to_owned));
        Self { email, password, is_verified: false, reset_token: None, verification_token: None }
    }

    pub fn token_mut(&mut self, purpose: OwnerTokenPurpose) -> &mut Option<Token> {
        match purpose {
            OwnerTokenPurpose::VerifyEmail => &mut self.verification_token,
            _ => &mut self.reset_token,
        }
    }

    fn has_password(&self, password: &str) -> bool {
        self.password.as_deref() == Some(password)
    }
}

fn is_token(token: Option<&Token>, text: &str) -> bool {
    token.is_some_and(|token| token.text.as_deref() == Some(text))
}

impl Step<'_> {
    fn owner(&mut self) -> Option<&mut Owner> {
        self.tenant.as_mut().filter(|tenant| !tenant.is_deleted)?.owner.as_mut()
    }

    pub(super) fn call_of_owner(&mut self, call: &Call) -> Option<Result> {
        let is_valid = match call {
            Call::CreateOwnerToken { email, purpose } => {
                let owner = self.owner().filter(|owner| owner.email == *email);
                let has_owner = owner.map(|owner| *owner.token_mut(*purpose) = Some(Token::default())).is_some();
                return Some(Ok(Expected::Token { purpose: *purpose, has_owner }));
            }
            Call::ResetPassword { token, new_password } => self.reset_password(token, new_password)?,
            Call::VerifyEmail { token } => {
                let is_valid = self.owner().is_some_and(|owner| is_token(owner.verification_token.as_ref(), token));
                if is_valid {
                    self.verify_address()?;
                }
                is_valid
            }
            Call::ChangePassword { email, current, new } => {
                let owner = self.owner().filter(|owner| owner.email == *email && owner.has_password(current));
                let changed = owner.map(|owner| {
                    owner.password = Some(new.clone());
                    owner.reset_token = None;
                });
                if changed.is_some() {
                    self.take("owner.password_changed", &[])?;
                }
                changed.is_some()
            }
            Call::VerifyPassword { email, password } => {
                self.owner().is_some_and(|owner| owner.email == *email && owner.has_password(password))
            }
            _ => return None,
        };
        Some(Ok(Expected::Owner { is_valid }))
    }

    /// Uses the token once. The same password again is valid, and changes nothing.
    fn reset_password(&mut self, text: &str, new_password: &str) -> Option<bool> {
        let Some(owner) = self.owner() else { return Some(false) };
        let Some(token) = owner.reset_token.as_mut().filter(|token| token.text.as_deref() == Some(text)) else {
            return Some(false);
        };
        if token.is_used {
            return Some(owner.has_password(new_password));
        }
        token.is_used = true;
        owner.password = Some(new_password.to_owned());
        let was_verified = owner.is_verified;
        self.take("owner.password_changed", &[])?;
        if !was_verified {
            self.verify_address()?;
            self.revoke_all()?;
        }
        Some(true)
    }

    fn verify_address(&mut self) -> Option<()> {
        let owner = self.owner()?;
        if !owner.is_verified {
            owner.is_verified = true;
            self.tenant.as_mut()?.etag = None;
            self.take("owner.email_verified", &[])?;
        }
        Some(())
    }

    /// The same address stays verified, and the tenant has the same etag. Without an event, nothing has changed.
    pub(super) fn set_owner(&mut self, email: &str, password: Option<&String>) -> Option<Result> {
        let tenant = self.tenant.as_mut()?;
        let earlier = tenant.owner.take().filter(|owner| owner.email == email);
        let mut owner = Owner::new(email, password.map(String::as_str));
        owner.is_verified = earlier.as_ref().is_some_and(|earlier| earlier.is_verified);
        let is_same = password.is_none() && earlier.as_ref() == Some(&owner);
        tenant.owner = Some(owner);
        if earlier.is_none() {
            tenant.etag = None;
        }
        if !is_same {
            let is_new_address = if earlier.is_none() { "true" } else { "false" };
            let has_password = if password.is_some() { "true" } else { "false" };
            self.take("owner.set", &[("is_new_address", is_new_address), ("has_password", has_password)])?;
        }
        Some(Ok(Expected::Read))
    }
}
