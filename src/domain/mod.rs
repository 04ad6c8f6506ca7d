//! The words of the business as types that cannot be wrong.
//!
//! Everything here is parsed once, at the edge, and trusted from there on. There is no I/O, no clock and no
//! randomness in this module, and nothing of the wire or of the database: those convert to and from these types.

pub mod api_key;
pub mod argon2_setting;
pub mod booking_type;
pub mod branding;
pub mod caller;
pub mod catalog;
pub mod claim;
pub mod commission;
pub mod defaults;
pub mod derived_slug;
pub mod email;
pub mod ids;
pub mod integrity;
pub mod package;
pub mod paging;
pub mod password;
pub mod price;
pub mod provisioning;
pub mod request_id;
pub mod segment;
pub mod signup;
pub mod slug;
pub mod tenant;
pub mod text;
pub mod token;
pub mod violation;

pub use api_key::{ApiKey, KeyMode, KeyVerdict, PublicKey, Standing};
pub use argon2_setting::Argon2Setting;
pub use booking_type::BookingType;
pub use branding::Branding;
pub use caller::{Caller, Role};
pub use commission::CommissionPercent;
pub use derived_slug::SlugStem;
pub use email::Email;
pub use ids::{PackageId, SegmentId, TenantId};
pub use package::Package;
pub use password::Password;
pub use price::Price;
pub use provisioning::{CreateFullyProvisioned, Flow, Provisioned, TenantIdentifier};
pub use request_id::RequestId;
pub use segment::Segment;
pub use signup::{CreateFromSignup, SignupForm, SignupSlug};
pub use slug::{Slug, TenantSlug};
pub use tenant::{ListTenants, Tenant, UpdateTenant};
pub use text::{Description, DisplayName};
pub use violation::{Invalid, Reason, Violation, Violations};
