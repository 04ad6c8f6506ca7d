//! `ChangePassword`: the current password permits a new one. `password_attempts.rs` tests the count of wrong ones.

use futures_util::future::join_all;
use turnkey::grpc::pb::Verdict;

use crate::support::{
    fixture::Fixture,
    owners::{BELLA, NEW_PASSWORD, invalid},
    requests::PASSWORD,
    responses::violations,
};

#[tokio::test]
async fn the_new_password_is_in_force_and_the_old_one_is_not() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let valid = (Verdict::Valid, tenant_id);
    assert_eq!(fixture.change_password(" Bella@example.COM", PASSWORD, NEW_PASSWORD).await.unwrap(), valid);
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap(), invalid());
    assert_eq!(fixture.verify_password(BELLA, NEW_PASSWORD, None).await.unwrap(), valid);
    assert_eq!(fixture.change_password(BELLA, PASSWORD, NEW_PASSWORD).await.unwrap(), invalid());
}

#[tokio::test]
async fn a_wrong_password_an_unknown_address_and_a_deleted_tenant_change_nothing_and_get_the_same_response() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    for (email, password) in
        [(BELLA, "a wrong password"), (BELLA, ""), ("unknown@example.com", PASSWORD), ("", PASSWORD), ("x", "")]
    {
        assert_eq!(fixture.change_password(email, password, NEW_PASSWORD).await.unwrap(), invalid(), "{email}");
    }
    fixture.delete_tenant(&tenant_id).await.unwrap();
    assert_eq!(fixture.change_password(BELLA, PASSWORD, NEW_PASSWORD).await.unwrap(), invalid());
    fixture.undelete_tenant(&tenant_id).await.unwrap();
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap(), (Verdict::Valid, tenant_id));
}

#[tokio::test]
async fn a_weak_new_password_is_a_violation_whatever_the_current_one_is_worth() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    for (new_password, expected) in
        [("password", "WEAK_PASSWORD"), (BELLA, "WEAK_PASSWORD"), ("short", "TOO_SHORT"), ("", "MISSING_FIELD")]
    {
        for (email, current) in [(BELLA, PASSWORD), (BELLA, "wrong"), ("Bella@Example.com", "")] {
            let error = fixture.change_password(email, current, new_password).await.unwrap_err();
            assert_eq!(violations(&error), [("new_password".to_owned(), expected.to_owned())], "{new_password}");
        }
    }
    let unknown = "unknown@example.com";
    for new_password in ["password", unknown] {
        let error = fixture.change_password(unknown, "wrong", new_password).await.unwrap_err();
        assert_eq!(violations(&error), [("new_password".to_owned(), "WEAK_PASSWORD".to_owned())], "{new_password}");
    }
    assert_eq!(fixture.attempts_where("true").await, 0);
    assert_eq!(fixture.verify_password(BELLA, PASSWORD, None).await.unwrap(), (Verdict::Valid, tenant_id));
}

#[tokio::test]
async fn a_change_voids_a_reset_token_used_or_not() {
    let fixture = Fixture::start().await;
    let (tenant_id, _) = fixture.sign_bella_up().await;
    let (unused, verification) = (fixture.reset_token(BELLA).await, fixture.verification_token(BELLA).await);
    fixture.change_password(BELLA, PASSWORD, NEW_PASSWORD).await.unwrap();
    assert_eq!(fixture.reset_password(&unused, PASSWORD).await.unwrap(), invalid());
    let used = fixture.reset_token(BELLA).await;
    assert_eq!(fixture.reset_password(&used, PASSWORD).await.unwrap().1, tenant_id);
    fixture.change_password(BELLA, PASSWORD, PASSWORD).await.unwrap();
    assert_eq!(fixture.reset_password(&used, PASSWORD).await.unwrap(), invalid());
    assert_eq!(fixture.verify_email(&verification).await.1, tenant_id);
}

#[tokio::test]
async fn of_concurrent_changes_to_different_passwords_one_is_valid() {
    let fixture = Fixture::start().await;
    fixture.sign_bella_up().await;
    let passwords: Vec<String> = (0..8).map(|number| format!("{number} roses beside a lamp")).collect();
    let changes = passwords.iter().map(|new| fixture.change_password(BELLA, PASSWORD, new));
    let verdicts: Vec<Verdict> = join_all(changes).await.into_iter().map(|response| response.unwrap().0).collect();
    let winners: Vec<&String> =
        passwords.iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::Valid).map(|(new, _)| new).collect();
    let [winner] = winners[..] else { panic!("{winners:?}") };
    assert_eq!(fixture.verify_password(BELLA, winner, None).await.unwrap().0, Verdict::Valid);
}
