//! After `turnkey adopt`, the callers of the old platform continue with their keys, their passwords and their calls.

use http::StatusCode;
use serde_json::json;
use turnkey::grpc::pb::{ListPackagesRequest, Verdict, get_tenant_request::Identifier};

use crate::support::{
    adoption::{Adoption, OLD_PASSWORDS, OldDatabase, old_id, old_secret},
    fixture::{Fixture, settings, with_http},
    requests::{PASSWORD, rotation_of, with_bearer},
    tokens::Tokens,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_old_key_verifies_opens_its_catalog_and_rotates_into_a_new_one() {
    let (open, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(100).await);
    let adoption = Adoption::new(&open, &old);
    assert_eq!(adoption.outcome(&[]).0, 0);
    let closed = Fixture::start_with(open.database.clone(), Tokens::new().settings()).await;
    for (number, line) in (0..100).filter_map(|number| Some((number, adoption.report().remove(&old_id(number))?))) {
        let secret_key = old_secret(&old, number).await;
        let verified = open.verify(&secret_key).await;
        let expected = if number == 11 { Verdict::TenantSuspended } else { Verdict::Valid };
        assert_eq!((verified.verdict(), verified.tenant_id.as_str()), (expected, line.tenant_id.as_str()), "{number}");
        if number == 11 {
            continue;
        }
        let request = ListPackagesRequest { tenant_id: line.tenant_id.clone(), ..Default::default() };
        let request = with_bearer(request, Some(&secret_key));
        let packages = closed.catalog.clone().list_packages(request).await.unwrap().into_inner().packages;
        assert_eq!(
            packages.len(),
            if number == 18 {
                30
            } else if number <= 2 && number > 0 {
                3
            } else {
                4
            },
            "{number}"
        );
        if number % 10 == 0 {
            let rotated = open.try_rotate(rotation_of(&line.tenant_id, &verified.public_key)).await.unwrap();
            assert_eq!(open.verify(&rotated.secret_key).await.verdict(), Verdict::Valid);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_password_verifies_and_is_rehashed() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(17).await);
    let adoption = Adoption::new(&fixture, &old);
    assert_eq!(adoption.outcome(&[]).0, 0);
    for number in [0, 1, 2, 15] {
        let email =
            if number == 15 { "ЮЛИЯ-15@xn--bcher-kva.example" } else { &format!("Owner-{number}@example.com") };
        let password = OLD_PASSWORDS[number as usize % 3];
        let valid = (Verdict::Valid, adoption.line(number).tenant_id);
        for _before_and_after_the_rehash in 0..2 {
            assert_eq!(fixture.verify_password(email, password, None).await.unwrap(), valid, "{number}");
        }
        let wrong = OLD_PASSWORDS[(number as usize + 1) % 3];
        assert_eq!(fixture.verify_password(email, wrong, None).await.unwrap().0, Verdict::Invalid);
    }
    let rehashed = "owners WHERE starts_with(password_hash, '$argon2id$')";
    assert_eq!(fixture.count(rehashed).await, 4);
    // An owner without a password gets one by a reset.
    let token = fixture.reset_token("owner-6@example.com").await;
    assert_eq!(fixture.reset_password(&token, "roses beside a lamp").await.unwrap().1, adoption.line(6).tenant_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_tenant_is_found_by_everything_that_identifies_it() {
    let (fixture, old) = (Fixture::start().await, OldDatabase::with_valid_tenants(14).await);
    let adoption = Adoption::new(&fixture, &old);
    assert_eq!(adoption.outcome(&[]).0, 0);
    let key = old.texts(r#"SELECT "apiKeyPublic" FROM "Tenant" WHERE slug = 'tenant-12'"#).await.remove(0);
    for identifier in [
        Identifier::ExternalId(old_id(12)),
        Identifier::Slug("tenant-12".to_owned()),
        Identifier::PublicKey(key.clone()),
        Identifier::OwnerEmail("owner-12@example.com".to_owned()),
    ] {
        let tenant = fixture.get(identifier).await.unwrap();
        assert_eq!((tenant.id, tenant.api_key_public), (adoption.line(12).tenant_id, key.clone()));
        assert_eq!(tenant.labels, [("test".to_owned(), "true".to_owned())].into());
        assert!(tenant.owner_email_verified_at.is_some());
    }
    assert!(fixture.get(Identifier::ExternalId(old_id(13))).await.unwrap().owner_email_verified_at.is_none());
}

/// The call of the old API that creates tenants, of a caller that cannot change, and what agents do with an old key.
#[tokio::test(flavor = "multi_thread")]
async fn the_old_calls_work_beside_the_adopted_tenants() {
    let old = OldDatabase::with_valid_tenants(3).await;
    let fixture = Fixture::with_settings(with_http(settings())).await;
    let adoption = Adoption::new(&fixture, &old);
    assert_eq!(adoption.outcome(&[]).0, 0);
    let http = fixture.http();
    let create = async |slug: &str| {
        http.post("/api/v1/admin/tenants", &json!({ "slug": slug, "name": "Bella", "commission": 12.5 })).await
    };
    assert_eq!(create("bella-weddings").await.status, StatusCode::CREATED);
    let taken = create("tenant-0").await;
    assert_eq!((taken.status, taken.json()["error"].as_str().unwrap()), (StatusCode::CONFLICT, "SLUG_TAKEN"));
    let sign_up = async |email: &str| {
        let form = json!({ "email": email, "password": PASSWORD, "businessName": "Omer" });
        http.post("/v1/auth/signup", &form).await
    };
    assert_eq!(sign_up("omer@example.com").await.status, StatusCode::CREATED);
    let taken = sign_up("OWNER-0@example.com").await;
    assert_eq!((taken.status, taken.json()["error"].as_str().unwrap()), (StatusCode::CONFLICT, "EMAIL_TAKEN"));

    let bearer = format!("Bearer {}", old_secret(&old, 0).await);
    let headers = [("authorization", bearer.as_str()), ("accept", "application/json, text/event-stream")];
    let call = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "get_packages", "arguments": {} }
    });
    let packages = http.post_with("/mcp", &call, &headers).await;
    assert!(String::from_utf8_lossy(&packages.body).contains("package-4"), "{packages:?}");
}
