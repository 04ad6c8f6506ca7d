//! `PurgeTenant`: a request for erasure. `purge.rs` has the command.

use tonic::{Code, Status};
use turnkey::grpc::pb::{
    CreateFromSignupRequest, PurgeTenantRequest, UpdateTenantRequest, get_tenant_request::Identifier,
};
use uuid::Uuid;

use crate::support::{
    database::dump,
    events::types,
    fixture::{Fixture, ONE_TENANT},
    requests::{PASSWORD, signup_with_request_id},
    responses::{reason, violations},
};

async fn purge(fixture: &Fixture, tenant_id: &str, confirm_slug: &str) -> Result<(), Status> {
    let request = PurgeTenantRequest { tenant_id: tenant_id.to_owned(), confirm_slug: confirm_slug.to_owned() };
    fixture.provisioning.clone().purge_tenant(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_purged_tenant_is_left_but_the_event_of_the_purge() {
    let fixture = Fixture::start().await;
    fixture.tenant("another-business").await;
    let empty = dump(&fixture.database.superuser).await;
    let signup =
        CreateFromSignupRequest { business_name: "Canary Florist".to_owned(), slug: None, ..signup_with_request_id() };
    let created = fixture.sign_up(signup.clone()).await.unwrap();
    let tenant = created.tenant.unwrap();
    let name = Some("Canary Weddings".to_owned());
    let update = UpdateTenantRequest { tenant_id: tenant.id.clone(), name, ..UpdateTenantRequest::default() };
    fixture.provisioning.clone().update_tenant(update).await.unwrap();
    fixture.verify_password(&signup.email, "a wrong password", None).await.unwrap();
    fixture.verify_password(&signup.email, PASSWORD, Some("192.0.2.1")).await.unwrap();
    fixture.delete_tenant(&tenant.id).await.unwrap();
    let personal = [&*signup.email, "Canary", &*tenant.slug, &*tenant.api_key_public];
    let before = dump(&fixture.database.superuser).await;
    for text in personal {
        assert!(before.contains(text), "{text}");
    }

    purge(&fixture, &tenant.id, &tenant.slug).await.unwrap();
    let after = dump(&fixture.database.superuser).await;
    for text in personal {
        assert!(!after.contains(text), "{text}");
    }
    let with_id: Vec<&str> = after.lines().filter(|line| line.contains(&tenant.id)).collect();
    assert!(with_id.len() == 1 && with_id[0].contains("tenant.purged"), "{with_id:?}");
    assert_eq!(after.lines().count(), empty.lines().count() + 1, "no other row is left");
    assert_eq!(types(&fixture.events().await), ["tenant.created", "tenant.purged"]);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
    assert_eq!(reason(&purge(&fixture, &tenant.id, &tenant.slug).await.unwrap_err()), "TENANT_NOT_FOUND");
    fixture.sign_up(signup).await.unwrap();
}

#[tokio::test]
async fn only_a_deleted_tenant_is_purged_and_only_with_its_slug() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let error = purge(&fixture, &tenant.id, "bella").await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "TENANT_NOT_DELETED"));
    fixture.delete_tenant(&tenant.id).await.unwrap();
    for wrong in ["omer", "", "Bella"] {
        let error = purge(&fixture, &tenant.id, wrong).await.unwrap_err();
        let [(field, _)] = &violations(&error)[..] else { panic!("{error:?}") };
        assert_eq!(field, "confirm_slug");
    }
    let error = purge(&fixture, &Uuid::new_v4().to_string(), "bella").await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
    fixture.undelete_tenant(&tenant.id).await.unwrap();
    assert!(fixture.get(Identifier::TenantId(tenant.id)).await.is_ok());
}

#[tokio::test]
async fn a_purge_does_not_succeed_while_another_transaction_keeps_the_tenant() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    fixture.delete_tenant(&tenant.id).await.unwrap();
    let pool = fixture.superuser_pool().await;
    let mut outside = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM tenants FOR KEY SHARE").execute(&mut *outside).await.unwrap();
    let error = purge(&fixture, &tenant.id, "bella").await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Aborted, "CONFLICT"));
    outside.rollback().await.unwrap();
    purge(&fixture, &tenant.id, "bella").await.unwrap();
    assert_eq!(types(&fixture.events().await), ["tenant.purged"]);
}
