//! `VerifyApiKey`: every verdict, and no information in the response to an invalid key.

use time::Duration;
use tonic::Code;
use turnkey::{
    config::ServerSettings,
    domain::Argon2Params,
    grpc::pb::{ApiKeyScope, ReactivateTenantRequest, Verdict, VerifyApiKeyRequest, VerifyApiKeyResponse},
};

use crate::support::{
    database::{Cluster, TestDatabase},
    fixture::{Fixture, NewTenant, settings},
    proxy::Cut,
    requests::unknown_secret_key,
    responses::reason,
};

/// The response to the correct secret of a tenant that is not deleted.
fn authentic(tenant: &NewTenant, verdict: Verdict) -> VerifyApiKeyResponse {
    VerifyApiKeyResponse {
        verdict: verdict.into(),
        tenant_id: tenant.id.clone(),
        tenant_slug: "bella-weddings".to_owned(),
        public_key: tenant.public_key.clone(),
        scope: ApiKeyScope::Catalog.into(),
    }
}

fn invalid() -> VerifyApiKeyResponse {
    VerifyApiKeyResponse { verdict: Verdict::Invalid.into(), ..VerifyApiKeyResponse::default() }
}

/// A key with a valid checksum. A key with another checksum is malformed.
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
async fn a_correct_secret_is_valid_and_identifies_its_tenant() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    assert_eq!(fixture.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::Valid));
}

#[tokio::test]
async fn empty_malformed_unknown_and_wrong_keys_get_the_same_invalid_response() {
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

/// The checksum alone does not prevent this: it has 32 bits, so another stem with the same checksum can be found.
#[tokio::test]
async fn a_correct_secret_with_another_stem_or_mode_than_the_stored_public_half_is_invalid() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let key_id = tenant.public_key.rsplit('_').next().unwrap();
    for (name, verdict) in [
        ("live_omers", invalid()),
        ("live_bell", invalid()),
        ("test_bella", invalid()),
        ("live_bella", authentic(&tenant, Verdict::Valid)),
    ] {
        fixture.database.execute(format!("UPDATE api_keys SET public_key = 'pk_{name}_{key_id}'")).await;
        assert_eq!(fixture.verify(&tenant.secret_key).await, verdict, "{name}");
    }
}

#[tokio::test]
async fn a_key_is_expired_from_the_moment_of_its_expiry() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.rotate(&tenant, Some(Duration::hours(1))).await;
    fixture.advance_clock(Duration::minutes(59));
    assert_eq!(fixture.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::Valid));
    fixture.advance_clock(Duration::minutes(1));
    assert_eq!(fixture.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::Expired));
}

#[tokio::test]
async fn a_revoked_key_is_revoked_even_if_its_tenant_is_suspended() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.revoke(&tenant.id, &tenant.public_key).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::Revoked));
    fixture.suspend_tenant(&tenant.id).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::Revoked));
}

#[tokio::test]
async fn the_keys_of_a_suspended_tenant_are_not_valid_until_it_is_reactivated() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.suspend_tenant(&tenant.id).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::TenantSuspended));
    fixture
        .provisioning
        .clone()
        .reactivate_tenant(ReactivateTenantRequest { tenant_id: tenant.id.clone() })
        .await
        .unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::Valid));
}

#[tokio::test]
async fn the_keys_of_a_deleted_tenant_are_invalid_until_it_is_undeleted() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.delete_tenant(&tenant.id).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, invalid());
    fixture.undelete_tenant(&tenant.id).await.unwrap();
    assert_eq!(fixture.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::Valid));
}

#[tokio::test]
async fn a_wrong_secret_is_invalid_whether_the_key_is_expired_revoked_or_suspended() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let key_id = tenant.public_key.rsplit('_').next().unwrap();
    let wrong = well_formed(&format!("live_bella_{key_id}"), &"0".repeat(43));
    for state in [
        "UPDATE api_keys SET expires_at = created_at",
        "UPDATE api_keys SET revoked_at = created_at",
        "UPDATE tenants SET is_active = false",
    ] {
        fixture.database.execute(state).await;
        assert_eq!(fixture.verify(&wrong).await, invalid(), "{state}");
    }
}

#[tokio::test]
async fn a_key_hashed_with_other_parameters_is_valid_and_a_damaged_hash_matches_nothing() {
    let database = Cluster::get().migrated().await;
    let costlier = Argon2Params { memory_kib: 256, passes: 2, lanes: 1 };
    let before = Fixture::start_with(database.clone(), ServerSettings { key_argon2: costlier, ..settings() }).await;
    let tenant = before.tenant("bella-weddings").await;
    let after = Fixture::start_on(database).await;
    assert_eq!(after.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::Valid));
    after.database.execute("UPDATE api_keys SET secret_hash = '$argon2id$'").await;
    assert_eq!(after.verify(&tenant.secret_key).await, invalid());
}

#[tokio::test]
async fn a_mistyped_key_is_detected_by_its_checksum_without_a_database_lookup() {
    let fixture = Fixture::start_on(TestDatabase::unreachable()).await;
    let key = well_formed("live_bella_0000000000000000", &"0".repeat(43));
    assert_eq!(fixture.verify(&key.replacen("bella", "belle", 1)).await, invalid());
    let request = VerifyApiKeyRequest { secret_key: key };
    let error = fixture.provisioning.clone().verify_api_key(request).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}

#[tokio::test]
async fn concurrently_verified_keys_each_get_their_own_verdict() {
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
async fn keys_whose_lookup_fails_are_unavailable_and_later_keys_are_verified() {
    let (fixture, proxy) = Fixture::behind_proxy(settings()).await;
    let tenant = fixture.tenant("bella-weddings").await;
    proxy.inject("AS requested", Cut::BeforeResponse);
    let verdicts = (0..20).map(|_| {
        let (mut client, secret_key) = (fixture.provisioning.clone(), tenant.secret_key.clone());
        async move { client.verify_api_key(VerifyApiKeyRequest { secret_key }).await }
    });
    let verdicts = futures_util::future::join_all(verdicts).await;
    let error: Vec<_> = verdicts.iter().filter_map(|verdict| verdict.as_ref().err()).collect();
    assert!(!error.is_empty(), "{verdicts:?}");
    for error in error {
        assert_eq!((error.code(), reason(error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    }
    assert_eq!(fixture.verify(&tenant.secret_key).await, authentic(&tenant, Verdict::Valid));
}
