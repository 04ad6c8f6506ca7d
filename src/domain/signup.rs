//! A business that signs itself up.

use super::{
    derived_slug::SlugStem,
    email::Email,
    idempotency::Fingerprint,
    password::Password,
    request_id::RequestId,
    slug::TenantSlug,
    text::DisplayName,
    validation::{InvalidValue, Reason, Violations},
};

/// A sign-up whose fields are parsed, and whose password has yet to be tried.
///
/// Trying a password is work: far too much for the edge, where all else is parsed. So what is wrong so far waits here
/// until that is known too, and a caller still hears of every mistake at once.
#[derive(Debug)]
pub struct SignupForm {
    /// What is wrong so far; complete but for the strength of the password.
    pub violations: Violations,
    pub business_name: Option<DisplayName>,
    pub email: Option<Email>,
    pub password: Option<Password>,
    pub slug: Option<SignupSlug>,
    pub request_id: Option<RequestId>,
}

/// A caller's wish for a tenant and its owner.
#[derive(Debug)]
pub struct CreateFromSignup {
    pub business_name: DisplayName,
    pub email: Email,
    pub password: Password,
    pub slug: SignupSlug,
    pub request_id: Option<RequestId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignupSlug {
    Requested(TenantSlug),
    /// From the name; made unique with a random ending where it has to be.
    Derived(SlugStem),
}

impl SignupForm {
    /// # Errors
    /// All that is wrong.
    pub fn finish(mut self, password_is_guessable: bool) -> Result<CreateFromSignup, Violations> {
        if password_is_guessable {
            self.violations.add("password", InvalidValue::new(Reason::WeakPassword, "is too easy to guess"));
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

    /// What this person's password would be guessed from first.
    pub fn user_inputs(&self) -> Vec<String> {
        let name = self.business_name.iter().map(|name| name.as_str().to_owned());
        let email = self.email.iter().flat_map(|email| {
            let address = email.as_str();
            [address.to_owned()].into_iter().chain(address.split_once('@').map(|(local_part, _)| local_part.to_owned()))
        });
        name.chain(email).collect()
    }
}

impl CreateFromSignup {
    /// Of all but the password, which a repeat is verified by against its slow hash.
    pub fn fingerprint(&self) -> Fingerprint {
        let slug = match &self.slug {
            SignupSlug::Requested(slug) => slug.as_str(),
            SignupSlug::Derived(_) => "",
        };
        Fingerprint::compute(&[self.business_name.as_str().as_bytes(), self.email.as_str().as_bytes(), slug.as_bytes()])
    }
}

impl SignupSlug {
    /// The slug to try, the first time without the ending.
    pub fn candidate(&self, is_first: bool, suffix: &str) -> Option<TenantSlug> {
        match self {
            Self::Requested(slug) => Some(slug.clone()),
            Self::Derived(stem) if is_first => stem.as_tenant_slug().or_else(|| stem.with_suffix(suffix)),
            Self::Derived(stem) => stem.with_suffix(suffix),
        }
    }
}
