//! The number of database round trips of each call, once its statements are prepared: the table in ARCHITECTURE.md.

use tonic::Status;
use turnkey::grpc::pb::{
    CreateFullyProvisionedRequest, DeletePackageRequest, GetPackageRequest, ListPackagesRequest, UpsertPackageRequest,
    get_tenant_request::Identifier,
};
use uuid::Uuid;

use crate::support::{
    fixture::{Fixture, NewTenant, one_connection},
    owners::BELLA,
    proxy::Proxy,
    requests::{PASSWORD, another_key, gold, named, rotation},
};

/// Calls that prepare the statements, and that make the connection of the pool the one with the most round trips.
const WARM_UP: usize = 50;

async fn round_trips<T>(proxy: &Proxy, call: impl Future<Output = Result<T, Status>>) -> u64 {
    let before = proxy.round_trips();
    call.await.map(drop).unwrap();
    proxy.round_trips() - before
}

fn new_request() -> CreateFullyProvisionedRequest {
    let id = Uuid::new_v4();
    CreateFullyProvisionedRequest { request_id: Some(id.to_string()), ..named(&format!("t-{}", id.simple())) }
}

/// Makes one call after the other and returns the round trips of each.
async fn measure_all(fixture: &Fixture, proxy: &Proxy, tenant: &NewTenant) -> Vec<(&'static str, u64)> {
    let (tenant_id, package_id) = (tenant.id.clone(), tenant.package_ids[0].clone());
    let mut catalog = fixture.catalog.clone();
    let create = new_request();
    let get = GetPackageRequest { tenant_id: tenant_id.clone(), package_id, ..Default::default() };
    let with_slug = UpsertPackageRequest { slug: Some("silver".to_owned()), ..gold(tenant) };
    let validate = UpsertPackageRequest { validate_only: Some(true), ..with_slug.clone() };
    let list = ListPackagesRequest { tenant_id: tenant_id.clone(), ..ListPackagesRequest::default() };
    let mut measured = vec![
        ("create", round_trips(proxy, fixture.create(create.clone())).await),
        ("replay", round_trips(proxy, fixture.create(create)).await),
        ("GetTenant", round_trips(proxy, fixture.get(Identifier::TenantId(tenant_id.clone()))).await),
        ("VerifyApiKey", round_trips(proxy, async { Ok(fixture.verify(&tenant.secret_key).await) }).await),
        ("CreateApiKey", round_trips(proxy, fixture.create_key(another_key(&tenant_id))).await),
        ("RotateApiKey", round_trips(proxy, fixture.try_rotate(rotation(&tenant_id, None))).await),
        ("GetPackage", round_trips(proxy, catalog.get_package(get)).await),
        ("ListPackages", round_trips(proxy, catalog.list_packages(list)).await),
        ("UpsertPackage", round_trips(proxy, fixture.upsert_package(with_slug)).await),
        ("UpsertPackage with validate_only", round_trips(proxy, fixture.upsert_package(validate)).await),
        ("UpsertPackage with a generated slug", round_trips(proxy, fixture.upsert_package(gold(tenant))).await),
    ];
    let package_id = fixture.upsert_package(gold(tenant)).await.unwrap().package.unwrap().id;
    let delete = DeletePackageRequest { tenant_id, package_id, ..Default::default() };
    measured.push(("DeletePackage", round_trips(proxy, catalog.delete_package(delete)).await));
    measured.push(("SetOwner", round_trips(proxy, fixture.set_owner(&tenant.id, BELLA, Some(PASSWORD))).await));
    measured.push(("VerifyPassword", round_trips(proxy, fixture.verify_password(BELLA, PASSWORD, None)).await));
    measured.push(("ChangePassword", round_trips(proxy, fixture.change_password(BELLA, PASSWORD, PASSWORD)).await));
    let token = fixture.reset_token(BELLA).await;
    measured.push(("ResetPassword", round_trips(proxy, fixture.reset_password(&token, PASSWORD)).await));
    measured
}

#[tokio::test]
async fn every_call_makes_the_documented_number_of_round_trips() {
    let (fixture, proxy) = Fixture::behind_proxy(one_connection()).await;
    let tenant = fixture.tenant("bella").await;
    for _ in 0..WARM_UP {
        fixture.create(new_request()).await.unwrap();
    }
    // A background statement must not store the use of the key meanwhile: it was used a moment ago.
    fixture.database.execute("UPDATE api_keys SET last_used_at = now() + interval '1 hour'").await;
    measure_all(&fixture, &proxy, &tenant).await;
    let expected = [
        ("create", 1),
        ("replay", 2),
        ("GetTenant", 1),
        ("VerifyApiKey", 1),
        ("CreateApiKey", 4),
        ("RotateApiKey", 4),
        ("GetPackage", 1),
        ("ListPackages", 1),
        ("UpsertPackage", 3),
        ("UpsertPackage with validate_only", 3),
        ("UpsertPackage with a generated slug", 4),
        ("DeletePackage", 3),
        ("SetOwner", 3),
        ("VerifyPassword", 2),
        ("ChangePassword", 3),
        ("ResetPassword", 4),
    ];
    assert_eq!(measure_all(&fixture, &proxy, &tenant).await, expected);
}
