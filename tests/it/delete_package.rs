//! `DeletePackage`: any package except the last one of its tenant.

use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::DeletePackageRequest;

use crate::support::{citus::is_skipped_on_citus, fixture::Fixture, responses::reason};

#[tokio::test]
async fn all_packages_but_the_last_can_be_deleted() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let [basic, standard, premium] = &tenant.package_ids[..] else { panic!("three packages") };
    fixture.delete_package(&tenant.id, basic).await.unwrap();
    fixture.delete_package(&tenant.id, standard).await.unwrap();
    let error = fixture.delete_package(&tenant.id, premium).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "LAST_PACKAGE"));
    assert_eq!(error.get_details_precondition_failure().unwrap().violations[0].r#type, "LAST_PACKAGE");
    let error = fixture.delete_package(&tenant.id, basic).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "PACKAGE_NOT_FOUND"));
    assert_eq!(fixture.package(&tenant, basic).await.unwrap_err().code(), Code::NotFound);
    assert!(fixture.package(&tenant, premium).await.is_ok());
}

#[tokio::test]
async fn concurrent_deletes_of_all_packages_leave_one() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let mut calls = JoinSet::new();
    for package_id in tenant.package_ids.clone() {
        let (mut catalog, tenant_id) = (fixture.catalog.clone(), tenant.id.clone());
        calls.spawn(async move {
            catalog.delete_package(DeletePackageRequest { tenant_id, package_id, ..Default::default() }).await
        });
    }
    let responses = calls.join_all().await;
    assert_eq!(responses.iter().filter(|response| response.is_ok()).count(), 2);
    assert_eq!(fixture.count("packages").await, 1);
}

#[tokio::test]
async fn a_delete_that_waits_for_a_superuser_sees_the_packages_that_are_left() {
    if is_skipped_on_citus("the transaction of the superuser is the one that fails") {
        return;
    }
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let pool = fixture.superuser_pool().await;
    let mut superuser = pool.begin().await.unwrap();
    sqlx::query("DELETE FROM packages WHERE slug <> 'basic-package'").execute(&mut *superuser).await.unwrap();
    sqlx::query("SELECT FROM tenants FOR UPDATE").execute(&mut *superuser).await.unwrap();
    let service = fixture.delete_package(&tenant.id, &tenant.package_ids[0]);
    let psql = async {
        // The service has deleted the package and waits at COMMIT for the tenant's row.
        let is_waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity
                      WHERE datname = current_database() AND wait_event_type = 'Lock' AND query = 'COMMIT')";
        while !sqlx::query_scalar::<_, bool>(is_waiting).fetch_one(&pool).await.unwrap() {}
        superuser.commit().await.unwrap();
    };
    let (error, ()) = tokio::join!(service, psql);
    let error = error.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "LAST_PACKAGE"));
    assert_eq!(fixture.count("packages").await, 1);
}
