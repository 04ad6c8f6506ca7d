//! Passwords whose bcrypt hash comes from the old platform: they work as before, and the first right one replaces the
//! hash.

use turnkey::grpc::pb::Verdict;

use crate::support::{
    fixture::Fixture,
    owners::{BELLA, NEW_PASSWORD, invalid},
    requests::{PASSWORD, signup_with_request_id},
    responses::violations,
};

/// A bcrypt hash of the lowest cost.
fn bcrypt_hash(password: &str) -> String {
    bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap().to_string()
}

async fn password_hash(fixture: &Fixture) -> String {
    sqlx::query_scalar("SELECT password_hash FROM owners").fetch_one(&fixture.superuser_pool().await).await.unwrap()
}

/// Signs Bella up and replaces the hash of her password.
async fn bella_with(fixture: &Fixture, hash: &str) -> String {
    let (tenant_id, _) = fixture.sign_bella_up().await;
    fixture.database.execute(format!("UPDATE owners SET password_hash = '{hash}'")).await;
    tenant_id
}

#[tokio::test]
async fn an_old_password_is_valid_and_is_rehashed_with_argon2id() {
    let fixture = Fixture::start().await;
    for (form, password) in [("$2a$", PASSWORD), ("$2b$", "kitty"), ("$2y$", "cafe\u{301}")] {
        fixture.database.execute("TRUNCATE owners").await;
        let tenant = fixture.tenant(&format!("bella-{}", &form[1..3])).await;
        fixture.set_owner(&tenant.id, BELLA, None).await.unwrap();
        let hash = bcrypt_hash(password).replace("$2b$", form);
        fixture.database.execute(format!("UPDATE owners SET password_hash = '{hash}'")).await;

        assert_eq!(fixture.verify_password(BELLA, "a wrong password", None).await.unwrap(), invalid());
        assert_eq!(password_hash(&fixture).await, hash, "a wrong password replaces nothing");
        let valid = (Verdict::Valid, tenant.id);
        assert_eq!(fixture.verify_password(BELLA, password, None).await.unwrap(), valid, "{password}");
        let rehashed = password_hash(&fixture).await;
        assert!(rehashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{rehashed}");
        assert_eq!(fixture.verify_password(BELLA, password, None).await.unwrap(), valid, "{password}");
        assert_eq!(password_hash(&fixture).await, rehashed, "it is rehashed once");
    }
}

#[tokio::test]
async fn concurrent_log_ins_with_an_old_password_are_all_valid() {
    let fixture = Fixture::start().await;
    let tenant_id = bella_with(&fixture, &bcrypt_hash(PASSWORD)).await;
    let log_ins = (0..8).map(|_| fixture.verify_password(BELLA, PASSWORD, None));
    for verified in futures_util::future::join_all(log_ins).await {
        assert_eq!(verified.unwrap(), (Verdict::Valid, tenant_id.clone()));
    }
}

#[tokio::test]
async fn an_overlong_password_is_valid_and_keeps_its_old_hash() {
    let fixture = Fixture::start().await;
    let password = "long".repeat(2_000);
    let hash = bcrypt_hash(&password);
    let tenant_id = bella_with(&fixture, &hash).await;
    assert_eq!(fixture.verify_password(BELLA, &password, None).await.unwrap(), (Verdict::Valid, tenant_id));
    assert_eq!(password_hash(&fixture).await, hash);
}

#[tokio::test]
async fn an_old_password_is_replaced_by_one_that_meets_the_rules() {
    let fixture = Fixture::start().await;
    let tenant_id = bella_with(&fixture, &bcrypt_hash("kitty")).await;
    let error = fixture.change_password(BELLA, "kitty", "kitty").await.unwrap_err();
    assert_eq!(violations(&error), [("new_password".to_owned(), "TOO_SHORT".to_owned())]);
    assert_eq!(fixture.change_password(BELLA, "kitten", NEW_PASSWORD).await.unwrap(), invalid());
    let valid = (Verdict::Valid, tenant_id);
    assert_eq!(fixture.change_password(BELLA, "kitty", NEW_PASSWORD).await.unwrap(), valid);
    assert_eq!(fixture.verify_password(BELLA, "kitty", None).await.unwrap(), invalid());
    assert_eq!(fixture.verify_password(BELLA, NEW_PASSWORD, None).await.unwrap(), valid);
}

#[tokio::test]
async fn a_reset_replaces_an_old_password() {
    let fixture = Fixture::start().await;
    let tenant_id = bella_with(&fixture, &bcrypt_hash("kitty")).await;
    let token = fixture.reset_token(BELLA).await;
    let valid = (Verdict::Valid, tenant_id);
    for _repeated in 0..2 {
        assert_eq!(fixture.reset_password(&token, NEW_PASSWORD).await.unwrap(), valid);
    }
    assert_eq!(fixture.verify_password(BELLA, "kitty", None).await.unwrap(), invalid());
    assert!(password_hash(&fixture).await.starts_with("$argon2id$"));
}

/// A sign-up that is repeated compares its password with the hash in force, whatever its form.
#[tokio::test]
async fn a_repeated_sign_up_is_replayed_with_an_old_password() {
    let fixture = Fixture::start().await;
    let first = fixture.sign_up(signup_with_request_id()).await.unwrap();
    fixture.database.execute(format!("UPDATE owners SET password_hash = '{}'", bcrypt_hash(PASSWORD))).await;
    let repeated = fixture.sign_up(signup_with_request_id()).await.unwrap();
    assert!(repeated.replayed);
    assert_eq!(repeated.secret_key, first.secret_key);
}

#[tokio::test]
async fn the_database_accepts_no_other_form_of_a_password_hash() {
    let fixture = Fixture::start().await;
    bella_with(&fixture, &bcrypt_hash("kitty")).await;
    for hash in ["", "kitty", "$2x$04$", "$2b$04$short", "$1$abc$def"] {
        let update = format!("UPDATE owners SET password_hash = '{hash}'");
        let updated = sqlx::query(sqlx::AssertSqlSafe(update)).execute(&fixture.superuser_pool().await).await;
        assert!(updated.is_err_and(|error| error.to_string().contains("owners_password_hash_format")), "{hash}");
    }
}
