//! Owners of tenants after sign-up: tokens to be sent by e-mail, and requests that set a password.

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use super::{
    email::Email,
    idempotency::Sha256Digest,
    ids::TenantId,
    log_in::LogIn,
    password::Password,
    validation::{InvalidValue, Reason, Violations},
};

/// The beginning of an owner's token. A scanner for leaked secrets recognizes it.
pub const OWNER_TOKEN_PREFIX: &str = "own_";
pub const DEFAULT_TOKEN_TTL: Duration = Duration::hours(1);
pub const MIN_TOKEN_TTL: Duration = Duration::seconds(1);
pub const MAX_TOKEN_TTL: Duration = Duration::days(7);

/// What a token is for. An owner has at most one token of each purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub enum OwnerTokenPurpose {
    ResetPassword,
    VerifyEmail,
}

/// A request for a token. `None` stands for a text that is no address: no owner has it.
#[derive(Debug)]
pub struct CreateOwnerToken {
    pub email: Option<Email>,
    pub purpose: OwnerTokenPurpose,
    pub ttl: Duration,
}

#[derive(Debug)]
pub struct NewOwnerToken {
    /// `None` if no owner has the address.
    pub token: Option<SecretString>,
    pub expires_at: OffsetDateTime,
}

/// A request to replace a password with the token of an e-mail. Any text may be a token: an unknown one is invalid.
#[derive(Debug)]
pub struct ResetPassword {
    pub token: SecretString,
    pub new_password: Password,
}

#[derive(Debug)]
pub struct ChangePassword {
    /// The address and the current password.
    pub log_in: LogIn,
    pub new_password: Password,
}

/// A request to give a tenant an owner, or another one.
#[derive(Debug)]
pub struct SetOwner {
    pub tenant_id: TenantId,
    pub email: Email,
    /// `None` if the owner has none until a reset.
    pub password: Option<Password>,
}

/// A parsed request with a password whose strength has not been checked yet. The check is expensive and runs on a
/// hashing pool. The form keeps the other violations until the result is available, so that one response reports all of
/// them.
#[derive(Debug)]
pub struct PasswordForm<T> {
    pub violations: Violations,
    /// The field of the password.
    pub field: &'static str,
    /// The password to check, if there is one.
    pub password: Option<Password>,
    /// The owner's address, which an attacker tries first.
    pub email: Option<Email>,
    /// `None` if there are violations.
    pub request: Option<T>,
}

impl<T> PasswordForm<T> {
    /// Returns the request if the form has no violation and the password is not guessable.
    ///
    /// # Errors
    /// All violations, including `WEAK_PASSWORD` if the password is guessable.
    pub fn validate(mut self, password_is_guessable: bool) -> Result<T, Violations> {
        if password_is_guessable {
            self.violations.add(self.field, guessable_password());
        }
        self.violations.into_result(|| self.request)
    }
}

impl PasswordForm<()> {
    /// The form of a password that a token sets. Its other fields have no violations.
    pub fn of_reset(new_password: &Password, email: Option<&Email>) -> Self {
        Self {
            violations: Violations::default(),
            field: "new_password",
            password: Some(new_password.clone()),
            email: email.cloned(),
            request: Some(()),
        }
    }
}

pub fn guessable_password() -> InvalidValue {
    InvalidValue::new(Reason::WeakPassword, "is too easy to guess")
}

/// Returns the SHA-256 of a token, by which it is found. A fast hash is enough for 256 random bits.
pub fn hash_owner_token(token: &SecretString) -> Sha256Digest {
    Sha256::digest(token.expose_secret().as_bytes()).into()
}
