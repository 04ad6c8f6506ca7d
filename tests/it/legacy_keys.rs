//! Keys in the old form of the platform: everything that a key can do, they can do, too.

use time::Duration;
use tonic::Code;
use turnkey::grpc::pb::{ApiKeyScope, ListPackagesRequest, Verdict, get_tenant_request::Identifier};

use crate::support::{
    connect::over_grpc,
    fixture::{Fixture, channel},
    legacy::{LEGACY_PUBLIC, LEGACY_SECRET, UNKNOWN_LEGACY_SECRET},
    requests::{another_key, rotation_of, with_bearer},
    responses::reason,
    tokens::Tokens,
};

#[tokio::test]
async fn an_old_key_verifies_with_its_tenant_its_public_half_and_its_scope() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant_with_legacy_key("bella-weddings").await;
    let verified = fixture.verify(LEGACY_SECRET).await;
    assert_eq!((verified.verdict(), verified.scope()), (Verdict::Valid, ApiKeyScope::Catalog));
    assert_eq!(verified.tenant_id, tenant.id);
    assert_eq!((verified.tenant_slug.as_str(), verified.public_key.as_str()), ("bella-weddings", LEGACY_PUBLIC));
}

#[tokio::test]
async fn unknown_and_mistyped_old_keys_are_invalid() {
    let fixture = Fixture::start().await;
    fixture.tenant_with_legacy_key("bella-weddings").await;
    let unknown = fixture.verify("").await;
    for secret_key in [
        UNKNOWN_LEGACY_SECRET,
        LEGACY_PUBLIC,
        &LEGACY_SECRET.replace("bella--weddings", "bella-weddings"),
        &LEGACY_SECRET.to_uppercase(),
        &format!("{LEGACY_SECRET}0"),
        &LEGACY_PUBLIC.replace("pk_", "sk_"),
    ] {
        assert_eq!(fixture.verify(secret_key).await, unknown, "{secret_key}");
    }
}

#[tokio::test]
async fn a_key_of_the_current_form_with_the_id_of_an_old_key_is_invalid() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant_with_legacy_key("bella-weddings").await;
    let update = "UPDATE api_keys SET public_key = 'pk_live_bella_0123456789abcdef'";
    fixture.database.execute(update).await;
    let body = format!("sk_live_bella_0123456789abcdef_{}", "0".repeat(43));
    let secret_key = format!("{body}{}", turnkey::domain::key_format::checksum(&body));
    assert_eq!(fixture.verify(&secret_key).await.verdict(), Verdict::Invalid);
    assert_eq!(fixture.verify(LEGACY_SECRET).await.tenant_id, tenant.id, "the old secret is still that of the key");
}

#[tokio::test]
async fn an_old_key_opens_the_catalog_of_its_tenant_alone() {
    let open = Fixture::start().await;
    let tenant = open.tenant_with_legacy_key("bella-weddings").await;
    let other = open.tenant("omers-studio").await;
    let closed = Fixture::start_with(open.database.clone(), Tokens::new().settings()).await;
    let list = async |tenant_id: &str, secret_key| {
        let request = ListPackagesRequest { tenant_id: tenant_id.to_owned(), ..Default::default() };
        closed.catalog.clone().list_packages(with_bearer(request, Some(secret_key))).await
    };
    let packages = list(&tenant.id, LEGACY_SECRET).await.unwrap().into_inner().packages;
    assert_eq!(packages.len(), 3);
    assert_eq!(list(&other.id, LEGACY_SECRET).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(list(&tenant.id, UNKNOWN_LEGACY_SECRET).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn an_old_key_is_listed_with_the_others_and_finds_its_tenant() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant_with_legacy_key("bella-weddings").await;
    let new = fixture.create_key(another_key(&tenant.id)).await.unwrap().api_key.unwrap().public_key;
    let listed: Vec<String> = fixture.keys(&tenant.id).await.into_iter().map(|key| key.public_key).collect();
    assert_eq!(listed, [new.as_str(), LEGACY_PUBLIC]);
    let found = fixture.get(Identifier::PublicKey(LEGACY_PUBLIC.to_owned())).await.unwrap();
    assert_eq!((found.id, found.api_key_public), (tenant.id, new));
}

#[tokio::test]
async fn an_old_key_expires_in_a_rotation_into_a_key_of_the_current_form() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant_with_legacy_key("bella-weddings").await;
    let rotated = fixture.try_rotate(rotation_of(&tenant.id, LEGACY_PUBLIC)).await.unwrap();
    assert!(rotated.secret_key.starts_with("sk_live_bella_"), "its stem is that of the tenant's slug");
    assert_eq!(fixture.verify(&rotated.secret_key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.verify(LEGACY_SECRET).await.verdict(), Verdict::Valid);
    fixture.advance_clock(Duration::hours(24));
    assert_eq!(fixture.verify(LEGACY_SECRET).await.verdict(), Verdict::Expired);
    assert_eq!(fixture.verify(&rotated.secret_key).await.verdict(), Verdict::Valid);
    let error = fixture.try_rotate(rotation_of(&tenant.id, LEGACY_PUBLIC)).await.unwrap_err();
    assert_eq!(reason(&error), "API_KEY_ENDED");
}

#[tokio::test]
async fn an_old_key_replaces_itself() {
    let open = Fixture::start().await;
    let tenant = open.tenant_with_legacy_key("bella-weddings").await;
    let closed = Fixture::start_with(open.database.clone(), Tokens::new().settings()).await;
    let transport = over_grpc(channel(&closed.server.address.to_string()).await);
    let mut client = turnkey::grpc::pb::tenant_provisioning_client::TenantProvisioningClient::new(transport);
    let request = with_bearer(rotation_of(&tenant.id, LEGACY_PUBLIC), Some(LEGACY_SECRET));
    let rotated = client.rotate_api_key(request).await.unwrap().into_inner();
    assert_eq!(open.verify(&rotated.secret_key).await.verdict(), Verdict::Valid);
}

#[tokio::test]
async fn an_old_key_is_revoked() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant_with_legacy_key("bella-weddings").await;
    let revoked = fixture.revoke(&tenant.id, LEGACY_PUBLIC).await.unwrap();
    assert!(revoked.revoked_at.is_some());
    assert_eq!(fixture.verify(LEGACY_SECRET).await.verdict(), Verdict::Revoked);
}

#[tokio::test]
async fn an_old_key_follows_the_state_of_its_tenant() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant_with_legacy_key("bella-weddings").await;
    fixture.suspend_tenant(&tenant.id).await.unwrap();
    assert_eq!(fixture.verify(LEGACY_SECRET).await.verdict(), Verdict::TenantSuspended);
    fixture.delete_tenant(&tenant.id).await.unwrap();
    assert_eq!(fixture.verify(LEGACY_SECRET).await, fixture.verify("").await);
}

#[tokio::test]
async fn an_old_key_alone_makes_a_tenant_complete() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant_with_legacy_key("bella-weddings").await;
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    let delete = sqlx::query("DELETE FROM api_keys").execute(&fixture.superuser_pool().await).await;
    let error = delete.unwrap_err();
    assert_eq!(error.as_database_error().and_then(|error| error.constraint()), Some("tenant_fully_provisioned"));
    assert_eq!(fixture.keys(&tenant.id).await.len(), 1);
}

#[tokio::test]
async fn the_database_accepts_no_other_form_of_a_key() {
    let fixture = Fixture::start().await;
    fixture.tenant_with_legacy_key("bella-weddings").await;
    let pool = fixture.superuser_pool().await;
    for set in [
        "secret_hash = 'sha256:0'",
        "secret_hash = 'md5:0'",
        "public_key = 'pk_test_bella_0123456789abcdef'",
        "public_key = 'pk_live_bella--weddings_0123456789abcdee'",
        // The long public half is that of an old key only.
        "secret_hash = '$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g'",
    ] {
        let updated = sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE api_keys SET {set}"))).execute(&pool).await;
        assert!(updated.is_err_and(|error| error.to_string().contains("api_keys_")), "{set}");
    }
}
