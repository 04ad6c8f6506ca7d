//! The parsed request of `CreateFromSignup`, which creates a tenant and its owner.

use super::{
    derived_slug::SlugStem, email::Email, idempotency::Fingerprint, owner::guessable_password, password::Password,
    request_id::RequestId, slug::TenantSlug, text::DisplayName, validation::Violations,
};

/// A parsed sign-up whose password strength has not been checked yet.
///
/// Checking password strength is expensive and runs on the hashing pool. The form keeps the other violations until the
/// result is available, so that one response reports all of them.
#[derive(Debug)]
pub struct SignupForm {
    /// All violations except a weak password.
    pub violations: Violations,
    pub business_name: Option<DisplayName>,
    pub email: Option<Email>,
    pub password: Option<Password>,
    pub slug: Option<SignupSlug>,
    pub request_id: Option<RequestId>,
}

/// A request to create a tenant and its owner.
#[derive(Debug)]
pub struct CreateFromSignup {
    pub business_name: DisplayName,
    pub email: Email,
    pub password: Password,
    pub slug: SignupSlug,
    pub request_id: Option<RequestId>,
}

/// The slug of a sign-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignupSlug {
    /// Used as it is. If it already exists, the sign-up fails.
    Requested(TenantSlug),
    /// Derived from the name. A random suffix is appended if the slug already exists.
    Derived(SlugStem),
}

impl SignupForm {
    /// Returns the request if the form has no violation and the password is not guessable.
    ///
    /// # Errors
    /// All violations, including `WEAK_PASSWORD` if the password is guessable.
    pub fn validate(mut self, password_is_guessable: bool) -> Result<CreateFromSignup, Violations> {
        if password_is_guessable {
            self.violations.add("password", guessable_password());
        }
        self.violations.into_result(|| {
            Some(CreateFromSignup {
                business_name: self.business_name?,
                email: self.email?,
                password: self.password?,
                slug: self.slug?,
                request_id: self.request_id,
            })
        })
    }

    /// Returns the words that zxcvbn should treat as guessable: the business name, the e-mail address and its local
    /// part.
    pub fn user_inputs(&self) -> Vec<String> {
        let name = self.business_name.iter().map(|name| name.as_str().to_owned());
        name.chain(self.email.iter().flat_map(Email::user_inputs)).collect()
    }
}

impl CreateFromSignup {
    /// Covers the business name, the canonical e-mail address and the requested slug. A derived slug follows from the
    /// name. The password is left out (see [`Fingerprint`]): a replay verifies it against the stored hash.
    pub fn fingerprint(&self) -> Fingerprint {
        let slug = match &self.slug {
            SignupSlug::Requested(slug) => slug.as_str(),
            SignupSlug::Derived(_) => "",
        };
        Fingerprint::compute(&[
            self.business_name.as_str().as_bytes(),
            self.email.canonical().as_bytes(),
            slug.as_bytes(),
        ])
    }
}

impl SignupSlug {
    /// Returns the slug to try. A requested slug never changes. A derived slug gets the suffix, except on the first
    /// attempt if the stem alone is a valid slug. Returns `None` if `suffix` cannot be part of a slug.
    pub fn candidate(&self, is_first: bool, suffix: &str) -> Option<TenantSlug> {
        match self {
            Self::Requested(slug) => Some(slug.clone()),
            Self::Derived(stem) if is_first => stem.to_tenant_slug().or_else(|| stem.with_suffix(suffix)),
            Self::Derived(stem) => stem.with_suffix(suffix),
        }
    }
}
