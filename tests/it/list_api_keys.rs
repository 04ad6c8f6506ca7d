//! `ListApiKeys`: all keys of a tenant, newest first, without secrets.

use time::Duration;
use tonic::Code;
use turnkey::grpc::pb::ListApiKeysRequest;

use crate::support::{fixture::Fixture, responses::reason};

#[tokio::test]
async fn all_keys_of_the_tenant_are_listed_newest_first_including_expired_and_revoked_ones() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.tenant("omers-cafe").await;
    fixture.advance_clock(Duration::minutes(1));
    let second = fixture.rotate(&tenant, Some(Duration::ZERO)).await.api_key.unwrap();
    fixture.advance_clock(Duration::minutes(1));
    let third = fixture.rotate(&tenant, None).await.api_key.unwrap();
    fixture.revoke(&tenant.id, &second.public_key).await.unwrap();

    let keys = fixture.keys(&tenant.id).await;
    let names: Vec<&str> = keys.iter().map(|key| key.public_key.as_str()).collect();
    assert_eq!(names, [&third.public_key, &second.public_key, &tenant.public_key]);
    assert!(keys.iter().all(|key| key.tenant_id == tenant.id && key.created_at.is_some()));
    let states: Vec<_> = keys.iter().map(|key| (key.expires_at.is_some(), key.revoked_at.is_some())).collect();
    assert_eq!(states, [(false, false), (true, true), (true, false)]);
}

#[tokio::test]
async fn the_keys_of_a_deleted_tenant_are_listed_and_an_unknown_tenant_is_not_found() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.delete_tenant(&tenant.id).await.unwrap();
    assert_eq!(fixture.keys(&tenant.id).await.len(), 1);
    let request = ListApiKeysRequest { tenant_id: uuid::Uuid::new_v4().to_string(), ..Default::default() };
    let error = fixture.provisioning.clone().list_api_keys(request).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
}

#[tokio::test]
async fn the_list_of_a_tenant_without_keys_is_empty() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.database.execute_without_triggers("DELETE FROM api_keys").await;
    assert_eq!(fixture.keys(&tenant.id).await, []);
}

#[tokio::test]
async fn the_newest_500_keys_are_listed() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let more = "INSERT INTO api_keys
                SELECT key_id, tenant_id, 'pk_live_x_' || key_id, secret_hash, created_at + n * interval '1 second'
                  FROM (SELECT n, lpad(n::text, 16, '0') AS key_id, tenant_id, secret_hash, created_at
                          FROM api_keys, generate_series(1, 600) AS n) AS key";
    fixture.database.execute(more).await;
    let keys = fixture.keys(&tenant.id).await;
    assert_eq!(keys.len(), 500);
    let ends = [&keys[0].public_key, &keys[499].public_key];
    assert_eq!(ends, ["pk_live_x_0000000000000600", "pk_live_x_0000000000000101"]);
}
