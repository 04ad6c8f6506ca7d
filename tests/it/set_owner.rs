//! `SetOwner`: gives a tenant an owner, or replaces it.

use futures_util::future::join_all;
use tonic::Code;
use turnkey::grpc::pb::{Finding, FindingKind, Tenant, Verdict, get_tenant_request::Identifier};
use uuid::Uuid;

use crate::support::{
    events::types,
    fixture::Fixture,
    owners::{BELLA, NEW_PASSWORD, invalid},
    requests::{PASSWORD, signup},
    responses::{reason, violations},
};

const OMER: &str = "omer@example.com";

async fn get(fixture: &Fixture, tenant_id: &str) -> Tenant {
    fixture.get(Identifier::TenantId(tenant_id.to_owned())).await.unwrap()
}

#[tokio::test]
async fn a_tenant_without_an_owner_gets_one_with_a_password() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella").await.id;
    let before = get(&fixture, &id).await;
    let tenant = fixture.set_owner(&id, " Bella@EXAMPLE.com", Some(PASSWORD)).await.unwrap();
    assert_eq!(tenant.owner_email.as_deref(), Some("Bella@example.com"));
    assert_eq!(tenant.owner_email_verified_at, None);
    assert_ne!(tenant.updated_at, before.updated_at);
    assert_eq!(tenant, get(&fixture, &id).await);
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap(), (Verdict::Valid, id));
}

#[tokio::test]
async fn an_owner_without_a_password_comes_in_by_a_reset_token() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella").await.id;
    fixture.set_owner(&id, BELLA, None).await.unwrap();
    for password in [PASSWORD, "", "$argon2id$"] {
        assert_eq!(fixture.verify_password(BELLA, password, None).await.unwrap(), invalid());
        assert_eq!(fixture.change_password(BELLA, password, NEW_PASSWORD).await.unwrap(), invalid());
    }
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    let token = fixture.reset_token(BELLA).await;
    let valid = (Verdict::Valid, id);
    assert_eq!(fixture.reset_password(&token, NEW_PASSWORD).await.unwrap(), valid);
    assert_eq!(fixture.verify_password(BELLA, NEW_PASSWORD, None).await.unwrap(), valid);
}

#[tokio::test]
async fn another_owner_replaces_the_first_whose_password_and_tokens_are_void() {
    let fixture = Fixture::start().await;
    let (id, _) = fixture.sign_bella_up().await;
    let verification = fixture.verification_token(BELLA).await;
    fixture.verify_email(&verification).await;
    let reset = fixture.reset_token(BELLA).await;
    assert!(get(&fixture, &id).await.owner_email_verified_at.is_some());

    let tenant = fixture.set_owner(&id, OMER, None).await.unwrap();
    assert_eq!((tenant.owner_email.as_deref(), tenant.owner_email_verified_at), (Some(OMER), None));
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap(), invalid());
    assert_eq!(fixture.verify_password(OMER, PASSWORD, None).await.unwrap(), invalid());
    assert_eq!(fixture.reset_password(&reset, NEW_PASSWORD).await.unwrap(), invalid());
    assert_eq!(fixture.verify_email(&verification).await, invalid());
    assert_eq!(fixture.reset_token(BELLA).await, "");
    fixture.sign_up(signup("Bella", BELLA)).await.expect("the address is free");
}

#[tokio::test]
async fn the_same_address_stays_verified_and_tokens_are_void_nevertheless() {
    let fixture = Fixture::start().await;
    let (id, _) = fixture.sign_bella_up().await;
    fixture.verify_email(&fixture.verification_token(BELLA).await).await;
    let (before, token) = (get(&fixture, &id).await, fixture.reset_token(BELLA).await);
    let tenant = fixture.set_owner(&id, BELLA, Some(NEW_PASSWORD)).await.unwrap();
    assert_eq!(tenant, before, "neither verified_at nor updated_at has changed");
    assert_eq!(fixture.reset_password(&token, PASSWORD).await.unwrap(), invalid());
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap(), invalid());
    assert_eq!(fixture.verify_password(BELLA, NEW_PASSWORD, None).await.unwrap().0, Verdict::Valid);

    let other_mailbox = fixture.set_owner(&id, "BELLA@example.com", None).await.unwrap();
    assert_eq!(other_mailbox.owner_email_verified_at, None);
}

#[tokio::test]
async fn a_repeat_leaves_the_same_owner() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella").await.id;
    for password in [None, Some(PASSWORD)] {
        let first = fixture.set_owner(&id, BELLA, password).await.unwrap();
        assert_eq!(fixture.set_owner(&id, BELLA, password).await.unwrap(), first);
    }
    let at_once = join_all((0..8).map(|_| fixture.set_owner(&id, OMER, None))).await;
    assert!(at_once.iter().all(|response| response.as_ref().unwrap() == at_once[0].as_ref().unwrap()));
    assert_eq!(fixture.count("owners").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_that_voids_a_token_of_the_same_moment_leaves_an_event() {
    let fixture = Fixture::start().await;
    let id = fixture.tenant("bella").await.id;
    fixture.set_owner(&id, BELLA, None).await.unwrap();
    let pool = fixture.superuser_pool().await;
    let mut token = pool.begin().await.unwrap();
    let sql = "UPDATE owners SET reset_token_hash = sha256('own'), reset_token_expires_at = 'infinity'";
    sqlx::query(sql).execute(&mut *token).await.unwrap();
    let commit = async {
        let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'";
        while fixture.count(waiting).await < 1 {}
        token.commit().await.unwrap();
    };
    let (repeated, ()) = tokio::join!(fixture.set_owner(&id, BELLA, None), commit);
    repeated.unwrap();
    assert_eq!(fixture.count("owners WHERE reset_token_hash IS NOT NULL").await, 0);
    assert_eq!(types(&fixture.events().await), ["tenant.created", "owner.set", "owner.set"]);
}

#[tokio::test]
async fn an_address_of_another_owner_is_taken_also_if_that_tenant_is_deleted_and_swaps_end() {
    let fixture = Fixture::start().await;
    let (bella, _) = fixture.sign_bella_up().await;
    let omer = fixture.sign_up(signup("Omer", OMER)).await.unwrap().tenant.unwrap().id;
    let swaps = [fixture.set_owner(&bella, OMER, None), fixture.set_owner(&omer, BELLA, None)];
    for response in join_all(swaps).await {
        let error = response.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "EMAIL_TAKEN"));
    }
    fixture.delete_tenant(&omer).await.unwrap();
    let error = fixture.set_owner(&bella, "OMER@example.com", None).await.unwrap_err();
    assert_eq!(reason(&error), "EMAIL_TAKEN");
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap().1, bella);
}

#[tokio::test]
async fn unknown_and_deleted_tenants_are_not_found_and_all_violations_are_reported_together() {
    let fixture = Fixture::start().await;
    let (deleted, _) = fixture.sign_bella_up().await;
    fixture.delete_tenant(&deleted).await.unwrap();
    for id in [deleted, Uuid::new_v4().to_string()] {
        let error = fixture.set_owner(&id, OMER, None).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    let error = fixture.set_owner("x", "no address", Some("password")).await.unwrap_err();
    let expected = [("tenant_id", "BAD_FORMAT"), ("email", "BAD_FORMAT"), ("password", "WEAK_PASSWORD")];
    assert_eq!(violations(&error), expected.map(|(field, reason)| (field.to_owned(), reason.to_owned())));
    let error = fixture.set_owner(&Uuid::new_v4().to_string(), OMER, Some("omer")).await.unwrap_err();
    assert_eq!(violations(&error), [("password".to_owned(), "TOO_SHORT".to_owned())]);
}

#[tokio::test]
async fn a_lost_owner_of_a_sign_up_is_given_again_and_a_stray_owner_does_not_keep_the_address() {
    let fixture = Fixture::start().await;
    let (id, _) = fixture.sign_bella_up().await;
    fixture.database.execute_without_triggers("UPDATE owners SET tenant_id = gen_random_uuid()").await;
    let kinds: Vec<_> = fixture.check_integrity(Some(&id)).await.unwrap().iter().map(Finding::kind).collect();
    assert_eq!(kinds, [FindingKind::SignupWithoutOwner]);
    fixture.set_owner(&id, BELLA, Some(PASSWORD)).await.unwrap();
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap(), (Verdict::Valid, id));
}
