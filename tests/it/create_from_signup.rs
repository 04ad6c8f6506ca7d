//! `CreateFromSignup`: the same tenant as `CreateFullyProvisioned` creates, with an owner.

use std::collections::HashSet;

use argon2::{Argon2, PasswordVerifier as _, password_hash::phc::PasswordHash};
use tokio::task::JoinSet;
use tonic::Code;
use turnkey::grpc::pb::{CreateFromSignupRequest, Package, Segment, Tenant, get_tenant_request::Identifier};

use crate::support::{
    fixture::{Fixture, ONE_TENANT},
    requests::{named, signup},
    responses::{reason, violations},
};

#[tokio::test]
async fn a_signup_creates_the_same_tenant_as_create_fully_provisioned() {
    let fixture = Fixture::start().await;
    let admin = fixture.create(named("bella-one")).await.unwrap();
    let signup =
        CreateFromSignupRequest { slug: Some("bella-two".to_owned()), ..signup("Bella Weddings", "bella@example.com") };
    let signup = fixture.sign_up(signup).await.unwrap();

    let comparable_tenant = |tenant: Tenant| Tenant {
        id: String::new(),
        slug: String::new(),
        api_key_public: String::new(),
        created_at: None,
        updated_at: None,
        etag: String::new(),
        owner_email: None,
        ..tenant
    };
    let (created, admin_created) = (signup.tenant.clone().unwrap(), admin.tenant.unwrap());
    assert_eq!((created.slug.as_str(), created.owner_email.as_deref()), ("bella-two", Some("bella@example.com")));
    assert_eq!(comparable_tenant(created.clone()), comparable_tenant(admin_created));
    let comparable_segment = |segment: Segment| Segment {
        id: String::new(),
        tenant_id: String::new(),
        created_at: None,
        updated_at: None,
        etag: String::new(),
        ..segment
    };
    assert_eq!(signup.segment.clone().map(comparable_segment), admin.segment.map(comparable_segment));
    let comparable_package = |package: &Package| Package {
        id: String::new(),
        tenant_id: String::new(),
        segment_id: String::new(),
        created_at: None,
        updated_at: None,
        etag: String::new(),
        ..package.clone()
    };
    let comparable_packages = |packages: &[Package]| packages.iter().map(comparable_package).collect::<Vec<_>>();
    assert_eq!(comparable_packages(&signup.packages), comparable_packages(&admin.packages));
    assert_eq!(signup.packages[0].segment_id, signup.segment.unwrap().id);
    assert!(signup.secret_key.starts_with("sk_live_bella_") && !signup.replayed);
    assert_eq!(fixture.get(Identifier::TenantId(created.id.clone())).await.unwrap(), created);
}

#[tokio::test]
async fn the_owner_is_stored_with_a_normalized_address_and_an_argon2id_hash() {
    let fixture = Fixture::start().await;
    let request = CreateFromSignupRequest {
        // Compatibility characters: the hash is that of the NFKC form.
        password: "ﬁne tulips ｌａｍｐ".to_owned(),
        ..signup("Bella", "  Bella.Rossi@Example.COM ")
    };
    let created = fixture.sign_up(request).await.unwrap().tenant.unwrap();
    assert_eq!(created.owner_email.as_deref(), Some("Bella.Rossi@example.com"));
    let (tenant_id, email, hash): (String, String, String) =
        sqlx::query_as("SELECT tenant_id::text, email, password_hash FROM owners")
            .fetch_one(&fixture.superuser_pool().await)
            .await
            .unwrap();
    assert_eq!((tenant_id, email.as_str()), (created.id, "Bella.Rossi@example.com"));
    let canonical: String = sqlx::query_scalar("SELECT canonical_email FROM owners")
        .fetch_one(&fixture.superuser_pool().await)
        .await
        .unwrap();
    assert_eq!(canonical, "bella.rossi@example.com");
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    let hash = PasswordHash::new(&hash).unwrap();
    assert!(Argon2::default().verify_password(b"fine tulips lamp", &hash).is_ok());
}

#[tokio::test]
async fn a_signup_without_a_slug_derives_it_from_the_business_name() {
    let fixture = Fixture::start().await;
    for (number, (name, expected)) in [
        ("Bella Weddings & Co. Photography", "bella-weddings-co-photography"),
        ("Ömer's Café", "omers-cafe"),
        ("123 Go", "s-123-go"),
        ("Գեղեցիկ՚ս", "geghetsiks"),
        ("Gəncə", "gence"),
        (&"a".repeat(150), &"a".repeat(63)),
    ]
    .into_iter()
    .enumerate()
    {
        let created = fixture.sign_up(signup(name, &format!("owner-{number}@example.com"))).await.unwrap();
        assert_eq!(created.tenant.unwrap().slug, expected, "{name}");
    }
}

#[tokio::test]
async fn a_derived_slug_that_exists_is_reserved_or_too_short_gets_a_random_suffix() {
    let fixture = Fixture::start().await;
    fixture.create(named("bella")).await.unwrap();
    for (number, (name, start)) in
        [("Bella", "bella-"), ("Admin", "admin-"), ("Q", "q-"), ("Ab", "ab-")].iter().enumerate()
    {
        let created = fixture.sign_up(signup(name, &format!("owner-{number}@example.com"))).await.unwrap();
        let slug = created.tenant.unwrap().slug;
        let suffix = slug.strip_prefix(start).unwrap_or_else(|| panic!("{slug}"));
        assert!(suffix.len() == 6 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{slug}");
        assert!(created.secret_key.starts_with(&format!("sk_live_{}_", start.trim_end_matches('-'))));
    }
}

#[tokio::test]
async fn fifty_concurrent_signups_of_the_same_name_get_different_slugs() {
    let fixture = Fixture::start().await;
    let mut calls = JoinSet::new();
    for number in 0..50 {
        let mut client = fixture.provisioning.clone();
        let request = signup("Bella Weddings", &format!("owner-{number}@example.com"));
        calls.spawn(async move { client.create_from_signup(request).await.unwrap().into_inner().tenant.unwrap().slug });
    }
    let slugs: HashSet<String> = calls.join_all().await.into_iter().collect();
    assert_eq!(slugs.len(), 50);
    assert!(slugs.contains("bella-weddings") && slugs.iter().all(|slug| slug.starts_with("bella-weddings")));
    assert_eq!(fixture.row_counts().await, [50, 50, 150, 50]);
}

#[tokio::test]
async fn a_requested_slug_is_never_replaced_by_another() {
    let fixture = Fixture::start().await;
    fixture.create(named("bella")).await.unwrap();
    let with_slug =
        |slug: &str| CreateFromSignupRequest { slug: Some(slug.to_owned()), ..signup("Bella", "bella@example.com") };
    let error = fixture.sign_up(with_slug("bella")).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "SLUG_TAKEN"));
    for (slug, why) in [("admin", "RESERVED"), ("demo", "RESERVED"), ("B", "BAD_FORMAT"), ("", "MISSING_FIELD")] {
        let error = fixture.sign_up(with_slug(slug)).await.unwrap_err();
        assert_eq!(violations(&error), [("slug".to_owned(), why.to_owned())]);
    }
    let error = fixture.sign_up(with_slug("")).await.unwrap_err();
    assert_eq!(error.message(), "slug must not be empty", "an optional field is not required");
    assert_eq!(fixture.count("owners").await, 0);
}

#[tokio::test]
async fn an_email_address_has_one_owner_regardless_of_case_and_of_a_deleted_tenant() {
    let fixture = Fixture::start().await;
    fixture.sign_up(signup("Bella", "Bella@example.com")).await.unwrap();
    fixture.sign_up(signup("Omer", "Ömer@example.com")).await.unwrap();
    sqlx::query("UPDATE tenants SET deleted_at = now()").execute(&fixture.superuser_pool().await).await.unwrap();
    let before = fixture.row_counts().await;
    for existing in ["Bella@example.com", "bella@EXAMPLE.com", " BELLA@example.com", "öMER@example.com"] {
        let error = fixture.sign_up(signup("Another Business", existing)).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "EMAIL_TAKEN"), "{existing}");
    }
    assert_eq!(fixture.row_counts().await, before);
}

#[tokio::test]
async fn an_address_in_any_script_has_one_owner_regardless_of_case_and_of_the_spelling_of_its_domain() {
    let fixture = Fixture::start().await;
    for (shown, others) in [
        ("γιώργος@example.com", ["ΓΙΏΡΓΟΣ@example.com", "γιώργοσ@EXAMPLE.com"]),
        ("anna@bücher.example", ["anna@xn--bcher-kva.example", "ANNA@BÜCHER.EXAMPLE"]),
        ("anna@xn--mnchen-3ya.example", ["anna@münchen.example", "anna@mu\u{308}nchen.example"]),
        ("राम@मेल.भारत", [" राम@मेल.भारत ", "राम@xn--r2bi6d.xn--h2brj9c"]),
        ("தமிழ்@example.com", ["தமிழ்@Example.com", "தமிழ்@ｅxample.com"]),
    ] {
        let created = fixture.sign_up(signup("Bella", shown)).await.unwrap().tenant.unwrap();
        assert_eq!(created.owner_email.as_deref(), Some(shown));
        for other in others {
            let error = fixture.sign_up(signup("Another Business", other)).await.unwrap_err();
            assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "EMAIL_TAKEN"), "{other}");
        }
    }
    assert_eq!(fixture.count("owners").await, 5);
}

#[tokio::test]
async fn the_database_rejects_an_ascii_address_whose_canonical_form_is_another() {
    let fixture = Fixture::start().await;
    fixture.sign_up(signup("Bella", "Bella@example.com")).await.unwrap();
    let pool = fixture.superuser_pool().await;
    let error = sqlx::query("UPDATE owners SET email = 'omer@example.com'").execute(&pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().constraint(), Some("owners_canonical_email_matches_email"));
    let both = "UPDATE owners SET email = 'Omer@example.com', canonical_email = 'omer@example.com'";
    sqlx::query(both).execute(&pool).await.unwrap();
}

#[tokio::test]
async fn fifty_concurrent_signups_of_one_address_create_one_complete_tenant() {
    let fixture = Fixture::start().await;
    let mut calls = JoinSet::new();
    for number in 0..50 {
        let mut client = fixture.provisioning.clone();
        let request = signup(&format!("Bella {number}"), "bella@example.com");
        calls.spawn(async move { client.create_from_signup(request).await });
    }
    let responses = calls.join_all().await;
    assert_eq!(responses.iter().filter(|response| response.is_ok()).count(), 1);
    for error in responses.into_iter().filter_map(Result::err) {
        assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "EMAIL_TAKEN"));
    }
    assert_eq!((fixture.row_counts().await, fixture.count("owners").await), (ONE_TENANT, 1));
}

#[tokio::test]
async fn all_violations_of_a_signup_are_reported_together_a_weak_password_included() {
    let fixture = Fixture::start().await;
    let request = CreateFromSignupRequest {
        business_name: "🎂🎂".to_owned(),
        email: "\"bella\"@example.com".to_owned(),
        password: "password1".to_owned(),
        slug: None,
        request_id: Some("again".to_owned()),
    };
    let error = fixture.sign_up(request).await.unwrap_err();
    assert_eq!(reason(&error), "INVALID_REQUEST");
    let expected = [
        ("business_name", "BAD_FORMAT"),
        ("email", "BAD_FORMAT"),
        ("request_id", "BAD_FORMAT"),
        ("password", "WEAK_PASSWORD"),
    ];
    assert_eq!(violations(&error), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));

    let error = fixture.sign_up(CreateFromSignupRequest::default()).await.unwrap_err();
    let missing = ["business_name", "email", "password"].map(|field| (field.to_owned(), "MISSING_FIELD".to_owned()));
    assert_eq!(violations(&error), missing);
    assert_eq!(fixture.row_counts().await, [0; 4]);
}

#[tokio::test]
async fn passwords_have_8_to_128_characters_after_nfkc_and_are_not_easy_to_guess() {
    let fixture = Fixture::start().await;
    let with = |password: &str| CreateFromSignupRequest {
        password: password.to_owned(),
        ..signup("Bella Weddings Lucca", "bella.rossi@example.com")
    };
    for (password, why) in [
        ("kJ8#mP2", "TOO_SHORT"),
        ("e\u{301}k\u{301}o\u{301}z\u{301}", "TOO_SHORT"),
        (&"kJ8#mP2$".repeat(17), "TOO_LONG"),
        ("Passw0rd!", "WEAK_PASSWORD"),
        ("Bella Weddings Lucca", "WEAK_PASSWORD"),
        ("bella.rossi@example.com", "WEAK_PASSWORD"),
    ] {
        let error = fixture.sign_up(with(password)).await.unwrap_err();
        assert_eq!(violations(&error), [("password".to_owned(), why.to_owned())], "{password}");
    }
    assert!(fixture.sign_up(with(&"kJ8#mP2$".repeat(16))).await.is_ok(), "128 characters are allowed");
}
