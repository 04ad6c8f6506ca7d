//! Conversions between protobuf messages and domain types.
//!
//! `TryFrom` a request parses it and reports all violations together. `From` a domain type for a response cannot fail.
//! This file has what both services share, and the messages that need no more than a list of fields.

mod api_keys;
mod batches;
mod branding;
mod catalog;
mod durations;
mod events;
mod integrity;
mod owners;
mod provisioning;
mod tenants;

use prost_types::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;

use super::pb;
use crate::{
    domain::{
        ApiKey, BookingType, Etag, Package, PublicKey, Segment, Tenant, TenantId, Violations, api_key::AddedApiKey,
        catalog::UpsertResult, paging::Page, provisioning::CreateOutcome, tenant::ListedTenants,
    },
    error,
};

/// Implements `TryFrom` for requests that consist of identifiers.
macro_rules! identifiers_from_requests {
    ($($request:ident { $($field:ident: $identifier:ident),+ } => $input:ty;)+) => {$(
        impl TryFrom<pb::$request> for $input {
            type Error = Violations;

            fn try_from(request: pb::$request) -> Result<Self, Violations> {
                let mut fields = Violations::default();
                $(let $field = fields.check(stringify!($field), $identifier::parse(&request.$field));)+
                fields.into_result(|| {
                    $(let $field = $field?;)+
                    Some(($($field),+))
                })
            }
        }
    )+};
}

identifiers_from_requests! {
    SuspendTenantRequest { tenant_id: TenantId } => TenantId;
    ReactivateTenantRequest { tenant_id: TenantId } => TenantId;
    UndeleteTenantRequest { tenant_id: TenantId } => TenantId;
    RepairTenantRequest { tenant_id: TenantId } => TenantId;
    RevokeApiKeyRequest { tenant_id: TenantId, public_key: PublicKey } => (TenantId, PublicKey);
}

/// Implements `From` for messages that consist of an output of a service.
macro_rules! messages_from_outputs {
    ($($output:ident: $type:ty => $message:ident { $($fields:tt)* };)+) => {$(
        impl From<$type> for pb::$message {
            fn from($output: $type) -> Self {
                Self { $($fields)* }
            }
        }
    )+};
}

messages_from_outputs! {
    outcomes: Vec<error::Result<CreateOutcome>> => BatchCreateFullyProvisionedResponse { results: convert(outcomes) };
    tenant: Tenant => GetTenantResponse { tenant: Some(tenant.into()) };
    listed: ListedTenants => ListTenantsResponse {
        tenants: convert(listed.page.items),
        next_page_token: listed.page.next_page_token,
        cursor: listed.cursor.map(|cursor| cursor.to_string()).unwrap_or_default()
    };
    tenant: Tenant => UpdateTenantResponse { tenant: Some(tenant.into()) };
    tenant: Tenant => SuspendTenantResponse { tenant: Some(tenant.into()) };
    tenant: Tenant => ReactivateTenantResponse { tenant: Some(tenant.into()) };
    tenant: Tenant => DeleteTenantResponse { tenant: Some(tenant.into()) };
    tenant: Tenant => UndeleteTenantResponse { tenant: Some(tenant.into()) };
    _nothing: () => PurgeTenantResponse {};
    tenant: Tenant => SetOwnerResponse { tenant: Some(tenant.into()) };
    page: Page<ApiKey> => ListApiKeysResponse {
        api_keys: convert(page.items),
        next_page_token: page.next_page_token
    };
    added: AddedApiKey => CreateApiKeyResponse {
        api_key: Some(added.api_key.into()),
        secret_key: expose(added.secret_key),
        replayed: added.replayed
    };
    added: AddedApiKey => RotateApiKeyResponse {
        api_key: Some(added.api_key.into()),
        secret_key: expose(added.secret_key),
        replayed: added.replayed
    };
    key: ApiKey => RevokeApiKeyResponse { api_key: Some(key.into()) };

    result: UpsertResult<Package> => BatchUpsertPackagesResult {
        package: Some(result.item.into()),
        action: action(result.created).into()
    };
    results: Vec<UpsertResult<Package>> => BatchUpsertPackagesResponse { results: convert(results) };
    package: Package => GetPackageResponse { package: Some(package.into()) };
    page: Page<Package> => ListPackagesResponse {
        packages: convert(page.items),
        next_page_token: page.next_page_token
    };
    _nothing: () => DeletePackageResponse {};
    segment: Segment => GetSegmentResponse { segment: Some(segment.into()) };
    page: Page<Segment> => ListSegmentsResponse {
        segments: convert(page.items),
        next_page_token: page.next_page_token
    };
    _nothing: () => DeleteSegmentResponse {};
}

/// Reads an optional etag. The empty text counts as absent: no resource has it, and some clients send every field.
fn etag(text: Option<String>) -> Option<Etag> {
    text.filter(|text| !text.is_empty()).map(|text| Etag::parse(&text))
}

/// Returns the empty text for a secret that can no longer be returned.
fn expose(secret_key: Option<SecretString>) -> String {
    secret_key.map(|secret| secret.expose_secret().to_owned()).unwrap_or_default()
}

fn convert<Item, Message: From<Item>>(items: Vec<Item>) -> Vec<Message> {
    items.into_iter().map(Message::from).collect()
}

const fn action(created: bool) -> pb::UpsertAction {
    if created { pb::UpsertAction::Created } else { pb::UpsertAction::Updated }
}

impl From<Segment> for pb::Segment {
    fn from(segment: Segment) -> Self {
        let etag = segment.etag().to_string();
        Self {
            id: segment.id.to_string(),
            tenant_id: segment.tenant_id.to_string(),
            slug: segment.slug,
            name: segment.name,
            hero_title: segment.hero_title,
            description: segment.description,
            sort_order: segment.sort_order,
            active: segment.active,
            created_at: Some(timestamp(segment.created_at)),
            updated_at: Some(timestamp(segment.updated_at)),
            etag,
            external_id: segment.external_id,
            package_count: segment.package_count,
        }
    }
}

impl From<Package> for pb::Package {
    fn from(package: Package) -> Self {
        let etag = package.etag().to_string();
        let booking_type = match package.booking_type {
            BookingType::Date => pb::BookingType::Date,
            BookingType::Timeslot => pb::BookingType::Timeslot,
        };
        Self {
            id: package.id.to_string(),
            tenant_id: package.tenant_id.to_string(),
            segment_id: package.segment_id.to_string(),
            slug: package.slug,
            name: package.name,
            description: package.description,
            base_price: Some(package.base_price),
            booking_type: booking_type.into(),
            grouping_order: package.grouping_order,
            active: package.active,
            created_at: Some(timestamp(package.created_at)),
            updated_at: Some(timestamp(package.updated_at)),
            etag,
            external_id: package.external_id,
        }
    }
}

fn timestamp(time: OffsetDateTime) -> Timestamp {
    // Nanoseconds within a second are below 2^30.
    Timestamp { seconds: time.unix_timestamp(), nanos: time.nanosecond().cast_signed() }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{PackageId, SegmentId, response_size::packages_response_bytes};

    #[test]
    fn the_estimated_size_of_a_batch_response_is_an_upper_bound() {
        let year_9999 = OffsetDateTime::from_unix_timestamp_nanos(253_402_300_799_999_999_999).unwrap();
        for text_length in [0, 200, 8_000] {
            let package = Package {
                id: PackageId::from_uuid(Uuid::max()),
                tenant_id: TenantId::from_uuid(Uuid::max()),
                segment_id: SegmentId::from_uuid(Uuid::max()),
                slug: "s".repeat(63),
                name: "n".repeat(text_length.min(800)),
                description: "d".repeat(text_length),
                base_price: i64::MAX,
                booking_type: BookingType::Timeslot,
                grouping_order: i32::MIN,
                active: true,
                created_at: year_9999,
                updated_at: year_9999,
                external_id: (text_length > 0).then(|| "e".repeat(text_length.min(1_020))),
                revision: Some(Uuid::max()),
            };
            let results = vec![UpsertResult { created: true, item: package, previous: None }; 500];
            let bound = packages_response_bytes(results.iter().map(|result| &result.item));
            let actual = pb::BatchUpsertPackagesResponse::from(results).encoded_len();
            assert!(actual <= bound && bound < actual + 500 * 150, "{actual} bytes, bound {bound}");
        }
    }
}
