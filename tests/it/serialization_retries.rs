//! Deadlocks and serialization failures: tried again, and told when it is no use.

use tonic::Code;
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{DeletePackageRequest, SuspendTenantRequest, UpsertSegmentRequest};

use crate::{
    cluster::execute,
    fixture::{Fixture, ONE_TENANT, bella, reason},
    rotate_api_key::rotation,
    upsert_package::gold,
};

impl Fixture {
    /// Makes the next statements that change this table fail as if they had lost a race, so many of them.
    async fn lose_races(&self, table: &str, code: &str, losses: u32) {
        let sql = format!(
            "CREATE SEQUENCE tries;
             CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN
                 IF nextval('public.tries') <= {losses} THEN
                     RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = 'a race was lost';
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER lose BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION lose()"
        );
        execute(&self.database.superuser, sql).await;
    }

    async fn tries(&self) -> i64 {
        sqlx::query_scalar("SELECT last_value FROM tries").fetch_one(&self.superuser_pool().await).await.unwrap()
    }
}

#[tokio::test]
async fn a_creation_that_lost_two_races_is_made_by_the_third_try() {
    for code in ["40001", "40P01"] {
        let fixture = Fixture::start().await;
        fixture.lose_races("packages", code, 2).await;
        assert!(fixture.create(bella()).await.is_ok());
        assert_eq!((fixture.tries().await, fixture.row_counts().await), (3, ONE_TENANT));
    }
}

#[tokio::test]
async fn after_three_the_caller_is_told_to_come_back() {
    let fixture = Fixture::start().await;
    fixture.lose_races("api_keys", "40001", 1_000).await;
    let failed = fixture.create(bella()).await.unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Aborted, "CONFLICT"));
    assert!(failed.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!((fixture.tries().await, fixture.row_counts().await), (3, [0; 4]));
}

#[tokio::test]
async fn changes_with_a_lost_response_can_be_repeated() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let won = async || {
        assert!(fixture.tries().await >= 3, "it lost twice");
        execute(&fixture.database.superuser, "DROP SEQUENCE tries; DROP FUNCTION lose CASCADE".to_owned()).await;
    };
    fixture.lose_races("tenants", "40P01", 2).await;
    let suspend = SuspendTenantRequest { tenant_id: tenant.id.clone() };
    assert!(fixture.provisioning.clone().suspend_tenant(suspend).await.is_ok());
    won().await;
    fixture.lose_races("api_keys", "40001", 2).await;
    assert!(fixture.try_rotate(rotation(&tenant.id, None)).await.is_ok());
    assert_eq!(fixture.count("api_keys").await, 2);
    won().await;
    fixture.lose_races("packages", "40001", 2).await;
    assert!(fixture.upsert(gold(&tenant)).await.is_ok());
    won().await;
    fixture.lose_races("packages", "40P01", 2).await;
    let delete = DeletePackageRequest { tenant_id: tenant.id.clone(), package_id: tenant.package_ids[0].clone() };
    assert!(fixture.catalog.clone().delete_package(delete).await.is_ok());
    won().await;
    fixture.lose_races("segments", "40001", 2).await;
    let segment = UpsertSegmentRequest {
        tenant_id: tenant.id,
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    assert!(fixture.catalog.clone().upsert_segment(segment).await.is_ok());
    won().await;
}
