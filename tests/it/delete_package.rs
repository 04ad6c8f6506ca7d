//! `DeletePackage`: any but the last.

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::DeletePackageRequest;

use crate::fixture::{Fixture, NewTenant, reason};

impl Fixture {
    async fn delete(&self, tenant: &NewTenant, package_id: &str) -> Result<(), Status> {
        let request = DeletePackageRequest { tenant_id: tenant.id.clone(), package_id: package_id.to_owned() };
        self.catalog.clone().delete_package(request).await.map(drop)
    }
}

#[tokio::test]
async fn packages_can_be_deleted_down_to_the_last_which_stays() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let [basic, standard, premium] = &tenant.package_ids[..] else { panic!("three packages") };
    fixture.delete(&tenant, basic).await.unwrap();
    fixture.delete(&tenant, standard).await.unwrap();
    let refused = fixture.delete(&tenant, premium).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "LAST_PACKAGE"));
    assert_eq!(refused.get_details_precondition_failure().unwrap().violations[0].r#type, "LAST_PACKAGE");
    let gone = fixture.delete(&tenant, basic).await.unwrap_err();
    assert_eq!((gone.code(), reason(&gone).as_str()), (Code::NotFound, "PACKAGE_NOT_FOUND"));
    assert_eq!(fixture.package(&tenant, basic).await.unwrap_err().code(), Code::NotFound);
    assert!(fixture.package(&tenant, premium).await.is_ok());
}

#[tokio::test]
async fn of_all_packages_deleted_at_once_one_stays() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let mut calls = JoinSet::new();
    for package_id in tenant.package_ids.clone() {
        let (mut catalog, tenant_id) = (fixture.catalog.clone(), tenant.id.clone());
        calls.spawn(async move { catalog.delete_package(DeletePackageRequest { tenant_id, package_id }).await });
    }
    let answers = calls.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2);
    assert_eq!(fixture.count("packages").await, 1);
}

#[tokio::test]
async fn a_delete_that_waits_for_hands_in_psql_sees_what_they_left() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let pool = fixture.superuser_pool().await;
    let mut superuser = pool.begin().await.unwrap();
    sqlx::query("DELETE FROM packages WHERE slug <> 'basic-package'").execute(&mut *superuser).await.unwrap();
    sqlx::query("SELECT FROM tenants FOR UPDATE").execute(&mut *superuser).await.unwrap();
    let ours = fixture.delete(&tenant, &tenant.package_ids[0]);
    let theirs = async {
        // The service has deleted, and waits at COMMIT for the tenant's row.
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                      WHERE datname = current_database() AND wait_event_type = 'Lock' AND query = 'COMMIT')";
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&pool).await.unwrap() {}
        superuser.commit().await.unwrap();
    };
    let (refused, ()) = tokio::join!(ours, theirs);
    let refused = refused.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "LAST_PACKAGE"));
    assert_eq!(fixture.count("packages").await, 1);
}
