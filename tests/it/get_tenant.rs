//! `GetTenant`: by id, by slug, and not at all.

use tonic::Code;
use turnkey::grpc::pb::{GetTenantRequest, get_tenant_request::Identifier};

use crate::fixture::{Fixture, bella, reason, violations};

#[tokio::test]
async fn a_tenant_is_found_by_id_and_by_slug() {
    let fixture = Fixture::start().await;
    let tenant = fixture.create(bella()).await.unwrap().tenant.unwrap();
    assert_eq!(fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap(), tenant);
    assert_eq!(fixture.get(Identifier::Slug("bella-weddings".to_owned())).await.unwrap(), tenant);
}

#[tokio::test]
async fn a_deleted_tenant_is_found_too() {
    let fixture = Fixture::start().await;
    let tenant = fixture.create(bella()).await.unwrap().tenant.unwrap();
    sqlx::query("UPDATE tenants SET deleted_at = now()").execute(&fixture.superuser_pool().await).await.unwrap();
    assert!(fixture.get(Identifier::TenantId(tenant.id)).await.unwrap().deleted_at.is_some());
}

#[tokio::test]
async fn the_public_key_is_the_newest_usable_ones_else_the_newest() {
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
async fn an_unknown_tenant_is_not_found_and_a_malformed_id_is_invalid() {
    let fixture = Fixture::start().await;
    for unknown in [
        Identifier::TenantId(uuid::Uuid::new_v4().to_string()),
        Identifier::Slug("nobody-here".to_owned()),
        Identifier::Slug("admin".to_owned()),
    ] {
        let refused = fixture.get(unknown).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    for (malformed, field) in [
        (Identifier::TenantId("42".to_owned()), "tenant_id"),
        (Identifier::TenantId("0192B1A0-7C3E-7DEF-8123-456789ABCDEF".to_owned()), "tenant_id"),
        (Identifier::Slug("Bella Weddings".to_owned()), "slug"),
    ] {
        let refused = fixture.get(malformed).await.unwrap_err();
        assert_eq!(violations(&refused), [(field.to_owned(), "BAD_FORMAT".to_owned())]);
    }
}

#[tokio::test]
async fn a_request_that_names_no_tenant_is_invalid() {
    let fixture = Fixture::start().await;
    let refused = fixture.provisioning.clone().get_tenant(GetTenantRequest { identifier: None }).await.unwrap_err();
    assert_eq!(violations(&refused), [("identifier".to_owned(), "MISSING_FIELD".to_owned())]);
}
