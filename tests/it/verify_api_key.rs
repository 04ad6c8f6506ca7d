//! `VerifyApiKey`: every verdict, and nothing told by the bad ones.

use sqlx::postgres::PgConnectOptions;
use time::Duration;
use tonic::Code;
use turnkey::{
    config::ServerSettings,
    domain::Argon2Params,
    grpc::pb::{
        DeleteTenantRequest, ReactivateTenantRequest, RevokeApiKeyRequest, SuspendTenantRequest, UndeleteTenantRequest,
        Verdict, VerifyApiKeyRequest, VerifyApiKeyResponse,
    },
};

use crate::{
    cluster::{Cluster, TestDatabase, execute},
    fixture::{Fixture, NewTenant, reason, settings, unknown_secret_key},
    proxy::{Cut, Proxy},
};

impl Fixture {
    pub async fn verify(&self, secret_key: &str) -> VerifyApiKeyResponse {
        let request = VerifyApiKeyRequest { secret_key: secret_key.to_owned() };
        self.provisioning.clone().verify_api_key(request).await.unwrap().into_inner()
    }
}

/// The answer for the right secret of a living tenant.
fn known(tenant: &NewTenant, verdict: Verdict) -> VerifyApiKeyResponse {
    VerifyApiKeyResponse {
        verdict: verdict.into(),
        tenant_id: tenant.id.clone(),
        tenant_slug: "bella-weddings".to_owned(),
        public_key: tenant.public_key.clone(),
    }
}

fn invalid() -> VerifyApiKeyResponse {
    VerifyApiKeyResponse { verdict: Verdict::Invalid.into(), ..VerifyApiKeyResponse::default() }
}

/// A key with another checksum fits nothing, so a well-formed one that nobody has is put together here.
fn well_formed(name: &str, random: &str) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let body = format!("sk_{name}_{random}");
    let mut checksum = crc32fast::hash(body.as_bytes());
    let mut digits = [0_u8; 6];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(checksum % 62).unwrap()];
        checksum /= 62;
    }
    body + std::str::from_utf8(&digits).unwrap()
}

#[tokio::test]
async fn a_right_secret_is_valid_and_says_whose_it_is() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    assert_eq!(fixture.verify(&tenant.secret_key).await, known(&tenant, Verdict::Valid));
}

#[tokio::test]
async fn what_is_empty_malformed_unknown_or_wrong_is_invalid_and_all_alike() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let key_id = tenant.public_key.rsplit('_').next().unwrap();
    let random = "0".repeat(43);
    let unknown = well_formed("live_bella_0000000000000000", &random);
    let wrong = well_formed(&format!("live_bella_{key_id}"), &random);
    let mistyped = tenant.secret_key.replacen("bella", "belle", 1);
    for secret_key in [
        "",
        " ",
        "sk",
        "sk_live_bella",
        "\0",
        &"🎂".repeat(10_000),
        &tenant.public_key,
        &mistyped,
        &tenant.secret_key.to_uppercase(),
        &format!(" {}", tenant.secret_key),
        &unknown,
        &wrong,
    ] {
        assert_eq!(fixture.verify(secret_key).await, invalid(), "{secret_key:.60}");
    }
}

#[tokio::test]
async fn an_expired_key_is_expired_from_that_very_moment() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.rotate(&tenant, Some(Duration::hours(1))).await;
    fixture.advance_clock(Duration::minutes(59));
    assert_eq!(fixture.verify(&tenant.secret_key).await, known(&tenant, Verdict::Valid));
    fixture.advance_clock(Duration::minutes(1));
    assert_eq!(fixture.verify(&tenant.secret_key).await, known(&tenant, Verdict::Expired));
}

#[tokio::test]
async fn a_revoked_key_is_revoked_whatever_else_is_the_case() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let mut client = fixture.provisioning.clone();
    let request = RevokeApiKeyRequest { tenant_id: tenant.id.clone(), public_key: tenant.public_key.clone() };
    client.revoke_api_key(request).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, known(&tenant, Verdict::Revoked));
    client.suspend_tenant(SuspendTenantRequest { tenant_id: tenant.id.clone() }).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, known(&tenant, Verdict::Revoked));
}

#[tokio::test]
async fn a_suspended_tenants_keys_do_not_verify_until_it_is_reactivated() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let mut client = fixture.provisioning.clone();
    client.suspend_tenant(SuspendTenantRequest { tenant_id: tenant.id.clone() }).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, known(&tenant, Verdict::TenantSuspended));
    client.reactivate_tenant(ReactivateTenantRequest { tenant_id: tenant.id.clone() }).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, known(&tenant, Verdict::Valid));
}

#[tokio::test]
async fn a_deleted_tenants_keys_read_like_none_until_it_is_undeleted() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let mut client = fixture.provisioning.clone();
    client.delete_tenant(DeleteTenantRequest { tenant_id: tenant.id.clone() }).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, invalid());
    client.undelete_tenant(UndeleteTenantRequest { tenant_id: tenant.id.clone() }).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, known(&tenant, Verdict::Valid));
}

#[tokio::test]
async fn a_bad_secret_tells_nothing_of_a_key_that_expired_was_revoked_or_is_suspended() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let key_id = tenant.public_key.rsplit('_').next().unwrap();
    let wrong = well_formed(&format!("live_bella_{key_id}"), &"0".repeat(43));
    for state in [
        "UPDATE api_keys SET expires_at = created_at",
        "UPDATE api_keys SET revoked_at = created_at",
        "UPDATE tenants SET is_active = false",
    ] {
        execute(&fixture.database.superuser, state.to_owned()).await;
        assert_eq!(fixture.verify(&wrong).await, invalid(), "{state}");
    }
}

#[tokio::test]
async fn a_key_hashed_with_another_setting_verifies_and_a_damaged_hash_verifies_nothing() {
    let database = Cluster::get().migrated().await;
    let dearer = Argon2Params { memory_kib: 256, passes: 2, lanes: 1 };
    let then = Fixture::start_with(database.clone(), ServerSettings { key_argon2: dearer, ..settings() }).await;
    let tenant = then.tenant("bella-weddings").await;
    let today = Fixture::start_on(database).await;
    assert_eq!(today.verify(&tenant.secret_key).await, known(&tenant, Verdict::Valid));
    execute(&today.database.superuser, "UPDATE api_keys SET secret_hash = '$argon2id$'".to_owned()).await;
    assert_eq!(today.verify(&tenant.secret_key).await, invalid());
}

#[tokio::test]
async fn a_mistyped_key_is_told_by_its_checksum_without_a_look_at_the_database() {
    // Nobody listens on port 1.
    let nowhere = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1).username("x").database("x");
    let database = TestDatabase { owner: nowhere.clone(), server: nowhere.clone(), superuser: nowhere };
    let fixture = Fixture::start_on(database).await;
    let key = well_formed("live_bella_0000000000000000", &"0".repeat(43));
    assert_eq!(fixture.verify(&key.replacen("bella", "belle", 1)).await, invalid());
    let request = VerifyApiKeyRequest { secret_key: key };
    let failed = fixture.provisioning.clone().verify_api_key(request).await.unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}

#[tokio::test]
async fn keys_that_are_verified_at_once_each_get_their_own_verdict() {
    let fixture = Fixture::start().await;
    let mut keys = Vec::new();
    for number in 0..10 {
        let tenant = fixture.tenant(&format!("tenant-{number}")).await;
        keys.push((unknown_secret_key(&tenant.public_key), String::new()));
        keys.push((tenant.secret_key, tenant.id));
    }
    let verdicts = keys.iter().cycle().take(200).map(async |(secret_key, owner)| {
        assert_eq!(fixture.verify(secret_key).await.tenant_id, *owner);
    });
    futures_util::future::join_all(verdicts).await;
}

#[tokio::test]
async fn keys_whose_lookup_fails_are_unavailable_and_the_next_are_verified() {
    let database = Cluster::get().migrated().await;
    let proxy = Proxy::start(&database.server).await;
    let server = proxy.options(&database.server);
    let fixture = Fixture::start_on(TestDatabase { server, ..database }).await;
    let tenant = fixture.tenant("bella-weddings").await;
    proxy.inject("AS requested", Cut::BeforeAnswer);
    let verdicts = (0..20).map(|_| {
        let (mut client, secret_key) = (fixture.provisioning.clone(), tenant.secret_key.clone());
        async move { client.verify_api_key(VerifyApiKeyRequest { secret_key }).await }
    });
    let verdicts = futures_util::future::join_all(verdicts).await;
    let failed: Vec<_> = verdicts.iter().filter_map(|verdict| verdict.as_ref().err()).collect();
    assert!(!failed.is_empty(), "{verdicts:?}");
    for failed in failed {
        assert_eq!((failed.code(), reason(failed).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    }
    assert_eq!(fixture.verify(&tenant.secret_key).await, known(&tenant, Verdict::Valid));
}
