//! `RevokeApiKey`: immediate and permanent.

use sqlx::AssertSqlSafe;
use time::Duration;
use tonic::Code;
use turnkey::grpc::pb::Verdict;

use crate::support::{
    fixture::Fixture,
    responses::{reason, violations},
};

#[tokio::test]
async fn a_revocation_is_immediate_and_idempotent() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let revoked = fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap();
    assert_eq!((revoked.public_key.as_str(), revoked.tenant_id.as_str()), (&*tenant.public_key, &*tenant.id));
    assert!(revoked.revoked_at.is_some());
    assert_eq!(fixture.verify(&tenant.secret_key).await.verdict(), Verdict::Revoked);
    fixture.advance_clock(Duration::hours(1));
    assert_eq!(fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap(), revoked);
}

#[tokio::test]
async fn a_tenant_whose_last_key_was_revoked_gets_access_again_by_a_rotation() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap();
    let rotated = fixture.rotate(&tenant, None).await;
    assert_eq!(fixture.verify(&rotated.secret_key).await.verdict(), Verdict::Valid);
    assert!(fixture.keys(&tenant.id).await[1].expires_at.is_none(), "a revoked key gets no expiry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_waits_for_a_purge_finds_no_tenant() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let pool = fixture.superuser_pool().await;
    let mut purge = pool.begin().await.unwrap();
    let sql = format!(
        "SELECT pg_advisory_xact_lock(tenant_lock_key('{id}'));
         DELETE FROM packages WHERE tenant_id = '{id}';
         DELETE FROM segments WHERE tenant_id = '{id}';
         DELETE FROM api_keys WHERE tenant_id = '{id}';
         DELETE FROM tenants WHERE id = '{id}'",
        id = tenant.id
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *purge).await.unwrap();
    let commit = async {
        let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
        while fixture.count(waiting).await < 1 {}
        purge.commit().await.unwrap();
    };
    let (revoked, ()) = tokio::join!(fixture.revoke(&tenant.id, &tenant.public_key), commit);
    assert_eq!(reason(&revoked.unwrap_err()), "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn the_key_of_a_deleted_tenant_can_be_revoked() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.delete_tenant(&tenant.id).await.unwrap();
    assert!(fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap().revoked_at.is_some());
}

#[tokio::test]
async fn revoking_the_key_of_another_tenant_gets_the_error_of_an_unknown_key() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella-weddings").await, fixture.tenant("omers-cafe").await);
    let foreign = fixture.revoke(&tenant.id, &other.public_key).await.unwrap_err();
    let unknown = fixture.revoke(&tenant.id, "pk_live_omers_0000000000000000").await.unwrap_err();
    // The key id alone does not identify a key: the whole public key must match.
    let key_id = tenant.public_key.rsplit('_').next().unwrap();
    let renamed = fixture.revoke(&tenant.id, &format!("pk_live_omers_{key_id}")).await.unwrap_err();
    for error in [&foreign, &unknown, &renamed] {
        assert_eq!((error.code(), reason(error).as_str()), (Code::NotFound, "API_KEY_NOT_FOUND"));
        assert_eq!((error.message(), error.details()), (unknown.message(), unknown.details()));
    }
    assert_eq!(fixture.verify(&other.secret_key).await.verdict(), Verdict::Valid);

    let unknown_tenant = uuid::Uuid::new_v4().to_string();
    let error = fixture.revoke(&unknown_tenant, &tenant.public_key).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
}

#[tokio::test]
async fn an_invalid_public_key_is_a_violation_and_is_not_repeated_in_the_error() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let error = fixture.revoke("42", &tenant.secret_key).await.unwrap_err();
    let expected = [("tenant_id", "BAD_FORMAT"), ("public_key", "BAD_FORMAT")];
    assert_eq!(violations(&error), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
    assert!(!format!("{error:?}").contains(&tenant.secret_key));
    let error = fixture.revoke(&tenant.id, "").await.unwrap_err();
    assert_eq!(violations(&error), [("public_key".to_owned(), "MISSING_FIELD".to_owned())]);
}
