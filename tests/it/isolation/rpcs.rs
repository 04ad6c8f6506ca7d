//! Every RPC of `PackageCatalog` with every name of something that is another tenant's, or that was a deleted one's.

use std::collections::{BTreeSet, HashMap};

use http::HeaderMap;
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    BatchUpsertPackagesRequest, DESCRIPTORS, DeletePackageRequest, DeleteSegmentRequest, GetPackageRequest,
    GetSegmentRequest, ListPackagesRequest, ListSegmentsRequest, PackageUpsert, UpsertPackageRequest,
    UpsertSegmentRequest,
};
use uuid::Uuid;

use super::everything;
use crate::{
    authentication::{Tokens, with},
    cluster::execute,
    fixture::{Fixture, named, reason},
};

/// Every RPC of `PackageCatalog`, with every field by which it can name something of a tenant's.
const NAMED: [(&str, &str); 15] = [
    ("UpsertPackage", "package_id"),
    ("UpsertPackage", "segment_id"),
    ("UpsertPackage", "slug"),
    ("BatchUpsertPackages", "packages.package_id"),
    ("BatchUpsertPackages", "packages.segment_id"),
    ("BatchUpsertPackages", "packages.slug"),
    ("GetPackage", "package_id"),
    ("ListPackages", "segment_id"),
    ("ListPackages", "page_token"),
    ("DeletePackage", "package_id"),
    ("UpsertSegment", "segment_id"),
    ("UpsertSegment", "slug"),
    ("GetSegment", "segment_id"),
    ("ListSegments", "page_token"),
    ("DeleteSegment", "segment_id"),
];

/// Fields that are text and name nothing, or name the tenant itself.
const NAMELESS: [&str; 5] = ["tenant_id", "name", "title", "hero_title", "description"];

/// A tenant with four packages, and a second, empty segment.
struct Tenant {
    id: String,
    /// Of the fourth package and of the second segment.
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
            ..UpsertPackageRequest::default()
        };
        let package_id = catalog.upsert_package(package).await.unwrap().into_inner().package.unwrap().id;
        let segment =
            UpsertSegmentRequest { tenant_id: id.clone(), slug: Some(slug.clone()), name, ..Default::default() };
        let segment_id = catalog.upsert_segment(segment).await.unwrap().into_inner().segment.unwrap().id;
        let packages = ListPackagesRequest { tenant_id: id.clone(), page_size: 1, ..ListPackagesRequest::default() };
        let package_token = catalog.list_packages(packages).await.unwrap().into_inner().next_page_token;
        let segments = ListSegmentsRequest { tenant_id: id.clone(), page_size: 1, page_token: String::new() };
        let segment_token = catalog.list_segments(segments).await.unwrap().into_inner().next_page_token;
        assert!(!package_token.is_empty() && !segment_token.is_empty());
        Self { id, slug, package_id, segment_id, package_token, segment_token }
    }

    /// What stands in the field of a call that names something of this tenant's.
    fn value(&self, rpc: &str, field: &str) -> &str {
        match (rpc, field.trim_start_matches("packages.")) {
            (_, "package_id") => &self.package_id,
            (_, "segment_id") => &self.segment_id,
            (_, "slug") => &self.slug,
            ("ListPackages", "page_token") => &self.package_token,
            ("ListSegments", "page_token") => &self.segment_token,
            _ => panic!("what does {field} of {rpc} name?"),
        }
    }
}

/// What stands there in a call that names something that nobody has.
fn nothing(field: &str) -> String {
    if field.ends_with("slug") { "no-such-thing".to_owned() } else { Uuid::new_v4().to_string() }
}

async fn call(fixture: &Fixture, tenant_id: &str, rpc: &str, field: &str, value: &str) -> Result<(), Status> {
    call_with(None, fixture, tenant_id, rpc, field, value).await
}

async fn call_with(
    credential: Option<&str>,
    fixture: &Fixture,
    tenant_id: &str,
    rpc: &str,
    field: &str,
    value: &str,
) -> Result<(), Status> {
    let mut catalog = fixture.catalog.clone();
    let tenant_id = tenant_id.to_owned();
    let given = |name: &str| (field == name).then(|| value.to_owned());
    let text = |name: &str| given(name).unwrap_or_default();
    // Whoever names a slug wants to change what has it, and has not enough to create it.
    let name = (!field.ends_with("slug")).then(|| "Mine".to_owned());
    let base_price = name.is_some().then_some(1);
    match rpc {
        "UpsertPackage" => {
            let (package_id, segment_id, slug) = (given("package_id"), given("segment_id"), given("slug"));
            let request = UpsertPackageRequest { tenant_id, package_id, segment_id, slug, ..Default::default() };
            catalog
                .upsert_package(with(UpsertPackageRequest { name, base_price, ..request }, credential))
                .await
                .map(drop)
        }
        "BatchUpsertPackages" => {
            let fine = PackageUpsert { name: Some("Fine".to_owned()), base_price: Some(1), ..PackageUpsert::default() };
            let (package_id, segment_id) = (given("packages.package_id"), given("packages.segment_id"));
            let slug = given("packages.slug");
            let item = PackageUpsert { package_id, segment_id, slug, name, base_price, ..PackageUpsert::default() };
            let request = BatchUpsertPackagesRequest { tenant_id, packages: vec![fine, item] };
            catalog.batch_upsert_packages(with(request, credential)).await.map(drop)
        }
        "GetPackage" => catalog
            .get_package(with(GetPackageRequest { tenant_id, package_id: text("package_id") }, credential))
            .await
            .map(drop),
        "ListPackages" => {
            let (segment_id, page_token) = (given("segment_id"), text("page_token"));
            let request = ListPackagesRequest { tenant_id, segment_id, page_token, ..ListPackagesRequest::default() };
            catalog.list_packages(with(request, credential)).await.map(drop)
        }
        "DeletePackage" => catalog
            .delete_package(with(DeletePackageRequest { tenant_id, package_id: text("package_id") }, credential))
            .await
            .map(drop),
        "UpsertSegment" => {
            let (segment_id, slug) = (given("segment_id"), given("slug"));
            let request = UpsertSegmentRequest { tenant_id, segment_id, slug, name, ..UpsertSegmentRequest::default() };
            catalog.upsert_segment(with(request, credential)).await.map(drop)
        }
        "GetSegment" => catalog
            .get_segment(with(GetSegmentRequest { tenant_id, segment_id: text("segment_id") }, credential))
            .await
            .map(drop),
        "ListSegments" => {
            let request = ListSegmentsRequest { tenant_id, page_size: 0, page_token: text("page_token") };
            catalog.list_segments(with(request, credential)).await.map(drop)
        }
        "DeleteSegment" => catalog
            .delete_segment(with(DeleteSegmentRequest { tenant_id, segment_id: text("segment_id") }, credential))
            .await
            .map(drop),
        _ => panic!("how is {rpc} called?"),
    }
}

/// All by which a caller can tell one failure from another, but for HTTP's clock.
fn told(status: &Status) -> (Code, &str, &[u8], HeaderMap) {
    let mut trailers = status.metadata().clone().into_headers();
    trailers.remove("date");
    (status.code(), status.message(), status.details(), trailers)
}

#[tokio::test]
async fn what_is_another_tenants_gets_byte_for_byte_the_answer_of_what_does_not_exist() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (Tenant::create(&fixture, "bella").await, Tenant::create(&fixture, "other").await);
    let before = everything(&fixture).await;
    for (rpc, field) in NAMED {
        let foreign = call(&fixture, &tenant.id, rpc, field, other.value(rpc, field)).await.unwrap_err();
        let absent = call(&fixture, &tenant.id, rpc, field, &nothing(field)).await.unwrap_err();
        assert_eq!(told(&foreign), told(&absent), "{rpc} {field}");
        let expected = match field.trim_start_matches("packages.") {
            "package_id" => (Code::NotFound, "PACKAGE_NOT_FOUND"),
            "segment_id" => (Code::NotFound, "SEGMENT_NOT_FOUND"),
            _ => (Code::InvalidArgument, "INVALID_REQUEST"),
        };
        assert_eq!((foreign.code(), reason(&foreign).as_str()), expected, "{rpc} {field}");
        assert_eq!(everything(&fixture).await, before, "{rpc} {field}");
    }
}

#[tokio::test]
async fn the_same_calls_succeed_for_the_tenant_whose_things_they_name() {
    let fixture = Fixture::start().await;
    for (number, (rpc, field)) in NAMED.into_iter().enumerate() {
        let tenant = Tenant::create(&fixture, &format!("tenant-{number}")).await;
        let answer = call(&fixture, &tenant.id, rpc, field, tenant.value(rpc, field)).await;
        assert!(answer.is_ok(), "{rpc} {field}: {answer:?}");
    }
}

/// The login role has every right on these tables: that catalog calls do not use it is seen only where it is shut out too.
#[tokio::test]
async fn every_call_works_as_the_role_that_sees_one_tenant() {
    let fixture = Fixture::start().await;
    let mut tenants = Vec::new();
    for number in 0..NAMED.len() {
        tenants.push(Tenant::create(&fixture, &format!("tenant-{number}")).await);
    }
    let shut_out = ["packages", "segments"].map(|table| {
        format!(
            "CREATE POLICY catalog_alone ON {table} AS RESTRICTIVE USING (
                 current_user = 'turnkey_catalog'
                 AND tenant_id = nullif(current_setting('turnkey.tenant_id', true), '')::uuid);"
        )
    });
    execute(&fixture.database.superuser, shut_out.concat()).await;
    assert!(fixture.create(named("shut-out")).await.is_err());
    for ((rpc, field), tenant) in NAMED.into_iter().zip(&tenants) {
        let answer = call(&fixture, &tenant.id, rpc, field, tenant.value(rpc, field)).await;
        assert!(answer.is_ok(), "{rpc} {field}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_key_opens_no_other_tenants_catalog() {
    let open = Fixture::start().await;
    let (own, other) = (open.tenant("own").await, Tenant::create(&open, "other").await);
    let closed = Fixture::start_with(open.database.clone(), Tokens::new().settings()).await;
    let before = everything(&open).await;
    for (rpc, field) in NAMED {
        let value = other.value(rpc, field);
        let refused = call_with(Some(&own.secret_key), &closed, &other.id, rpc, field, value).await.unwrap_err();
        let expected = (Code::PermissionDenied, "PERMISSION_DENIED");
        assert_eq!((refused.code(), reason(&refused).as_str()), expected, "{rpc} {field}");
    }
    assert_eq!(everything(&open).await, before);
}

#[tokio::test]
async fn a_deleted_tenant_gets_byte_for_byte_the_answer_of_one_that_never_was() {
    let fixture = Fixture::start().await;
    let (deleted, _living) = (Tenant::create(&fixture, "bella").await, Tenant::create(&fixture, "other").await);
    let delete = "UPDATE tenants SET deleted_at = now() WHERE slug = 'bella'";
    sqlx::query(delete).execute(&fixture.superuser_pool().await).await.unwrap();
    let before = everything(&fixture).await;
    for (rpc, field) in NAMED {
        let own = deleted.value(rpc, field);
        // A token says whose it is: held against another tenant's list it is bad, whether or not that one lives.
        let field = if field == "page_token" { "none" } else { field };
        let gone = call(&fixture, &deleted.id, rpc, field, own).await.unwrap_err();
        let unknown = call(&fixture, &Uuid::new_v4().to_string(), rpc, field, own).await.unwrap_err();
        assert_eq!(told(&gone), told(&unknown), "{rpc} {field}");
        assert_eq!((gone.code(), reason(&gone).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"), "{rpc} {field}");
        assert_eq!(everything(&fixture).await, before, "{rpc} {field}");
    }
}

#[test]
fn the_table_above_has_every_rpc_and_every_field_that_can_name_something() {
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
        for field in names_in(&messages, method.input_type()) {
            fields.insert(format!("{} {field}", method.name()));
        }
    }
    assert_eq!(fields, NAMED.into_iter().map(|(rpc, field)| format!("{rpc} {field}")).collect());
    assert_eq!(rpcs, NAMED.into_iter().map(|(rpc, _)| rpc).collect());
}

/// The paths of all texts in a message but those that name nothing.
fn names_in(messages: &HashMap<String, &DescriptorProto>, message: &str) -> Vec<String> {
    let mut found = Vec::new();
    for field in &messages[message].field {
        match field.r#type() {
            Type::Message => {
                let inner = names_in(messages, field.type_name());
                found.extend(inner.into_iter().map(|path| format!("{}.{path}", field.name())));
            }
            Type::String | Type::Bytes if !NAMELESS.contains(&field.name()) => found.push(field.name().to_owned()),
            _ => {}
        }
    }
    found
}
