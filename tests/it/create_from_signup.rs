//! `CreateFromSignup`: the tenant that admins get, with an owner.

use std::collections::HashSet;

use argon2::{Argon2, PasswordVerifier as _, password_hash::phc::PasswordHash};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    CreateFromSignupRequest, CreateFromSignupResponse, Package, Segment, Tenant, get_tenant_request::Identifier,
};

use crate::fixture::{Fixture, ONE_TENANT, named, reason, violations};

pub const PASSWORD: &str = "tulips under a lamp";

pub fn signup(business_name: &str, email: &str) -> CreateFromSignupRequest {
    CreateFromSignupRequest {
        business_name: business_name.to_owned(),
        email: email.to_owned(),
        password: PASSWORD.to_owned(),
        ..CreateFromSignupRequest::default()
    }
}

impl Fixture {
    pub async fn sign_up(&self, request: CreateFromSignupRequest) -> Result<CreateFromSignupResponse, Status> {
        self.provisioning.clone().create_from_signup(request).await.map(tonic::Response::into_inner)
    }
}

#[tokio::test]
async fn a_signup_makes_the_tenant_that_the_admin_path_makes_field_by_field() {
    let fixture = Fixture::start().await;
    let admin = fixture.create(named("bella-one")).await.unwrap();
    let signup =
        CreateFromSignupRequest { slug: Some("bella-two".to_owned()), ..signup("Bella Weddings", "bella@example.com") };
    let signup = fixture.sign_up(signup).await.unwrap();

    let same_but = |tenant: Tenant| Tenant {
        id: String::new(),
        slug: String::new(),
        api_key_public: String::new(),
        created_at: None,
        updated_at: None,
        owner_email: None,
        ..tenant
    };
    let (made, admin_made) = (signup.tenant.clone().unwrap(), admin.tenant.unwrap());
    assert_eq!((made.slug.as_str(), made.owner_email.as_deref()), ("bella-two", Some("bella@example.com")));
    assert_eq!(same_but(made.clone()), same_but(admin_made));
    let same_segment = |segment: Segment| Segment {
        id: String::new(),
        tenant_id: String::new(),
        created_at: None,
        updated_at: None,
        ..segment
    };
    assert_eq!(signup.segment.clone().map(same_segment), admin.segment.map(same_segment));
    let same_package = |package: &Package| Package {
        id: String::new(),
        tenant_id: String::new(),
        segment_id: String::new(),
        created_at: None,
        updated_at: None,
        ..package.clone()
    };
    let same_packages = |packages: &[Package]| packages.iter().map(same_package).collect::<Vec<_>>();
    assert_eq!(same_packages(&signup.packages), same_packages(&admin.packages));
    assert_eq!(signup.packages[0].segment_id, signup.segment.unwrap().id);
    assert!(signup.secret_key.starts_with("sk_live_bella_") && !signup.replayed);
    assert_eq!(fixture.get(Identifier::TenantId(made.id.clone())).await.unwrap(), made);
}

#[tokio::test]
async fn the_owner_is_kept_with_a_normalized_address_and_an_argon2id_hash() {
    let fixture = Fixture::start().await;
    let request = CreateFromSignupRequest {
        // Compatibility letters: the hash is of their NFKC.
        password: "ﬁne tulips ｌａｍｐ".to_owned(),
        ..signup("Bella", "  Bella.Rossi@Example.COM ")
    };
    let made = fixture.sign_up(request).await.unwrap().tenant.unwrap();
    assert_eq!(made.owner_email.as_deref(), Some("Bella.Rossi@example.com"));
    let (tenant_id, email, hash): (String, String, String) =
        sqlx::query_as("SELECT tenant_id::text, email, password_hash FROM owners")
            .fetch_one(&fixture.superuser_pool().await)
            .await
            .unwrap();
    assert_eq!((tenant_id, email.as_str()), (made.id, "Bella.Rossi@example.com"));
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    let hash = PasswordHash::new(&hash).unwrap();
    assert!(Argon2::default().verify_password(b"fine tulips lamp", &hash).is_ok());
}

#[tokio::test]
async fn a_slug_is_made_from_the_name() {
    let fixture = Fixture::start().await;
    for (number, (name, expected)) in [
        ("Bella Weddings & Co. Photography", "bella-weddings-co-photography"),
        ("Ömer's Café", "omers-cafe"),
        ("123 Go", "s-123-go"),
        (&"a".repeat(150), &"a".repeat(63)),
    ]
    .into_iter()
    .enumerate()
    {
        let made = fixture.sign_up(signup(name, &format!("owner-{number}@example.com"))).await.unwrap();
        assert_eq!(made.tenant.unwrap().slug, expected, "{name}");
    }
}

#[tokio::test]
async fn a_slug_that_is_taken_reserved_or_too_short_gets_a_short_random_ending() {
    let fixture = Fixture::start().await;
    fixture.create(named("bella")).await.unwrap();
    for (number, (name, start)) in
        [("Bella", "bella-"), ("Admin", "admin-"), ("Q", "q-"), ("Ab", "ab-")].iter().enumerate()
    {
        let made = fixture.sign_up(signup(name, &format!("owner-{number}@example.com"))).await.unwrap();
        let slug = made.tenant.unwrap().slug;
        let ending = slug.strip_prefix(start).unwrap_or_else(|| panic!("{slug}"));
        assert!(ending.len() == 6 && ending.bytes().all(|letter| letter.is_ascii_alphanumeric()), "{slug}");
        assert!(made.secret_key.starts_with(&format!("sk_live_{}_", start.trim_end_matches('-'))));
    }
}

#[tokio::test]
async fn fifty_signups_of_one_name_at_once_all_get_a_slug_of_their_own() {
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
async fn a_slug_that_was_asked_for_is_that_one_or_none() {
    let fixture = Fixture::start().await;
    fixture.create(named("bella")).await.unwrap();
    let asked =
        |slug: &str| CreateFromSignupRequest { slug: Some(slug.to_owned()), ..signup("Bella", "bella@example.com") };
    let refused = fixture.sign_up(asked("bella")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "SLUG_TAKEN"));
    for (slug, why) in [("admin", "RESERVED"), ("B", "BAD_FORMAT"), ("", "MISSING_FIELD")] {
        let refused = fixture.sign_up(asked(slug)).await.unwrap_err();
        assert_eq!(violations(&refused), [("slug".to_owned(), why.to_owned())]);
    }
    assert_eq!(fixture.count("owners").await, 0);
}

#[tokio::test]
async fn an_address_is_one_owners_whatever_its_case_and_whether_or_not_its_tenant_was_deleted() {
    let fixture = Fixture::start().await;
    fixture.sign_up(signup("Bella", "Bella@example.com")).await.unwrap();
    fixture.sign_up(signup("Omer", "Ömer@example.com")).await.unwrap();
    sqlx::query("UPDATE tenants SET deleted_at = now()").execute(&fixture.superuser_pool().await).await.unwrap();
    let before = fixture.row_counts().await;
    for taken in ["Bella@example.com", "bella@EXAMPLE.com", " BELLA@example.com", "öMER@example.com"] {
        let refused = fixture.sign_up(signup("Somebody Else", taken)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "EMAIL_TAKEN"), "{taken}");
    }
    assert_eq!(fixture.row_counts().await, before);
}

#[tokio::test]
async fn of_fifty_signups_of_one_address_at_once_one_is_made_and_nothing_half() {
    let fixture = Fixture::start().await;
    let mut calls = JoinSet::new();
    for number in 0..50 {
        let mut client = fixture.provisioning.clone();
        let request = signup(&format!("Bella {number}"), "bella@example.com");
        calls.spawn(async move { client.create_from_signup(request).await });
    }
    let answers = calls.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refused in answers.into_iter().filter_map(Result::err) {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "EMAIL_TAKEN"));
    }
    assert_eq!((fixture.row_counts().await, fixture.count("owners").await), (ONE_TENANT, 1));
}

#[tokio::test]
async fn everything_that_is_wrong_is_said_at_once_a_weak_password_included() {
    let fixture = Fixture::start().await;
    let request = CreateFromSignupRequest {
        business_name: "🎂🎂".to_owned(),
        email: "bella".to_owned(),
        password: "password1".to_owned(),
        slug: None,
        request_id: Some("again".to_owned()),
    };
    let refused = fixture.sign_up(request).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_REQUEST");
    let expected = [
        ("business_name", "BAD_FORMAT"),
        ("email", "BAD_FORMAT"),
        ("request_id", "BAD_FORMAT"),
        ("password", "WEAK_PASSWORD"),
    ];
    assert_eq!(violations(&refused), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));

    let refused = fixture.sign_up(CreateFromSignupRequest::default()).await.unwrap_err();
    let missing = ["business_name", "email", "password"].map(|field| (field.to_owned(), "MISSING_FIELD".to_owned()));
    assert_eq!(violations(&refused), missing);
    assert_eq!(fixture.row_counts().await, [0; 4]);
}

#[tokio::test]
async fn passwords_have_8_to_128_characters_after_nfkc_and_are_not_easily_guessed() {
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
        let refused = fixture.sign_up(with(password)).await.unwrap_err();
        assert_eq!(violations(&refused), [("password".to_owned(), why.to_owned())], "{password}");
    }
    assert!(fixture.sign_up(with(&"kJ8#mP2$".repeat(16))).await.is_ok(), "128 characters, none of them a must");
}
