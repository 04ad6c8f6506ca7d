//! Calls every RPC of `PackageCatalog` with every identifier of another tenant, or of a deleted tenant.

use std::collections::{BTreeSet, HashMap};

use http::HeaderMap;
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    BatchUpsertPackagesRequest, DESCRIPTORS, DeletePackageRequest, DeleteSegmentRequest, GetPackageRequest,
    GetSegmentRequest, ListPackagesRequest, ListSegmentsRequest, PackageUpsert, UpsertPackageRequest,
    UpsertSegmentRequest, package_catalog_client::PackageCatalogClient,
};
use uuid::Uuid;

use super::all_rows;
use crate::support::{
    citus::is_skipped_on_citus,
    connect::{Transport, over_connect, over_grpc},
    fixture::{Fixture, channel, settings, with_http},
    requests::{named, with_bearer},
    responses::reason,
    tokens::Tokens,
};

/// Every RPC of `PackageCatalog`, with every field that can identify a part of a tenant.
const IDENTIFIERS: [(&str, &str); 22] = [
    ("UpsertPackage", "package_id"),
    ("UpsertPackage", "segment_id"),
    ("UpsertPackage", "slug"),
    ("UpsertPackage", "external_id"),
    ("BatchUpsertPackages", "packages.package_id"),
    ("BatchUpsertPackages", "packages.segment_id"),
    ("BatchUpsertPackages", "packages.slug"),
    ("BatchUpsertPackages", "packages.external_id"),
    ("GetPackage", "package_id"),
    ("GetPackage", "slug"),
    ("GetPackage", "external_id"),
    ("ListPackages", "segment_id"),
    ("ListPackages", "page_token"),
    ("DeletePackage", "package_id"),
    ("UpsertSegment", "segment_id"),
    ("UpsertSegment", "slug"),
    ("UpsertSegment", "external_id"),
    ("GetSegment", "segment_id"),
    ("GetSegment", "slug"),
    ("GetSegment", "external_id"),
    ("ListSegments", "page_token"),
    ("DeleteSegment", "segment_id"),
];

/// Text fields that identify no part of a tenant.
const OTHER_TEXT_FIELDS: [&str; 6] = ["tenant_id", "name", "title", "hero_title", "description", "etag"];

/// A tenant with four packages, and a second, empty segment.
struct Tenant {
    id: String,
    /// The slug and the external id of the fourth package and of the second segment.
    slug: String,
    package_id: String,
    segment_id: String,
    package_token: String,
    segment_token: String,
}

impl Tenant {
    async fn create(fixture: &Fixture, tenant_slug: &str) -> Self {
        let id = fixture.tenant(tenant_slug).await.id;
        let (slug, name) = (format!("only-{tenant_slug}"), Some("Only".to_owned()));
        let mut catalog = fixture.catalog.clone();
        let package = UpsertPackageRequest {
            tenant_id: id.clone(),
            slug: Some(slug.clone()),
            name: name.clone(),
            base_price: Some(1),
            external_id: Some(slug.clone()),
            ..UpsertPackageRequest::default()
        };
        let package_id = catalog.upsert_package(package).await.unwrap().into_inner().package.unwrap().id;
        let segment = UpsertSegmentRequest {
            tenant_id: id.clone(),
            slug: Some(slug.clone()),
            name,
            external_id: Some(slug.clone()),
            ..Default::default()
        };
        let segment_id = catalog.upsert_segment(segment).await.unwrap().into_inner().segment.unwrap().id;
        let packages = ListPackagesRequest { tenant_id: id.clone(), page_size: 1, ..ListPackagesRequest::default() };
        let package_token = catalog.list_packages(packages).await.unwrap().into_inner().next_page_token;
        let segments = ListSegmentsRequest {
            tenant_id: id.clone(),
            page_size: 1,
            page_token: String::new(),
            ..Default::default()
        };
        let segment_token = catalog.list_segments(segments).await.unwrap().into_inner().next_page_token;
        assert!(!package_token.is_empty() && !segment_token.is_empty());
        Self { id, slug, package_id, segment_id, package_token, segment_token }
    }

    /// The value of the field that identifies a part of this tenant.
    fn value(&self, rpc: &str, field: &str) -> &str {
        match (rpc, field.trim_start_matches("packages.")) {
            (_, "package_id") => &self.package_id,
            (_, "segment_id") => &self.segment_id,
            (_, "slug" | "external_id") => &self.slug,
            ("ListPackages", "page_token") => &self.package_token,
            ("ListSegments", "page_token") => &self.segment_token,
            _ => panic!("no value for {field} of {rpc}"),
        }
    }
}

/// The value of the field that identifies nothing.
fn unknown_value(field: &str) -> String {
    if field.ends_with("slug") || field.ends_with("external_id") {
        "no-such-thing".to_owned()
    } else {
        Uuid::new_v4().to_string()
    }
}

/// The clients of a server with HTTP, by gRPC and by Connect.
async fn clients(fixture: &Fixture) -> [PackageCatalogClient<Transport>; 2] {
    let grpc = channel(&fixture.server.address.to_string()).await;
    [over_grpc(grpc), over_connect(fixture.http())].map(PackageCatalogClient::new)
}

async fn call(
    catalog: &PackageCatalogClient<Transport>,
    tenant_id: &str,
    rpc: &str,
    field: &str,
    value: &str,
) -> Result<(), Status> {
    call_with(None, catalog, tenant_id, rpc, field, value).await
}

async fn call_with(
    credential: Option<&str>,
    catalog: &PackageCatalogClient<Transport>,
    tenant_id: &str,
    rpc: &str,
    field: &str,
    value: &str,
) -> Result<(), Status> {
    let mut catalog = catalog.clone();
    let tenant_id = tenant_id.to_owned();
    let given = |name: &str| (field == name).then(|| value.to_owned());
    let text = |name: &str| given(name).unwrap_or_default();
    // A call with a slug or an external id must change the existing row, so it lacks what a creation requires.
    let name = (!field.ends_with("slug") && !field.ends_with("external_id")).then(|| "Mine".to_owned());
    let base_price = name.is_some().then_some(1);
    match rpc {
        "UpsertPackage" => {
            let (package_id, segment_id, slug) = (given("package_id"), given("segment_id"), given("slug"));
            let external_id = given("external_id");
            let request =
                UpsertPackageRequest { tenant_id, package_id, segment_id, slug, external_id, ..Default::default() };
            catalog
                .upsert_package(with_bearer(UpsertPackageRequest { name, base_price, ..request }, credential))
                .await
                .map(drop)
        }
        "BatchUpsertPackages" => {
            let fine = PackageUpsert { name: Some("Fine".to_owned()), base_price: Some(1), ..PackageUpsert::default() };
            let (package_id, segment_id) = (given("packages.package_id"), given("packages.segment_id"));
            let (slug, external_id) = (given("packages.slug"), given("packages.external_id"));
            let item =
                PackageUpsert { package_id, segment_id, slug, external_id, name, base_price, ..Default::default() };
            let request = BatchUpsertPackagesRequest { tenant_id, packages: vec![fine, item] };
            catalog.batch_upsert_packages(with_bearer(request, credential)).await.map(drop)
        }
        "GetPackage" => {
            let (package_id, slug, external_id) = (text("package_id"), given("slug"), given("external_id"));
            let request = GetPackageRequest { tenant_id, package_id, slug, external_id };
            catalog.get_package(with_bearer(request, credential)).await.map(drop)
        }
        "ListPackages" => {
            let (segment_id, page_token) = (given("segment_id"), text("page_token"));
            let request = ListPackagesRequest { tenant_id, segment_id, page_token, ..ListPackagesRequest::default() };
            catalog.list_packages(with_bearer(request, credential)).await.map(drop)
        }
        "DeletePackage" => catalog
            .delete_package(with_bearer(
                DeletePackageRequest { tenant_id, package_id: text("package_id"), ..Default::default() },
                credential,
            ))
            .await
            .map(drop),
        "UpsertSegment" => {
            let (segment_id, slug, external_id) = (given("segment_id"), given("slug"), given("external_id"));
            let request = UpsertSegmentRequest { tenant_id, segment_id, slug, external_id, name, ..Default::default() };
            catalog.upsert_segment(with_bearer(request, credential)).await.map(drop)
        }
        "GetSegment" => {
            let (segment_id, slug, external_id) = (text("segment_id"), given("slug"), given("external_id"));
            let request = GetSegmentRequest { tenant_id, segment_id, slug, external_id };
            catalog.get_segment(with_bearer(request, credential)).await.map(drop)
        }
        "ListSegments" => {
            let request =
                ListSegmentsRequest { tenant_id, page_size: 0, page_token: text("page_token"), ..Default::default() };
            catalog.list_segments(with_bearer(request, credential)).await.map(drop)
        }
        "DeleteSegment" => catalog
            .delete_segment(with_bearer(
                DeleteSegmentRequest { tenant_id, segment_id: text("segment_id"), ..Default::default() },
                credential,
            ))
            .await
            .map(drop),
        _ => panic!("no call of {rpc}"),
    }
}

/// Every identifier with each client.
fn over_each(
    clients: &[PackageCatalogClient<Transport>],
) -> impl Iterator<Item = (&PackageCatalogClient<Transport>, (&'static str, &'static str))> {
    clients.iter().flat_map(|client| IDENTIFIERS.into_iter().map(move |identifier| (client, identifier)))
}

/// Everything in a status that a client can see, except the date of the HTTP response.
fn visible_parts(status: &Status) -> (Code, &str, &[u8], HeaderMap) {
    let mut trailers = status.metadata().clone().into_headers();
    trailers.remove("date");
    (status.code(), status.message(), status.details(), trailers)
}

#[tokio::test]
async fn an_identifier_of_another_tenant_gets_byte_for_byte_the_response_of_an_unknown_one() {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    let (tenant, other) = (Tenant::create(&fixture, "bella").await, Tenant::create(&fixture, "other").await);
    let before = all_rows(&fixture).await;
    for (catalog, (rpc, field)) in over_each(&clients(&fixture).await) {
        let foreign = call(catalog, &tenant.id, rpc, field, other.value(rpc, field)).await.unwrap_err();
        let absent = call(catalog, &tenant.id, rpc, field, &unknown_value(field)).await.unwrap_err();
        assert_eq!(visible_parts(&foreign), visible_parts(&absent), "{rpc} {field}");
        let expected = match field.trim_start_matches("packages.") {
            _ if rpc == "GetPackage" => (Code::NotFound, "PACKAGE_NOT_FOUND"),
            _ if rpc == "GetSegment" => (Code::NotFound, "SEGMENT_NOT_FOUND"),
            "package_id" => (Code::NotFound, "PACKAGE_NOT_FOUND"),
            "segment_id" => (Code::NotFound, "SEGMENT_NOT_FOUND"),
            _ => (Code::InvalidArgument, "INVALID_REQUEST"),
        };
        assert_eq!((foreign.code(), reason(&foreign).as_str()), expected, "{rpc} {field}");
        assert_eq!(all_rows(&fixture).await, before, "{rpc} {field}");
    }
}

#[tokio::test]
async fn the_same_calls_succeed_for_the_tenant_that_owns_the_identifiers() {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    for (number, (catalog, (rpc, field))) in over_each(&clients(&fixture).await).enumerate() {
        let tenant = Tenant::create(&fixture, &format!("tenant-{number}")).await;
        let response = call(catalog, &tenant.id, rpc, field, tenant.value(rpc, field)).await;
        assert!(response.is_ok(), "{rpc} {field}: {response:?}");
    }
}

/// The login role has every right on these tables. So the test denies it access, to show that catalog calls do not use
/// it.
#[tokio::test]
async fn every_catalog_call_uses_the_role_that_sees_one_tenant() {
    if is_skipped_on_citus("its shards get a restrictive policy as a permissive one") {
        return;
    }
    let fixture = Fixture::with_settings(with_http(settings())).await;
    let [catalog, _] = clients(&fixture).await;
    let mut tenants = Vec::new();
    for number in 0..IDENTIFIERS.len() {
        tenants.push(Tenant::create(&fixture, &format!("tenant-{number}")).await);
    }
    let deny_login_role = ["packages", "segments"].map(|table| {
        format!(
            "CREATE POLICY catalog_only ON {table} AS RESTRICTIVE USING (
                 current_user = 'turnkey_catalog'
                 AND tenant_id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);"
        )
    });
    fixture.database.execute(deny_login_role.concat()).await;
    assert!(fixture.create(named("denied")).await.is_err());
    for ((rpc, field), tenant) in IDENTIFIERS.into_iter().zip(&tenants) {
        let response = call(&catalog, &tenant.id, rpc, field, tenant.value(rpc, field)).await;
        assert!(response.is_ok(), "{rpc} {field}: {response:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_key_grants_no_access_to_the_catalog_of_another_tenant() {
    let open = Fixture::start().await;
    let (own, other) = (open.tenant("own").await, Tenant::create(&open, "other").await);
    let closed = Fixture::start_with(open.database.clone(), with_http(Tokens::new().settings())).await;
    let before = all_rows(&open).await;
    for (catalog, (rpc, field)) in over_each(&clients(&closed).await) {
        let value = other.value(rpc, field);
        let error = call_with(Some(&own.secret_key), catalog, &other.id, rpc, field, value).await.unwrap_err();
        let expected = (Code::PermissionDenied, "PERMISSION_DENIED");
        assert_eq!((error.code(), reason(&error).as_str()), expected, "{rpc} {field}");
    }
    assert_eq!(all_rows(&open).await, before);
}

#[tokio::test]
async fn a_deleted_tenant_gets_byte_for_byte_the_response_of_an_unknown_one() {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    let (deleted, _living) = (Tenant::create(&fixture, "bella").await, Tenant::create(&fixture, "other").await);
    let delete = "UPDATE tenants SET deleted_at = now() WHERE slug = 'bella'";
    sqlx::query(delete).execute(&fixture.superuser_pool().await).await.unwrap();
    let before = all_rows(&fixture).await;
    for (catalog, (rpc, field)) in over_each(&clients(&fixture).await) {
        let own = deleted.value(rpc, field);
        // A page token contains its tenant. With the list of another tenant it is invalid, whether or not that tenant
        // exists.
        let field = if field == "page_token" { "none" } else { field };
        let error = call(catalog, &deleted.id, rpc, field, own).await.unwrap_err();
        let unknown = call(catalog, &Uuid::new_v4().to_string(), rpc, field, own).await.unwrap_err();
        assert_eq!(visible_parts(&error), visible_parts(&unknown), "{rpc} {field}");
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"), "{rpc} {field}");
        assert_eq!(all_rows(&fixture).await, before, "{rpc} {field}");
    }
}

#[test]
fn the_tested_identifiers_are_those_of_every_rpc_of_the_catalog() {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let messages: HashMap<String, &DescriptorProto> = files
        .iter()
        .flat_map(|file| {
            file.message_type.iter().map(|message| (format!(".{}.{}", file.package(), message.name()), message))
        })
        .collect();
    let catalog =
        files.iter().flat_map(|file| &file.service).find(|service| service.name() == "PackageCatalog").unwrap();
    let mut fields = BTreeSet::new();
    let mut rpcs = BTreeSet::new();
    for method in &catalog.method {
        rpcs.insert(method.name());
        for field in identifiers_in(&messages, method.input_type()) {
            fields.insert(format!("{} {field}", method.name()));
        }
    }
    assert_eq!(fields, IDENTIFIERS.into_iter().map(|(rpc, field)| format!("{rpc} {field}")).collect());
    assert_eq!(rpcs, IDENTIFIERS.into_iter().map(|(rpc, _)| rpc).collect());
}

/// The paths of all text fields of a message that can identify a part of a tenant.
fn identifiers_in(messages: &HashMap<String, &DescriptorProto>, message: &str) -> Vec<String> {
    let mut found = Vec::new();
    for field in &messages[message].field {
        match field.r#type() {
            Type::Message => {
                let inner = identifiers_in(messages, field.type_name());
                found.extend(inner.into_iter().map(|path| format!("{}.{path}", field.name())));
            }
            Type::String | Type::Bytes if !OTHER_TEXT_FIELDS.contains(&field.name()) => {
                found.push(field.name().to_owned());
            }
            _ => {}
        }
    }
    found
}
