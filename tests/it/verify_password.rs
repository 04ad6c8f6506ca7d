//! `VerifyPassword`: right or not, and nothing told beside.

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::{
    config::ServerSettings,
    domain::Argon2Params,
    grpc::pb::{DeleteTenantRequest, SuspendTenantRequest, UndeleteTenantRequest, Verdict, VerifyPasswordRequest},
};

use crate::{
    cluster::Cluster,
    create_from_signup::{PASSWORD, signup},
    fixture::{Fixture, reason, settings},
};

impl Fixture {
    async fn verify_password(&self, email: &str, password: &str) -> Result<(Verdict, String), Status> {
        let request = VerifyPasswordRequest { email: email.to_owned(), password: password.to_owned() };
        let answer = self.provisioning.clone().verify_password(request).await?.into_inner();
        Ok((answer.verdict(), answer.tenant_id))
    }

    async fn password_hash(&self) -> String {
        sqlx::query_scalar("SELECT password_hash FROM owners").fetch_one(&self.superuser_pool().await).await.unwrap()
    }
}

fn invalid() -> (Verdict, String) {
    (Verdict::Invalid, String::new())
}

#[tokio::test]
async fn the_right_password_is_valid_however_the_address_and_the_letters_are_typed() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.sign_up(signup("Bella", "Bella@Example.com")).await.unwrap().tenant.unwrap().id;
    for (email, password) in [
        ("Bella@example.com", PASSWORD),
        (" bella@EXAMPLE.COM\n", PASSWORD),
        ("bella@example.com", "ｔｕｌｉｐｓ under a lamp"),
    ] {
        let verdict = fixture.verify_password(email, password).await.unwrap();
        assert_eq!(verdict, (Verdict::Valid, tenant_id.clone()), "{email} {password}");
    }
}

#[tokio::test]
async fn a_wrong_password_an_unknown_address_and_what_is_neither_get_one_answer() {
    let fixture = Fixture::start().await;
    fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap();
    for (email, password) in [
        ("bella@example.com", "tulips under the lamp"),
        ("bella@example.com", "Tulips under a lamp"),
        ("bella@example.com", ""),
        ("bella@example.com", "short"),
        ("bella@example.com", &"long".repeat(100_000)),
        ("omer@example.com", PASSWORD),
        ("", PASSWORD),
        ("bella", PASSWORD),
        ("bel\0la@example.com", PASSWORD),
        ("' OR true --@example.com", PASSWORD),
        ("", ""),
    ] {
        assert_eq!(fixture.verify_password(email, password).await.unwrap(), invalid(), "{email:?}");
    }
}

#[tokio::test]
async fn a_suspended_tenants_owner_is_let_in_and_a_deleted_ones_is_not() {
    let fixture = Fixture::start().await;
    let tenant_id = fixture.sign_up(signup("Bella", "bella@example.com")).await.unwrap().tenant.unwrap().id;
    let mut client = fixture.provisioning.clone();
    client.suspend_tenant(SuspendTenantRequest { tenant_id: tenant_id.clone() }).await.unwrap();
    let valid = (Verdict::Valid, tenant_id.clone());
    assert_eq!(fixture.verify_password("bella@example.com", PASSWORD).await.unwrap(), valid);
    client.delete_tenant(DeleteTenantRequest { tenant_id: tenant_id.clone() }).await.unwrap();
    assert_eq!(fixture.verify_password("bella@example.com", PASSWORD).await.unwrap(), invalid());
    client.undelete_tenant(UndeleteTenantRequest { tenant_id }).await.unwrap();
    assert_eq!(fixture.verify_password("bella@example.com", PASSWORD).await.unwrap(), valid);
}

#[tokio::test]
async fn a_right_password_on_an_old_setting_is_hashed_anew_with_todays_and_a_wrong_one_is_not() {
    let database = Cluster::get().migrated().await;
    let old = Argon2Params { memory_kib: 1_024, passes: 1, lanes: 1 };
    let then = Fixture::start_with(database.clone(), ServerSettings { password_argon2: old, ..settings() }).await;
    then.sign_up(signup("Bella", "bella@example.com")).await.unwrap();
    let old_hash = then.password_hash().await;
    assert!(old_hash.contains("$m=1024,t=1,p=1$"));

    let today = Fixture::start_on(database).await;
    assert_eq!(today.verify_password("bella@example.com", "a wrong password").await.unwrap(), invalid());
    assert_eq!(today.password_hash().await, old_hash);
    assert_eq!(today.verify_password("bella@example.com", PASSWORD).await.unwrap().0, Verdict::Valid);
    let new_hash = today.password_hash().await;
    assert!(new_hash.contains("$m=19456,t=2,p=1$"), "{new_hash}");

    assert_eq!(today.verify_password("bella@example.com", PASSWORD).await.unwrap().0, Verdict::Valid);
    assert_eq!(today.password_hash().await, new_hash, "once is enough");
}

/// The addresses are unknown: that they are refused too shows that they cost the same work.
#[tokio::test]
async fn beyond_the_queue_callers_are_refused_with_a_time_to_come_back_and_others_go_on() {
    let dear = Argon2Params { passes: 16, ..Argon2Params::PASSWORD };
    let settings = ServerSettings { password_argon2: dear, hashing_queue: 2, ..settings() };
    let fixture = Fixture::start_with(Cluster::get().migrated().await, settings).await;
    let tenant = fixture.tenant("bella").await;
    let mut flood = JoinSet::new();
    for number in 0..64 {
        let mut client = fixture.provisioning.clone();
        let request =
            VerifyPasswordRequest { email: format!("nobody-{number}@example.com"), password: PASSWORD.to_owned() };
        flood.spawn(async move { client.verify_password(request).await.map(|answer| answer.into_inner().verdict()) });
    }
    let mut refused = 0;
    while let Some(answer) = flood.join_next().await {
        match answer.unwrap() {
            Ok(verdict) => assert_eq!(verdict, Verdict::Invalid),
            Err(status) => {
                assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
                assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
                refused += 1;
                // Keys have a lane of their own.
                assert_eq!(fixture.verify(&tenant.secret_key).await.verdict(), Verdict::Valid);
            }
        }
    }
    assert!(refused > 0, "the queue has an end");
    assert_eq!(fixture.verify_password("nobody@example.com", PASSWORD).await.unwrap(), invalid(), "it recovers");
}
