//! `VerifyPassword`: valid or invalid, without further information.

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::{config::ServerSettings, domain::Argon2Params, grpc::pb::Verdict};

use crate::support::{
    database::Cluster,
    fixture::{Fixture, settings},
    owners::verify_password_request,
    requests::{PASSWORD, signup},
    responses::reason,
};

async fn verify_password(fixture: &Fixture, email: &str, password: &str) -> Result<(Verdict, String), Status> {
    fixture.verify_password(email, password, None).await
}

async fn password_hash(fixture: &Fixture) -> String {
    sqlx::query_scalar("SELECT password_hash FROM owners").fetch_one(&fixture.superuser_pool().await).await.unwrap()
}

fn invalid() -> (Verdict, String) {
    (Verdict::Invalid, String::new())
}

#[tokio::test]
async fn the_correct_password_is_valid_after_normalization_of_address_and_password() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.sign_up(signup("Bella", "Bella@Example.com")).await.unwrap().tenant.unwrap().id;
    for (email, password) in [
        ("Bella@example.com", PASSWORD),
        (" bella@EXAMPLE.COM\n", PASSWORD),
        ("bella@example.com", "ｔｕｌｉｐｓ under a lamp"),
    ] {
        let verdict = verify_password(&fixture, email, password).await.unwrap();
        assert_eq!(verdict, (Verdict::Valid, tenant_id.clone()), "{email} {password}");
    }
}

#[tokio::test]
async fn every_spelling_of_an_address_finds_its_owner() {
    let fixture = Fixture::start().await;
    for (signed_up, spellings) in [
        ("γιώργος@example.com", ["ΓΙΏΡΓΟΣ@example.com", "Γιώργος@EXAMPLE.com"]),
        ("anna@bücher.example", ["anna@xn--bcher-kva.example", "anna@ｂÜCHER.example"]),
        ("anna@xn--fa-hia.example", ["anna@faß.example", "anna@XN--FA-HIA.example"]),
        ("İlke@example.com", ["İLKE@example.com", "i\u{307}lke@example.com"]),
    ] {
        let tenant_id = fixture.sign_up(signup("Bella", signed_up)).await.unwrap().tenant.unwrap().id;
        for email in spellings.into_iter().chain([signed_up]) {
            let verdict = verify_password(&fixture, email, PASSWORD).await.unwrap();
            assert_eq!(verdict, (Verdict::Valid, tenant_id.clone()), "{email}");
        }
    }
    for other in ["anna@bucher.example", "anna@fass.example", "ılke@example.com", "\"anna\"@bücher.example"] {
        assert_eq!(verify_password(&fixture, other, PASSWORD).await.unwrap(), invalid(), "{other}");
    }
}

#[tokio::test]
async fn wrong_passwords_and_unknown_or_malformed_addresses_get_the_same_response() {
    let fixture = Fixture::start().await;
    fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap();
    for (email, password) in [
        ("bella@example.com", "tulips under the lamp"),
        ("bella@example.com", "Tulips under a lamp"),
        ("bella@example.com", ""),
        ("bella@example.com", "short"),
        ("bella@example.com", &"long".repeat(50_000)),
        ("omer@example.com", PASSWORD),
        ("", PASSWORD),
        ("bella", PASSWORD),
        ("bel\0la@example.com", PASSWORD),
        ("' OR true --@example.com", PASSWORD),
        ("", ""),
    ] {
        assert_eq!(verify_password(&fixture, email, password).await.unwrap(), invalid(), "{email:?}");
    }
}

#[tokio::test]
async fn the_password_of_a_suspended_tenant_is_valid_and_that_of_a_deleted_one_is_not() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap().tenant.unwrap().id;
    fixture.suspend_tenant(&tenant_id).await.unwrap();
    let valid = (Verdict::Valid, tenant_id.clone());
    assert_eq!(verify_password(&fixture, "bella@example.com", PASSWORD).await.unwrap(), valid);
    fixture.delete_tenant(&tenant_id).await.unwrap();
    assert_eq!(verify_password(&fixture, "bella@example.com", PASSWORD).await.unwrap(), invalid());
    fixture.undelete_tenant(&tenant_id).await.unwrap();
    assert_eq!(verify_password(&fixture, "bella@example.com", PASSWORD).await.unwrap(), valid);
}

#[tokio::test]
async fn a_correct_password_hashed_with_old_parameters_is_rehashed_and_a_wrong_one_is_not() {
    let database = Cluster::get().migrated().await;
    let old = Argon2Params { memory_kib: 1_024, passes: 1, lanes: 1 };
    let before = Fixture::start_with(database.clone(), ServerSettings { password_argon2: old, ..settings() }).await;
    before.sign_up(signup("Bella", "bella@example.com")).await.unwrap();
    let old_hash = password_hash(&before).await;
    assert!(old_hash.contains("$m=1024,t=1,p=1$"));

    let after = Fixture::start_on(database).await;
    assert_eq!(verify_password(&after, "bella@example.com", "a wrong password").await.unwrap(), invalid());
    assert_eq!(password_hash(&after).await, old_hash);
    assert_eq!(verify_password(&after, "bella@example.com", PASSWORD).await.unwrap().0, Verdict::Valid);
    let new_hash = password_hash(&after).await;
    assert!(new_hash.contains("$m=19456,t=2,p=1$"), "{new_hash}");

    assert_eq!(verify_password(&after, "bella@example.com", PASSWORD).await.unwrap().0, Verdict::Valid);
    assert_eq!(password_hash(&after).await, new_hash, "it is rehashed only once");
}

/// The addresses are unknown. That they fill the queue shows that they cost the same work as known ones.
#[tokio::test]
async fn passwords_beyond_the_hashing_queue_are_rejected_with_a_retry_delay_and_keys_are_verified() {
    let costly = Argon2Params { passes: 16, ..Argon2Params::PASSWORD };
    let settings = ServerSettings { password_argon2: costly, hashing_queue: 2, ..settings() };
    let fixture = Fixture::with_settings(settings).await;
    let tenant = fixture.tenant("bella").await;
    let mut flood = JoinSet::new();
    for number in 0..64 {
        let mut client = fixture.provisioning.clone();
        let request = verify_password_request(&format!("unknown-{number}@example.com"), PASSWORD, None);
        flood.spawn(
            async move { client.verify_password(request).await.map(|response| response.into_inner().verdict()) },
        );
    }
    let mut refused = 0;
    while let Some(response) = flood.join_next().await {
        match response.unwrap() {
            Ok(verdict) => assert_eq!(verdict, Verdict::Invalid),
            Err(status) => {
                assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
                assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
                refused += 1;
                // Keys have a separate hashing pool.
                assert_eq!(fixture.verify(&tenant.secret_key).await.verdict(), Verdict::Valid);
            }
        }
    }
    assert!(refused > 0, "the queue is bounded");
    assert_eq!(
        verify_password(&fixture, "unknown@example.com", PASSWORD).await.unwrap(),
        invalid(),
        "the service recovers"
    );
}

fn costly_passwords() -> ServerSettings {
    let costly = Argon2Params { passes: 16, ..Argon2Params::PASSWORD };
    ServerSettings { password_argon2: costly, hashing_queue: 2, ..settings() }
}

#[tokio::test]
async fn passwords_are_verified_during_a_flood_of_sign_ups() {
    let fixture = Fixture::with_settings(costly_passwords()).await;
    let mut flood = JoinSet::new();
    for number in 0..32 {
        let mut client = fixture.provisioning.clone();
        let request = signup("Bella", &format!("bella-{number}@example.com"));
        flood.spawn(async move { client.create_from_signup(request).await.map(drop) });
    }
    let mut refused = 0;
    while let Some(response) = flood.join_next().await {
        if let Err(status) = response.unwrap() {
            assert_eq!(reason(&status), "OVERLOADED");
            refused += 1;
            let email = format!("omer-{refused}@example.com");
            assert_eq!(verify_password(&fixture, &email, PASSWORD).await.unwrap(), invalid());
        }
    }
    assert!(refused > 0, "the queue of sign-ups is bounded");
}

#[tokio::test]
async fn sign_ups_succeed_during_a_flood_of_passwords_to_verify() {
    let fixture = Fixture::with_settings(costly_passwords()).await;
    let mut flood = JoinSet::new();
    for number in 0..32 {
        let mut client = fixture.provisioning.clone();
        let request = verify_password_request(&format!("bella-{number}@example.com"), PASSWORD, None);
        flood.spawn(async move { client.verify_password(request).await.map(drop) });
    }
    let mut refused = 0;
    while let Some(response) = flood.join_next().await {
        if let Err(status) = response.unwrap() {
            assert_eq!(reason(&status), "OVERLOADED");
            refused += 1;
            fixture.sign_up(signup("Omer", &format!("omer-{refused}@example.com"))).await.unwrap();
        }
    }
    assert!(refused > 0, "the queue of log-ins is bounded");
}
