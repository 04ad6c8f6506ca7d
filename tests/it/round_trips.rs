//! How often a call waits for the database: as ARCHITECTURE.md has it, once its statements are prepared.

use tonic::Status;
use turnkey::{
    config::ServerSettings,
    grpc::pb::{
        CreateFullyProvisionedRequest, DeletePackageRequest, GetPackageRequest, ListPackagesRequest,
        UpsertPackageRequest, get_tenant_request::Identifier,
    },
};
use uuid::Uuid;

use crate::{
    cluster::{Cluster, TestDatabase},
    fixture::{Fixture, NewTenant, named, settings},
    proxy::Proxy,
    rotate_api_key::rotation,
    upsert_package::gold,
};

/// Calls that prepare nothing any more, and make the line of calls the busiest of all.
const WARM_UP: usize = 50;

async fn round_trips<T>(proxy: &Proxy, call: impl Future<Output = Result<T, Status>>) -> u64 {
    let before = proxy.round_trips();
    call.await.map(drop).unwrap();
    proxy.round_trips() - before
}

fn fresh() -> CreateFullyProvisionedRequest {
    let id = Uuid::new_v4();
    CreateFullyProvisionedRequest { request_id: Some(id.to_string()), ..named(&format!("t-{}", id.simple())) }
}

/// One call after the other, each with the trips it made.
async fn all(fixture: &Fixture, proxy: &Proxy, tenant: &NewTenant) -> Vec<(&'static str, u64)> {
    let (tenant_id, package_id) = (tenant.id.clone(), tenant.package_ids[0].clone());
    let mut catalog = fixture.catalog.clone();
    let create = fresh();
    let get = GetPackageRequest { tenant_id: tenant_id.clone(), package_id };
    let with_slug = UpsertPackageRequest { slug: Some("silver".to_owned()), ..gold(tenant) };
    let list = ListPackagesRequest { tenant_id: tenant_id.clone(), ..ListPackagesRequest::default() };
    let mut done = vec![
        ("create", round_trips(proxy, fixture.create(create.clone())).await),
        ("replay", round_trips(proxy, fixture.create(create)).await),
        ("GetTenant", round_trips(proxy, fixture.get(Identifier::TenantId(tenant_id.clone()))).await),
        ("VerifyApiKey", round_trips(proxy, async { Ok(fixture.verify(&tenant.secret_key).await) }).await),
        ("RotateApiKey", round_trips(proxy, fixture.try_rotate(rotation(&tenant_id, None))).await),
        ("GetPackage", round_trips(proxy, catalog.get_package(get)).await),
        ("ListPackages", round_trips(proxy, catalog.list_packages(list)).await),
        ("UpsertPackage", round_trips(proxy, fixture.upsert(with_slug)).await),
        ("UpsertPackage with a generated slug", round_trips(proxy, fixture.upsert(gold(tenant))).await),
    ];
    let package_id = fixture.upsert(gold(tenant)).await.unwrap().package.unwrap().id;
    let delete = DeletePackageRequest { tenant_id, package_id };
    done.push(("DeletePackage", round_trips(proxy, catalog.delete_package(delete)).await));
    done
}

#[tokio::test]
async fn a_call_waits_for_the_database_as_often_as_it_must() {
    let database = Cluster::get().migrated().await;
    let proxy = Proxy::start(&database.server).await;
    let database = TestDatabase { server: proxy.options(&database.server), ..database };
    let settings = ServerSettings { database_max_connections: 1, ..settings() };
    let fixture = Fixture::start_with(database, settings).await;
    let tenant = fixture.tenant("bella").await;
    for _ in 0..WARM_UP {
        fixture.create(fresh()).await.unwrap();
    }
    all(&fixture, &proxy, &tenant).await;
    let expected = [
        ("create", 1),
        ("replay", 2),
        ("GetTenant", 1),
        ("VerifyApiKey", 1),
        ("RotateApiKey", 4),
        ("GetPackage", 1),
        ("ListPackages", 1),
        ("UpsertPackage", 3),
        ("UpsertPackage with a generated slug", 4),
        ("DeletePackage", 3),
    ];
    assert_eq!(all(&fixture, &proxy, &tenant).await, expected);
}
