//! `ListApiKeys`: all keys of a tenant, newest first, without secrets.

use time::Duration;
use tonic::Code;
use turnkey::grpc::pb::{ApiKey, ListApiKeysRequest};

use crate::support::{
    fixture::Fixture,
    responses::{reason, violations},
};

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
async fn pages_list_every_key_once_while_keys_are_created() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella-weddings").await, fixture.tenant("omers-cafe").await);
    // Pairs of keys are created at the same moment, so the key id decides about their order.
    let more = "INSERT INTO api_keys
                SELECT key_id, tenant_id, 'pk_live_x_' || key_id, secret_hash, created_at - n / 2 * interval '1 second'
                  FROM (SELECT n, lpad(n::text, 16, '0') AS key_id, tenant_id, secret_hash, created_at
                          FROM api_keys, generate_series(1, 600) AS n
                         WHERE tenant_id = (SELECT id FROM tenants WHERE slug = 'bella-weddings')) AS key";
    fixture.database.execute(more).await;
    let page = |tenant_id: &str, page_size, page_token: String| {
        let request = ListApiKeysRequest { tenant_id: tenant_id.to_owned(), page_size, page_token };
        let mut client = fixture.provisioning.clone();
        async move { client.list_api_keys(request).await.map(tonic::Response::into_inner) }
    };
    // A newer key, whose id precedes all others.
    let newer = "INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
                 SELECT lpad(number, 16, '0'), tenant_id, 'pk_live_x_' || lpad(number, 16, '0'), secret_hash, now()
                   FROM (SELECT (count(*) + 1000)::text AS number FROM api_keys) AS next, api_keys
                  WHERE key_id = lpad('1', 16, '0')";
    let mut count = 601;
    for (page_size, expected) in [(0, 50), (7, 7), (500, 500), (501, 500)] {
        let (mut listed, mut token, mut created) = (Vec::new(), String::new(), 0);
        loop {
            let response = page(&tenant.id, page_size, token).await.unwrap();
            let is_last = response.next_page_token.is_empty();
            assert!(response.api_keys.len() == expected || is_last, "{}", response.api_keys.len());
            listed.extend(response.api_keys);
            token = response.next_page_token;
            if is_last {
                break;
            }
            fixture.database.execute(newer).await;
            created += 1;
        }
        let order = |key: &ApiKey| {
            let time = key.created_at.unwrap();
            (time.seconds, time.nanos, key.public_key.rsplit_once('_').unwrap().1.to_owned())
        };
        assert!(listed.is_sorted_by(|one, next| order(one) > order(next)), "page_size {page_size}");
        assert_eq!(listed.len(), count, "page_size {page_size}");
        count += created;
    }
    let token = page(&tenant.id, 1, String::new()).await.unwrap().next_page_token;
    for (tenant_id, token) in [(&other.id, token), (&tenant.id, "x".to_owned())] {
        let error = page(tenant_id, 1, token).await.unwrap_err();
        assert_eq!(violations(&error), [("page_token".to_owned(), "BAD_FORMAT".to_owned())]);
    }
    let error = page(&tenant.id, -1, String::new()).await.unwrap_err();
    assert_eq!(violations(&error), [("page_size".to_owned(), "OUT_OF_RANGE".to_owned())]);
}
