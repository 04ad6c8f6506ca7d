//! `GetTenant`: by id and by slug.

use tonic::Code;
use turnkey::grpc::pb::{GetTenantRequest, get_tenant_request::Identifier};

use crate::support::{
    fixture::Fixture,
    requests::bella,
    responses::{reason, violations},
};

#[tokio::test]
async fn a_tenant_is_found_by_id_and_by_slug() {
    let fixture = Fixture::start().await;
    let tenant = fixture.create(bella()).await.unwrap().tenant.unwrap();
    assert_eq!(fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap(), tenant);
    assert_eq!(fixture.get(Identifier::Slug("bella-weddings".to_owned())).await.unwrap(), tenant);
}

#[tokio::test]
async fn a_deleted_tenant_is_found() {
    let fixture = Fixture::start().await;
    let tenant = fixture.create(bella()).await.unwrap().tenant.unwrap();
    sqlx::query("UPDATE tenants SET deleted_at = now()").execute(&fixture.superuser_pool().await).await.unwrap();
    assert!(fixture.get(Identifier::TenantId(tenant.id)).await.unwrap().deleted_at.is_some());
}

#[tokio::test]
async fn api_key_public_is_the_newest_usable_key_or_else_the_newest() {
    let fixture = Fixture::start().await;
    let tenant = fixture.create(bella()).await.unwrap().tenant.unwrap();
    let superuser = fixture.superuser_pool().await;
    let newest_is = async |expected: &str| {
        let found = fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap();
        assert_eq!(found.api_key_public, expected);
    };
    for (key_id, age, expires, revoked) in [
        ("AAAAAAAAAAAAAAAA", "1 hour", "NULL", "NULL"),
        ("BBBBBBBBBBBBBBBB", "2 hours", "now() - interval '1 hour'", "NULL"),
        ("CCCCCCCCCCCCCCCC", "3 hours", "NULL", "now()"),
    ] {
        let sql = format!(
            "INSERT INTO api_keys SELECT '{key_id}', id, 'pk_live_bella_{key_id}', '$argon2id$', now() + interval '{age}',
                                         {expires}, {revoked} FROM tenants"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&superuser).await.unwrap();
    }
    newest_is("pk_live_bella_AAAAAAAAAAAAAAAA").await;
    sqlx::query("UPDATE api_keys SET revoked_at = now()").execute(&superuser).await.unwrap();
    newest_is("pk_live_bella_CCCCCCCCCCCCCCCC").await;
}

#[tokio::test]
async fn getting_an_unknown_tenant_is_not_found_and_a_malformed_id_is_invalid() {
    let fixture = Fixture::start().await;
    for unknown in [
        Identifier::TenantId(uuid::Uuid::new_v4().to_string()),
        Identifier::Slug("no-such-tenant".to_owned()),
        Identifier::Slug("admin".to_owned()),
    ] {
        let error = fixture.get(unknown).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    for (malformed, field) in [
        (Identifier::TenantId("42".to_owned()), "tenant_id"),
        (Identifier::TenantId("0192B1A0-7C3E-7DEF-8123-456789ABCDEF".to_owned()), "tenant_id"),
        (Identifier::Slug("Bella Weddings".to_owned()), "slug"),
    ] {
        let error = fixture.get(malformed).await.unwrap_err();
        assert_eq!(violations(&error), [(field.to_owned(), "BAD_FORMAT".to_owned())]);
    }
}

#[tokio::test]
async fn a_get_request_without_an_identifier_is_invalid() {
    let fixture = Fixture::start().await;
    let error = fixture.provisioning.clone().get_tenant(GetTenantRequest { identifier: None }).await.unwrap_err();
    assert_eq!(violations(&error), [("identifier".to_owned(), "MISSING_FIELD".to_owned())]);
}
