//! Tokens that are sent to owners: `CreateOwnerToken`, `ResetPassword` and `VerifyEmail`.

use futures_util::future::join_all;
use prost_types::Duration as ProtoDuration;
use time::Duration;
use tokio::{select, task::yield_now};
use tonic::Code;
use turnkey::grpc::pb::{CreateOwnerTokenRequest, OwnerTokenPurpose, Tenant, Verdict, get_tenant_request::Identifier};

use crate::support::{
    faults::start_ready_behind_proxy,
    fixture::{Fixture, NewTenant},
    owners::{BELLA, NEW_PASSWORD, invalid, reset_request},
    proxy::Cut,
    requests::{PASSWORD, rotation, signup, with_last_char_changed},
    responses::{reason, violations},
};

const OTHER_PASSWORD: &str = "daisies behind a lamp";

async fn get(fixture: &Fixture, tenant_id: &str) -> Tenant {
    fixture.get(Identifier::TenantId(tenant_id.to_owned())).await.unwrap()
}

const fn seconds(seconds: i64) -> ProtoDuration {
    ProtoDuration { seconds, nanos: 0 }
}

#[tokio::test]
async fn a_reset_by_e_mail_sets_the_password_and_verifies_the_address() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let before = get(&fixture, &tenant_id).await;
    assert_eq!(before.owner_email_verified_at, None);
    let token = fixture.reset_token(" BELLA@Example.com").await;
    let random = token.strip_prefix("own_").unwrap();
    assert!(random.len() == 43 && random.bytes().all(|byte| byte.is_ascii_alphanumeric()));

    let valid = (Verdict::Valid, tenant_id.clone());
    assert_eq!(fixture.reset_password(&token, NEW_PASSWORD).await.unwrap(), valid);
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap(), invalid());
    assert_eq!(fixture.verify_password(BELLA, NEW_PASSWORD, None).await.unwrap(), valid);
    let after = get(&fixture, &tenant_id).await;
    assert!(after.owner_email_verified_at.is_some());
    assert_eq!(after.owner_email_verified_at, after.updated_at);
}

#[tokio::test]
async fn a_token_expires_after_an_hour_or_after_its_ttl() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    for (ttl, lifetime) in [(None, 3_600), (Some(seconds(1)), 1), (Some(seconds(604_800)), 604_800)] {
        for purpose in [OwnerTokenPurpose::ResetPassword, OwnerTokenPurpose::VerifyEmail] {
            let created = fixture.create_owner_token(BELLA, purpose, ttl).await.unwrap();
            let unknown = fixture.create_owner_token("unknown@example.com", purpose, ttl).await.unwrap();
            let elapsed = unknown.expires_at.unwrap().seconds - created.expires_at.unwrap().seconds;
            assert!((0..60).contains(&elapsed), "both have the same lifetime");
            let use_token = async |token: &str| match purpose {
                OwnerTokenPurpose::VerifyEmail => fixture.verify_email(token).await,
                _ => fixture.reset_password(token, NEW_PASSWORD).await.unwrap(),
            };
            if lifetime > 60 {
                fixture.advance_clock(Duration::seconds(lifetime - 60));
                assert_eq!(use_token(&created.token).await.1, tenant_id, "{purpose:?} {ttl:?}");
                assert_eq!(use_token(&created.token).await.1, tenant_id, "a repeat {purpose:?} {ttl:?}");
            }
            fixture.advance_clock(Duration::seconds(61));
            assert_eq!(use_token(&created.token).await, invalid(), "{purpose:?} {ttl:?}");
        }
    }
}

#[tokio::test]
async fn a_ttl_out_of_range_and_a_missing_or_unknown_purpose_are_violations() {
    let fixture = Fixture::start().await;
    for ttl in [0, -1, 604_801] {
        let error =
            fixture.create_owner_token("", OwnerTokenPurpose::Unspecified, Some(seconds(ttl))).await.unwrap_err();
        let expected = [("purpose", "MISSING_FIELD"), ("ttl", "OUT_OF_RANGE")];
        assert_eq!(violations(&error), expected.map(|(field, reason)| (field.to_owned(), reason.to_owned())));
    }
    let request = CreateOwnerTokenRequest { email: BELLA.to_owned(), purpose: 3, ttl: None };
    let error = fixture.provisioning.clone().create_owner_token(request).await.unwrap_err();
    assert_eq!(violations(&error), [("purpose".to_owned(), "OUT_OF_RANGE".to_owned())]);
}

#[tokio::test]
async fn an_unknown_address_and_that_of_a_deleted_tenant_get_an_empty_token() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    fixture.delete_tenant(&tenant_id).await.unwrap();
    for email in [BELLA, "unknown@example.com", "", "no address", "' OR true --@example.com", "a\0b@example.com"] {
        assert_eq!(fixture.reset_token(email).await, "", "{email:?}");
        assert_eq!(fixture.verification_token(email).await, "", "{email:?}");
    }
}

#[tokio::test]
async fn a_newer_token_voids_the_older_one_of_the_same_purpose() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let (older, verification) = (fixture.reset_token(BELLA).await, fixture.verification_token(BELLA).await);
    let newer = fixture.reset_token(BELLA).await;
    assert_eq!(fixture.reset_password(&older, NEW_PASSWORD).await.unwrap(), invalid());
    assert_eq!(fixture.reset_password(&newer, NEW_PASSWORD).await.unwrap().1, tenant_id);
    let newest = fixture.reset_token(BELLA).await;
    assert_eq!(fixture.reset_password(&newer, NEW_PASSWORD).await.unwrap(), invalid(), "also a repeat");
    assert_eq!(fixture.reset_password(&newest, OTHER_PASSWORD).await.unwrap().1, tenant_id);

    assert_eq!(fixture.verify_email(&verification).await.1, tenant_id);
    let newer = fixture.verification_token(BELLA).await;
    assert_eq!(fixture.verify_email(&verification).await, invalid());
    assert_eq!(fixture.verify_email(&newer).await.1, tenant_id);
}

#[tokio::test]
async fn a_used_token_is_valid_again_with_the_same_password_only_and_changes_nothing() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let token = fixture.reset_token(BELLA).await;
    let valid = (Verdict::Valid, tenant_id.clone());
    assert_eq!(fixture.reset_password(&token, NEW_PASSWORD).await.unwrap(), valid);
    let key = fixture.try_rotate(rotation(&tenant_id, None)).await.unwrap().secret_key;
    let before = get(&fixture, &tenant_id).await;
    for _ in 0..2 {
        assert_eq!(fixture.reset_password(&token, NEW_PASSWORD).await.unwrap(), valid);
        assert_eq!(fixture.reset_password(&token, OTHER_PASSWORD).await.unwrap(), invalid());
    }
    assert_eq!(get(&fixture, &tenant_id).await, before);
    assert_eq!(fixture.verify(&key).await.verdict(), Verdict::Valid);
    assert_eq!(fixture.verify_password(BELLA, NEW_PASSWORD, None).await.unwrap(), valid);
}

#[tokio::test]
async fn every_invalid_token_gets_the_same_response_and_changes_nothing() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let omer = fixture.sign_up(signup("Omer", "omer@example.com")).await.unwrap().tenant.unwrap().id;
    let of_deleted = fixture.reset_token("omer@example.com").await;
    fixture.delete_tenant(&omer).await.unwrap();
    let superseded = fixture.reset_token(BELLA).await;
    let current = fixture.reset_token(BELLA).await;
    let verification = fixture.verification_token(BELLA).await;
    let unknown = with_last_char_changed(&current);
    for token in [&superseded, &unknown, &verification, &of_deleted, "", "own_", " ", "'", &"x".repeat(10_000)] {
        assert_eq!(fixture.reset_password(token, NEW_PASSWORD).await.unwrap(), invalid(), "{token}");
    }
    for token in [&superseded, &unknown, &current, &of_deleted, ""] {
        assert_eq!(fixture.verify_email(token).await, invalid(), "{token}");
    }
    assert_eq!(get(&fixture, &tenant_id).await.owner_email_verified_at, None);
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap().1, tenant_id);
    fixture.undelete_tenant(&omer).await.unwrap();
    assert_eq!(fixture.reset_password(&of_deleted, NEW_PASSWORD).await.unwrap().1, omer);
}

#[tokio::test]
async fn a_weak_password_is_a_violation_for_every_token_and_does_not_use_one_up() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let token = fixture.reset_token(BELLA).await;
    for (password, expected) in [("password", "WEAK_PASSWORD"), ("short", "TOO_SHORT"), ("", "MISSING_FIELD")] {
        for token in [&token, "own_unknown"] {
            let error = fixture.reset_password(token, password).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert_eq!(violations(&error), [("new_password".to_owned(), expected.to_owned())]);
        }
    }
    let own_address = fixture.reset_password(&token, BELLA).await.unwrap_err();
    assert_eq!(violations(&own_address), [("new_password".to_owned(), "WEAK_PASSWORD".to_owned())]);
    assert_eq!(fixture.reset_password(&token, NEW_PASSWORD).await.unwrap().1, tenant_id);
    assert_eq!(
        fixture.reset_password(&token, BELLA).await.unwrap(),
        invalid(),
        "a used token does not show whose it is"
    );
}

/// The stranger has the password, the secret key, the replay of the sign-up, and tokens from before.
#[tokio::test]
async fn a_stranger_who_signed_up_with_an_address_has_nothing_left_after_its_owner_has_reset_the_password() {
    let fixture = Fixture::start().await;
    let request_id = Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".to_owned());
    let sign_up = turnkey::grpc::pb::CreateFromSignupRequest { request_id, ..signup("Bella", BELLA) };
    let stranger = fixture.sign_up(sign_up.clone()).await.unwrap();
    let tenant_id = stranger.tenant.unwrap().id;
    let rotated = fixture.try_rotate(rotation(&tenant_id, Some(Duration::days(30)))).await.unwrap().secret_key;
    let earlier_token = fixture.reset_token(BELLA).await;
    let token = fixture.reset_token(BELLA).await;
    fixture.reset_password(&token, NEW_PASSWORD).await.unwrap();

    for key in [&stranger.secret_key, &rotated] {
        assert_eq!(fixture.verify(key).await.verdict(), Verdict::Revoked);
    }
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap(), invalid());
    assert_eq!(fixture.change_password(BELLA, PASSWORD, OTHER_PASSWORD).await.unwrap(), invalid());
    assert_eq!(fixture.reset_password(&earlier_token, OTHER_PASSWORD).await.unwrap(), invalid());
    assert_eq!(fixture.reset_password(&token, OTHER_PASSWORD).await.unwrap(), invalid());
    let replay = fixture.sign_up(sign_up).await.unwrap_err();
    assert_eq!(reason(&replay), "REQUEST_ID_REUSED", "a replay needs the password in force");

    assert_eq!(fixture.check_integrity(None).await.unwrap(), [], "revoked keys are keys");
    let key = fixture.try_rotate(rotation(&tenant_id, None)).await.unwrap().secret_key;
    assert_eq!(fixture.verify(&key).await.verdict(), Verdict::Valid, "the owner gets a new key");
}

#[tokio::test]
async fn a_reset_of_a_verified_address_keeps_the_keys() {
    let fixture = Fixture::start().await;
    let (tenant_id, secret_key) = fixture.sign_bella_up().await;
    let verification = fixture.verification_token(BELLA).await;
    assert_eq!(fixture.verify_email(&verification).await, (Verdict::Valid, tenant_id.clone()));
    let verified_at = get(&fixture, &tenant_id).await.owner_email_verified_at;
    assert_eq!(fixture.verify_email(&verification).await, (Verdict::Valid, tenant_id.clone()), "a repeat");
    fixture.reset_password(&fixture.reset_token(BELLA).await, NEW_PASSWORD).await.unwrap();
    assert_eq!(get(&fixture, &tenant_id).await.owner_email_verified_at, verified_at);
    assert_eq!(fixture.verify(&secret_key).await.verdict(), Verdict::Valid);
}

#[tokio::test]
async fn of_two_resets_at_once_with_one_token_one_wins() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    for round in 0..4 {
        let token = fixture.reset_token(BELLA).await;
        let passwords: Vec<String> = (0..4).map(|number| format!("{round}{number} roses on a lamp")).collect();
        let resets = passwords.iter().map(|password| fixture.reset_password(&token, password));
        let responses: Vec<_> = join_all(resets).await.into_iter().map(Result::unwrap).collect();
        let valid: Vec<_> =
            passwords.iter().zip(responses).filter(|(_, (verdict, _))| *verdict == Verdict::Valid).collect();
        let [(password, _)] = &valid[..] else { panic!("{valid:?}") };
        assert_eq!(fixture.verify_password(BELLA, password, None).await.unwrap().1, tenant_id);
        let repeats = join_all((0..4).map(|_| fixture.reset_password(&token, password))).await;
        assert!(repeats.into_iter().all(|response| response.unwrap().1 == tenant_id));
    }
}

#[tokio::test]
async fn a_reset_at_the_time_of_a_rotation_leaves_at_most_the_key_that_is_newer() {
    let fixture = Fixture::start().await;
    let (tenant_id, secret_key) = fixture.sign_bella_up().await;
    let token = fixture.reset_token(BELLA).await;
    let tenant = NewTenant {
        id: tenant_id.clone(),
        general_id: String::new(),
        public_key: String::new(),
        secret_key,
        package_ids: Vec::new(),
    };
    let rotations = join_all((0..6).map(|_| fixture.rotate(&tenant, None)));
    let (_, reset) = tokio::join!(rotations, fixture.reset_password(&token, NEW_PASSWORD));
    assert_eq!(reset.unwrap().1, tenant_id);
    let keys = fixture.keys(&tenant_id).await;
    let oldest_valid = keys.iter().rposition(|key| key.revoked_at.is_none()).map_or(0, |position| position + 1);
    assert!(keys[oldest_valid..].iter().all(|key| key.revoked_at.is_some()), "no key from before is left: {keys:?}");
    assert_eq!(fixture.verify(&tenant.secret_key).await.verdict(), Verdict::Revoked);
}

#[tokio::test]
async fn a_reset_or_verification_whose_response_is_lost_is_valid_when_it_is_repeated() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let (token, verification) = (fixture.reset_token(BELLA).await, fixture.verification_token(BELLA).await);
    for (text, cut) in [
        ("reset_token_hash = $1", Cut::BeforeStatement),
        ("new_password AS", Cut::BeforeResponse),
        ("COMMIT", Cut::BeforeStatement),
        ("COMMIT", Cut::BeforeResponse),
    ] {
        proxy.inject(text, cut);
        let error = fixture.reset_password(&token, NEW_PASSWORD).await.unwrap_err();
        assert!(proxy.was_triggered());
        assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    }
    assert_eq!(fixture.reset_password(&token, OTHER_PASSWORD).await.unwrap(), invalid(), "the last one was committed");
    assert_eq!(fixture.reset_password(&token, NEW_PASSWORD).await.unwrap().1, tenant_id);
    proxy.inject("verified AS", Cut::BeforeResponse);
    let request = turnkey::grpc::pb::VerifyEmailRequest { token: verification.clone() };
    assert!(fixture.provisioning.clone().verify_email(request).await.is_err());
    assert_eq!(fixture.verify_email(&verification).await.1, tenant_id);
}

#[tokio::test]
async fn a_reset_whose_caller_disconnects_is_made_completely_or_not_at_all() {
    let fixture = Fixture::start().await;
    let (tenant_id, secret_key) = fixture.sign_bella_up().await;
    for yields in 0..40 {
        let token = fixture.reset_token(BELLA).await;
        let mut client = fixture.provisioning.clone();
        let abandoned = async {
            for _ in 0..yields * 4 {
                yield_now().await;
            }
        };
        let password = format!("{yields} roses on a lamp");
        select! {
            biased;
            _ = client.reset_password(reset_request(&token, &password)) => {}
            () = abandoned => {}
        }
        // The work of the abandoned call may still go on: then the repeat wins, or finds the token used for its
        // password.
        assert_eq!(fixture.reset_password(&token, &password).await.unwrap().1, tenant_id);
        assert_eq!(fixture.verify_password(BELLA, &password, None).await.unwrap().1, tenant_id);
    }
    assert_eq!(fixture.verify(&secret_key).await.verdict(), Verdict::Revoked);
}

#[tokio::test]
async fn a_stolen_database_yields_no_usable_token() {
    let fixture = Fixture::start().await;
    fixture.sign_bella_up().await;
    let (token, verification) = (fixture.reset_token(BELLA).await, fixture.verification_token(BELLA).await);
    let columns: Vec<String> =
        sqlx::query_scalar("SELECT value FROM owners, jsonb_each_text(to_jsonb(owners)) WHERE value IS NOT NULL")
            .fetch_all(&fixture.superuser_pool().await)
            .await
            .unwrap();
    assert!(!columns.iter().any(|column| token.contains(column.as_str()) || verification.contains(column.as_str())));
    for column in &columns {
        for stolen in [column.clone(), column.replace("\\x", "own_"), column.replace("\\x", "")] {
            assert_eq!(fixture.reset_password(&stolen, NEW_PASSWORD).await.unwrap(), invalid());
            assert_eq!(fixture.verify_email(&stolen).await, invalid());
        }
    }
}
