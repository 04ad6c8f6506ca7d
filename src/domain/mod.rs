//! The types of the business, which cannot hold an invalid value, and the rules that are pure functions of them.
//!
//! A value is parsed once, where it enters, and not checked again. This module has no I/O, no clock and no randomness, and
//! does not know the wire format or the database: the layers above convert to and from these types.

pub mod actor;
pub mod api_key;
pub mod argon2_params;
pub mod base62;
pub mod booking_type;
pub mod branding;
pub mod caller;
pub mod catalog;
pub mod commission;
pub mod defaults;
pub mod derived_slug;
pub mod email;
pub mod idempotency;
pub mod ids;
pub mod integrity;
pub mod key_format;
pub mod log_in;
pub mod owner;
pub mod package;
pub mod paging;
pub mod password;
pub mod price;
pub mod provisioning;
pub mod quota;
pub mod request_id;
pub mod response_size;
pub mod segment;
pub mod service_credentials;
pub mod signup;
pub mod slug;
pub mod slug_chooser;
pub mod tenant;
pub mod tenant_limit;
pub mod text;
pub mod unicode;
pub mod validation;
pub mod web_origin;

pub use actor::Actor;
pub use api_key::{ApiKey, ApiKeyScope, KeyStatus, KeyVerdict};
pub use argon2_params::Argon2Params;
pub use booking_type::BookingType;
pub use branding::{Branding, StoredBranding};
pub use caller::{Caller, Role};
pub use commission::CommissionPercent;
pub use derived_slug::SlugStem;
pub use email::Email;
pub use ids::{PackageId, SegmentId, TenantId};
pub use key_format::{KeyMode, ParsedSecretKey, PublicKey};
pub use log_in::LogIn;
pub use package::Package;
pub use password::Password;
pub use price::Price;
pub use provisioning::{CreateFullyProvisioned, ProvisionedTenant, ProvisioningSource, TenantIdentifier};
pub use quota::Quotas;
pub use request_id::RequestId;
pub use segment::Segment;
pub use signup::{CreateFromSignup, SignupForm, SignupSlug};
pub use slug::{Slug, TenantSlug};
pub use tenant::{ListTenants, Tenant, TenantChange, TenantUpdate};
pub use tenant_limit::TenantLimit;
pub use text::{Description, DisplayName};
pub use validation::{InvalidValue, Reason, Violation, Violations};
pub use web_origin::WebOrigin;
