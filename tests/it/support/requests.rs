//! Builders of requests, and the credentials that go with them.

use prost_types::{Duration as ProtoDuration, Timestamp};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use secrecy::ExposeSecret as _;
use time::Duration;
use tonic::Request;
use turnkey::{
    grpc::pb::{
        ApiKeyScope, CreateApiKeyRequest, CreateFromSignupRequest, CreateFullyProvisionedRequest, RotateApiKeyRequest,
        UpsertPackageRequest,
    },
    secrets::{assemble_secret_key, random_secret},
    service::Clock,
};

use super::fixture::NewTenant;

pub const PASSWORD: &str = "tulips under a lamp";
pub const REQUEST_ID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

/// A different request id for each number.
pub fn request_id(number: u32) -> String {
    format!("a0eebc99-9c0b-4ef8-bb6d-6bb9{number:08x}")
}

pub fn bella() -> CreateFullyProvisionedRequest {
    named("bella-weddings")
}

pub fn bella_with_request_id() -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest { request_id: Some(REQUEST_ID.to_owned()), ..bella() }
}

pub fn named(slug: &str) -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest {
        slug: slug.to_owned(),
        name: "Bella Weddings".to_owned(),
        ..CreateFullyProvisionedRequest::default()
    }
}

pub fn signup(business_name: &str, email: &str) -> CreateFromSignupRequest {
    CreateFromSignupRequest {
        business_name: business_name.to_owned(),
        email: email.to_owned(),
        password: PASSWORD.to_owned(),
        ..CreateFromSignupRequest::default()
    }
}

pub fn signup_with_request_id() -> CreateFromSignupRequest {
    CreateFromSignupRequest { request_id: Some(REQUEST_ID.to_owned()), ..signup("Bella", "bella@example.com") }
}

pub fn rotation(tenant_id: &str, overlap: Option<Duration>) -> RotateApiKeyRequest {
    let overlap =
        overlap.map(|overlap| ProtoDuration { seconds: overlap.whole_seconds(), nanos: overlap.subsec_nanoseconds() });
    RotateApiKeyRequest { tenant_id: tenant_id.to_owned(), overlap, ..RotateApiKeyRequest::default() }
}

/// A new key of this tenant, without a name and an expiry.
pub fn another_key(tenant_id: &str) -> CreateApiKeyRequest {
    CreateApiKeyRequest { tenant_id: tenant_id.to_owned(), ..CreateApiKeyRequest::default() }
}

/// A key for reading, with a name and an expiry in a week.
pub fn storefront_key(tenant_id: &str) -> CreateApiKeyRequest {
    CreateApiKeyRequest {
        name: Some("Storefront".to_owned()),
        scope: ApiKeyScope::CatalogRead.into(),
        expires_at: Some(time_after(Duration::days(7))),
        ..another_key(tenant_id)
    }
}

/// The time after this duration, in whole seconds.
pub fn time_after(duration: Duration) -> Timestamp {
    Timestamp { seconds: (Clock::system().now() + duration).unix_timestamp(), nanos: 0 }
}

/// The rotation of one key, with an overlap of 24 hours.
pub fn rotation_of(tenant_id: &str, public_key: &str) -> RotateApiKeyRequest {
    RotateApiKeyRequest { public_key: Some(public_key.to_owned()), ..rotation(tenant_id, None) }
}

/// A new package of this tenant, without a slug.
pub fn gold(tenant: &NewTenant) -> UpsertPackageRequest {
    UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Gold".to_owned()),
        base_price: Some(100),
        ..UpsertPackageRequest::default()
    }
}

/// The message with this token or secret key in the `authorization` header.
pub fn with_bearer<Message>(message: Message, credential: Option<&str>) -> Request<Message> {
    let mut request = Request::new(message);
    if let Some(credential) = credential {
        request.metadata_mut().insert("authorization", format!("Bearer {credential}").parse().unwrap());
    }
    request
}

/// A well-formed secret key with this public half that belongs to no tenant. The server has to look it up and to hash
/// it.
pub fn unknown_secret_key(public_key: &str) -> String {
    let secret = random_secret(&mut UnwrapErr(SysRng));
    assemble_secret_key(public_key, secret).expose_secret().to_owned()
}

pub fn with_last_char_changed(text: &str) -> String {
    let (rest, last) = text.split_at(text.len() - 1);
    format!("{rest}{}", if last == "A" { "B" } else { "A" })
}
