//! Every RPC that the server serves: its path, its message limit, and a request that has a response.

use prost::Message as _;
use prost_types::{FileDescriptorSet, ServiceDescriptorProto};
use tonic_health::pb::{FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS, HealthCheckRequest};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, BatchUpsertPackagesRequest, ChangePasswordRequest, CheckIntegrityRequest,
    CreateApiKeyRequest, CreateOwnerTokenRequest, DESCRIPTORS, DeletePackageRequest, DeleteSegmentRequest,
    DeleteTenantRequest, GetPackageRequest, GetSegmentRequest, GetTenantRequest, ListApiKeysRequest, ListEventsRequest,
    ListPackagesRequest, ListSegmentsRequest, ListTenantsRequest, OwnerTokenPurpose, PackageUpsert, PurgeTenantRequest,
    ReactivateTenantRequest, RepairTenantRequest, ResetPasswordRequest, RevokeApiKeyRequest, SetOwnerRequest,
    SuspendTenantRequest, UndeleteTenantRequest, UpdateTenantRequest, UpsertPackageRequest, UpsertSegmentRequest,
    VerifyApiKeyRequest, VerifyEmailRequest, VerifyPasswordRequest, WatchEventsRequest, get_tenant_request::Identifier,
};
use uuid::Uuid;

use super::target::Target;
use crate::support::requests::{PASSWORD, REQUEST_ID, rotation, signup};

pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
pub const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
pub const LIST_PACKAGES: &str = "/turnkey.v1.PackageCatalog/ListPackages";
pub const UPSERT_PACKAGE: &str = "/turnkey.v1.PackageCatalog/UpsertPackage";
pub const BATCH_UPSERT_PACKAGES: &str = "/turnkey.v1.PackageCatalog/BatchUpsertPackages";
pub const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

fn paths(descriptors: &[u8], package: &str) -> Vec<String> {
    let files = FileDescriptorSet::decode(descriptors).unwrap().file;
    let services = files.iter().filter(|file| file.package() == package).flat_map(|file| &file.service);
    let path = |service: &ServiceDescriptorProto, rpc: &str| format!("/{package}.{}/{rpc}", service.name());
    services
        .flat_map(|service| service.method.iter().map(|rpc| path(service, rpc.name())).collect::<Vec<_>>())
        .collect()
}

/// The RPCs of the API.
fn api() -> Vec<String> {
    paths(DESCRIPTORS, "turnkey.v1")
}

/// The RPCs of the port for health.
pub fn health() -> Vec<String> {
    paths(HEALTH_DESCRIPTORS, "grpc.health.v1")
}

/// The RPCs of the main port with one message per request. Reflection has a stream of them.
pub fn with_one_message() -> Vec<String> {
    api().into_iter().chain(health()).collect()
}

/// All RPCs of the main port.
pub fn all() -> Vec<String> {
    with_one_message().into_iter().chain(REFLECTION.map(str::to_owned)).collect()
}

/// The largest message, in bytes.
pub fn message_limit(path: &str) -> u32 {
    match path {
        "/turnkey.v1.TenantProvisioning/BatchCreateFullyProvisioned" | BATCH_UPSERT_PACKAGES => 4 * 1024 * 1024,
        _ if path.starts_with("/grpc.health.v1.") => 1024,
        _ => 256 * 1024,
    }
}

/// A request that the server does work for.
pub fn request(path: &str, target: &Target) -> Vec<u8> {
    let (service, rpc) = path.rsplit_once('/').unwrap();
    match service {
        "/turnkey.v1.PackageCatalog" => catalog_request(rpc, target),
        "/turnkey.v1.TenantProvisioning" => provisioning_request(rpc, target),
        "/grpc.health.v1.Health" => HealthCheckRequest { service: String::new() }.encode_to_vec(),
        // Field 7 is `list_services`.
        _ if REFLECTION.contains(&path) => vec![0x3a, 1, b'*'],
        _ => panic!("no request for {path}"),
    }
}

fn catalog_request(rpc: &str, target: &Target) -> Vec<u8> {
    let tenant_id = target.attacker.id.clone();
    let (package_id, segment_id) = (target.attacker.package_id.clone(), target.attacker.segment_id.clone());
    match rpc {
        "UpsertPackage" => UpsertPackageRequest {
            tenant_id,
            package_id: Some(package_id),
            name: Some("Changed".to_owned()),
            ..UpsertPackageRequest::default()
        }
        .encode_to_vec(),
        "BatchUpsertPackages" => batch_of_updates(&tenant_id, 497),
        "GetPackage" => GetPackageRequest { tenant_id, package_id, ..Default::default() }.encode_to_vec(),
        "ListPackages" => {
            ListPackagesRequest { tenant_id, page_size: 500, ..ListPackagesRequest::default() }.encode_to_vec()
        }
        "DeletePackage" => DeletePackageRequest { tenant_id, package_id, ..Default::default() }.encode_to_vec(),
        "UpsertSegment" => UpsertSegmentRequest {
            tenant_id,
            segment_id: Some(segment_id),
            name: Some("Changed".to_owned()),
            ..UpsertSegmentRequest::default()
        }
        .encode_to_vec(),
        "GetSegment" => GetSegmentRequest { tenant_id, segment_id, ..Default::default() }.encode_to_vec(),
        "ListSegments" => ListSegmentsRequest { tenant_id, ..ListSegmentsRequest::default() }.encode_to_vec(),
        "DeleteSegment" => DeleteSegmentRequest { tenant_id, segment_id, ..Default::default() }.encode_to_vec(),
        _ => panic!("no request for {rpc}"),
    }
}

/// A client address or a token that no other call has.
fn unique() -> String {
    Uuid::new_v4().to_string()
}

fn provisioning_request(rpc: &str, target: &Target) -> Vec<u8> {
    let tenant_id = target.attacker.id.clone();
    // What deletes must not make the attacker's own responses small.
    let other = &target.other_tenant;
    match rpc {
        "CreateFullyProvisioned" => target.new_tenant().encode_to_vec(),
        "CreateFromSignup" => signup("Bella", "bella@example.com").encode_to_vec(),
        "BatchCreateFullyProvisioned" => {
            let requests = (0..100).map(|_| target.new_tenant()).collect();
            BatchCreateFullyProvisionedRequest { requests }.encode_to_vec()
        }
        "GetTenant" => GetTenantRequest { identifier: Some(Identifier::TenantId(tenant_id)) }.encode_to_vec(),
        "ListTenants" => ListTenantsRequest { page_size: 500, ..ListTenantsRequest::default() }.encode_to_vec(),
        "UpdateTenant" => {
            UpdateTenantRequest { tenant_id, name: Some("Changed".to_owned()), ..UpdateTenantRequest::default() }
                .encode_to_vec()
        }
        "SuspendTenant" => SuspendTenantRequest { tenant_id: other.id.clone() }.encode_to_vec(),
        "ReactivateTenant" => ReactivateTenantRequest { tenant_id }.encode_to_vec(),
        "DeleteTenant" => DeleteTenantRequest { tenant_id: other.id.clone(), ..Default::default() }.encode_to_vec(),
        "UndeleteTenant" => UndeleteTenantRequest { tenant_id }.encode_to_vec(),
        // Repetitions are replayed: the tenant would soon have as many keys as it can.
        "CreateApiKey" => {
            CreateApiKeyRequest { tenant_id, request_id: Some(REQUEST_ID.to_owned()), ..Default::default() }
                .encode_to_vec()
        }
        "RotateApiKey" => rotation(&tenant_id, None).encode_to_vec(),
        "ListApiKeys" => ListApiKeysRequest { tenant_id, ..Default::default() }.encode_to_vec(),
        "RevokeApiKey" => {
            RevokeApiKeyRequest { tenant_id: other.id.clone(), public_key: other.public_key.clone() }.encode_to_vec()
        }
        "VerifyApiKey" => VerifyApiKeyRequest { secret_key: target.attacker.secret_key.clone() }.encode_to_vec(),
        "VerifyPassword" => VerifyPasswordRequest {
            email: "bella@example.com".to_owned(),
            password: PASSWORD.to_owned(),
            client_address: Some(unique()),
        }
        .encode_to_vec(),
        "ChangePassword" => ChangePasswordRequest {
            email: "bella@example.com".to_owned(),
            current_password: PASSWORD.to_owned(),
            new_password: PASSWORD.to_owned(),
            client_address: Some(unique()),
        }
        .encode_to_vec(),
        "CreateOwnerToken" => CreateOwnerTokenRequest {
            email: "bella@example.com".to_owned(),
            purpose: OwnerTokenPurpose::VerifyEmail.into(),
            ttl: None,
        }
        .encode_to_vec(),
        "ResetPassword" => ResetPasswordRequest { token: unique(), new_password: PASSWORD.to_owned() }.encode_to_vec(),
        "VerifyEmail" => VerifyEmailRequest { token: unique() }.encode_to_vec(),
        "SetOwner" => {
            SetOwnerRequest { tenant_id, email: "omer@example.com".to_owned(), password: None }.encode_to_vec()
        }
        "CheckIntegrity" => CheckIntegrityRequest::default().encode_to_vec(),
        "PurgeTenant" => PurgeTenantRequest { tenant_id, confirm_slug: "bella".to_owned() }.encode_to_vec(),
        "ListEvents" => ListEventsRequest::default().encode_to_vec(),
        "WatchEvents" => WatchEventsRequest::default().encode_to_vec(),
        "RepairTenant" => RepairTenantRequest { tenant_id }.encode_to_vec(),
        _ => panic!("no request for {rpc}"),
    }
}

/// A batch that updates the large packages of the attacker.
pub fn batch_of_updates(tenant_id: &str, count: usize) -> Vec<u8> {
    let update =
        |number| PackageUpsert { slug: Some(format!("large-{number}")), base_price: Some(2), ..Default::default() };
    let packages = (0..count).map(update).collect();
    BatchUpsertPackagesRequest { tenant_id: tenant_id.to_owned(), packages }.encode_to_vec()
}

/// A batch that creates packages, more of them with every repetition, because their slugs are derived.
pub fn batch_of_new_packages(tenant_id: &str, count: usize) -> Vec<u8> {
    let create =
        |number| PackageUpsert { name: Some(format!("New {number}")), base_price: Some(1), ..Default::default() };
    let packages = (0..count).map(create).collect();
    BatchUpsertPackagesRequest { tenant_id: tenant_id.to_owned(), packages }.encode_to_vec()
}
