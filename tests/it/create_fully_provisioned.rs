//! `CreateFullyProvisioned`: everything, exactly so, or nothing.

use argon2::{Argon2, PasswordVerifier as _, password_hash::phc::PasswordHash};
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;
use tonic::Code;
use turnkey::grpc::pb::{
    BookingType, CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, get_tenant_request::Identifier,
};

use crate::{
    fixture::{Fixture, ONE_TENANT, bella, named, reason, violations},
    request_id::sign_up,
};

#[tokio::test]
async fn the_answer_shows_a_tenant_that_can_take_bookings() {
    let fixture = Fixture::start().await;
    let answer = fixture.create(bella()).await.unwrap();

    let tenant = answer.tenant.unwrap();
    assert_eq!((tenant.slug.as_str(), tenant.name.as_str()), ("bella-weddings", "Bella Weddings"));
    assert!((tenant.commission_percent - 10.0).abs() < f64::EPSILON);
    assert!(tenant.is_active && tenant.deleted_at.is_none() && tenant.owner_email.is_none());
    assert_eq!(tenant.branding.unwrap().fields.len(), 0);
    assert_eq!(tenant.created_at, tenant.updated_at);
    assert!(tenant.created_at.unwrap().seconds > 1_700_000_000);
    assert!(!answer.replayed);

    let segment = answer.segment.unwrap();
    assert_eq!(
        (segment.slug.as_str(), segment.name.as_str(), segment.hero_title.as_str(), segment.description.as_str()),
        ("general", "General", "Our Services", "Your main service offerings")
    );
    assert_eq!((segment.tenant_id.as_str(), segment.sort_order, segment.active), (tenant.id.as_str(), 0, true));

    let expected = [
        ("basic-package", "Basic Package", "Your starter option - perfect for budget-conscious clients", 1),
        ("standard-package", "Standard Package", "Our most popular option - great value for most clients", 2),
        ("premium-package", "Premium Package", "The full experience - for clients who want the best", 3),
    ];
    assert_eq!(answer.packages.len(), expected.len());
    for (package, (slug, name, description, order)) in answer.packages.iter().zip(expected) {
        assert_eq!((package.slug.as_str(), package.name.as_str()), (slug, name));
        assert_eq!((package.description.as_str(), package.grouping_order), (description, order));
        assert_eq!((package.base_price, package.booking_type()), (Some(0), BookingType::Date));
        assert_eq!(
            (package.tenant_id.as_str(), package.segment_id.as_str()),
            (tenant.id.as_str(), segment.id.as_str())
        );
        assert!(package.active);
    }
    for id in [&tenant.id, &segment.id, &answer.packages[0].id] {
        assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 7, "{id}");
        assert_eq!(id, &id.to_lowercase());
    }
}

#[tokio::test]
async fn what_is_read_back_is_what_was_answered_and_so_are_the_rows() {
    let fixture = Fixture::start().await;
    let answer = fixture.create(bella()).await.unwrap();
    let tenant = answer.tenant.clone().unwrap();
    assert_eq!(fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap(), tenant);

    let superuser = fixture.superuser_pool().await;
    let row: (String, String, String, String, i32, bool) = sqlx::query_as(
        "SELECT id::text, slug, name, hero_title || '|' || description, sort_order, active FROM segments",
    )
    .fetch_one(&superuser)
    .await
    .unwrap();
    let segment = answer.segment.unwrap();
    let texts = format!("{}|{}", segment.hero_title, segment.description);
    assert_eq!(row, (segment.id, segment.slug, segment.name, texts, segment.sort_order, segment.active));

    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT concat_ws('|', id, slug, name, description, base_price, 'BOOKING_TYPE_' || booking_type, grouping_order,
                          active)
           FROM packages ORDER BY grouping_order",
    )
    .fetch_all(&superuser)
    .await
    .unwrap();
    let answered: Vec<String> = answer
        .packages
        .iter()
        .map(|package| {
            let (price, booking_type) = (package.base_price.unwrap(), package.booking_type().as_str_name());
            let (id, slug, name, description) = (&package.id, &package.slug, &package.name, &package.description);
            let active = if package.active { "t" } else { "f" };
            let order = package.grouping_order;
            format!("{id}|{slug}|{name}|{description}|{price}|{booking_type}|{order}|{active}")
        })
        .collect();
    assert_eq!(rows, answered);
}

#[tokio::test]
async fn a_key_has_the_documented_form_and_its_secret_verifies_against_the_stored_hash() {
    let fixture = Fixture::start().await;
    let answer = fixture.create(bella()).await.unwrap();
    let public = answer.tenant.unwrap().api_key_public;
    let key_id = public.strip_prefix("pk_live_bella_").unwrap();
    assert_eq!(key_id.len(), 16);
    let random = answer.secret_key.strip_prefix(&format!("sk_live_bella_{key_id}_")).unwrap();
    assert_eq!(random.len(), 49);

    let (stored, of_tenant): (String, String) =
        sqlx::query_as("SELECT secret_hash, public_key FROM api_keys WHERE key_id = $1")
            .bind(key_id)
            .fetch_one(&fixture.superuser_pool().await)
            .await
            .unwrap();
    assert_eq!(of_tenant, public);
    assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{stored}");
    let hash = PasswordHash::new(&stored).unwrap();
    assert!(Argon2::default().verify_password(random.as_bytes(), &hash).is_ok());
    assert!(Argon2::default().verify_password(answer.secret_key.as_bytes(), &hash).is_err());
}

#[tokio::test]
async fn commission_is_10_unless_said_and_kept_exactly() {
    let fixture = Fixture::start().await;
    for (slug, said, kept) in [
        ("none", None, "10.00"),
        ("zero", Some(0.0), "0.00"),
        ("most", Some(100.0), "100.00"),
        ("two", Some(12.34), "12.34"),
    ] {
        let request = CreateFullyProvisionedRequest { commission_percent: said, ..named(slug) };
        let tenant = fixture.create(request).await.unwrap().tenant.unwrap();
        assert_eq!(format!("{:.2}", tenant.commission_percent), kept);
        let stored: String = sqlx::query_scalar("SELECT commission_percent::text FROM tenants WHERE slug = $1")
            .bind(slug)
            .fetch_one(&fixture.superuser_pool().await)
            .await
            .unwrap();
        assert_eq!(stored, kept);
    }
    for (said, why) in
        [(-0.01, "OUT_OF_RANGE"), (100.01, "OUT_OF_RANGE"), (12.345, "BAD_FORMAT"), (f64::NAN, "BAD_FORMAT")]
    {
        let request = CreateFullyProvisionedRequest { commission_percent: Some(said), ..named("five") };
        let refused = fixture.create(request).await.unwrap_err();
        assert_eq!(violations(&refused), [("commission_percent".to_owned(), why.to_owned())], "{said}");
    }
}

#[tokio::test]
async fn every_slug_rule_has_its_reason() {
    let fixture = Fixture::start().await;
    for (slug, why) in [
        ("", "MISSING_FIELD"),
        ("ab", "TOO_SHORT"),
        (&"a".repeat(64), "TOO_LONG"),
        ("Bella", "BAD_FORMAT"),
        ("1bella", "BAD_FORMAT"),
        ("bella-", "BAD_FORMAT"),
        ("bella--weddings", "BAD_FORMAT"),
        ("béla", "BAD_FORMAT"),
        ("bella weddings", "BAD_FORMAT"),
        ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "BAD_FORMAT"),
        ("admin", "RESERVED"),
        ("www", "RESERVED"),
        ("turnkey", "RESERVED"),
    ] {
        let refused = fixture.create(named(slug)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{slug}");
        assert_eq!(violations(&refused), [("slug".to_owned(), why.to_owned())], "{slug}");
    }
    assert_eq!(fixture.row_counts().await, [0, 0, 0, 0]);
}

#[tokio::test]
async fn all_violations_are_told_at_once() {
    let fixture = Fixture::start().await;
    let refused = fixture
        .create(CreateFullyProvisionedRequest {
            slug: "Q".to_owned(),
            name: "  ".to_owned(),
            commission_percent: Some(101.0),
            request_id: Some("retry-1".to_owned()),
            validate_only: false,
        })
        .await
        .unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let expected = [
        ("slug", "BAD_FORMAT"),
        ("name", "TOO_SHORT"),
        ("commission_percent", "OUT_OF_RANGE"),
        ("request_id", "BAD_FORMAT"),
    ];
    assert_eq!(violations(&refused), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
}

#[tokio::test]
async fn a_name_is_trimmed() {
    let fixture = Fixture::start().await;
    let request = CreateFullyProvisionedRequest { name: " \u{a0}Ömer's Café 🎂\n".to_owned(), ..bella() };
    assert_eq!(fixture.create(request).await.unwrap().tenant.unwrap().name, "Ömer's Café 🎂");
}

#[tokio::test]
async fn a_taken_slug_is_already_exists_and_leaves_the_first_as_it_was() {
    let fixture = Fixture::start().await;
    let first = fixture.create(bella()).await.unwrap().tenant.unwrap();
    let refused = fixture.create(bella()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "SLUG_TAKEN"));
    let resource = tonic_types::StatusExt::get_details_resource_info(&refused).unwrap();
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("turnkey.v1.Tenant", "bella-weddings")
    );
    assert_eq!(fixture.get(Identifier::TenantId(first.id.clone())).await.unwrap(), first);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn of_50_calls_for_one_slug_at_once_one_wins_and_nothing_is_half() {
    let fixture = Fixture::start().await;
    let mut calls = JoinSet::new();
    for number in 0..50 {
        let mut client = fixture.provisioning.clone();
        let request = CreateFullyProvisionedRequest { name: format!("Bella {number}"), ..bella() };
        calls.spawn(async move { client.create_fully_provisioned(request).await });
    }
    let (won, lost): (Vec<_>, Vec<_>) = calls.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 49));
    for refused in lost {
        let refused = refused.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "SLUG_TAKEN"));
    }
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

/// All that a sign-up with a request id writes to.
const TABLES: [&str; 6] = ["tenants", "segments", "packages", "api_keys", "owners", "idempotency_records"];

#[tokio::test]
async fn an_insert_that_fails_at_any_table_leaves_nothing_at_all() {
    for table in TABLES {
        let fixture = Fixture::start().await;
        let superuser = fixture.superuser_pool().await;
        let sabotage = format!(
            "CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'the disk of table {table} is on fire'; END $$;
             CREATE TRIGGER sabotage AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION sabotage()"
        );
        sqlx::raw_sql(AssertSqlSafe(sabotage)).execute(&superuser).await.unwrap();

        let failed = fixture.sign_up(sign_up()).await.unwrap_err();
        assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Internal, "INTERNAL"), "{table}");
        assert!(!format!("{failed:?}").contains("fire"), "the cause stays inside");
        assert!(failed.message().contains("trace id"), "{}", failed.message());
        for other in TABLES {
            assert_eq!(fixture.count(other).await, 0, "{other} after {table}");
        }

        let repaired = format!("DROP TRIGGER sabotage ON {table}");
        sqlx::raw_sql(AssertSqlSafe(repaired)).execute(&superuser).await.unwrap();
        assert!(!fixture.sign_up(sign_up()).await.unwrap().replayed, "neither slug nor request id was used up");
    }
}

#[tokio::test]
async fn validate_only_answers_as_it_would_and_writes_nothing() {
    let fixture = Fixture::start().await;
    let dry = CreateFullyProvisionedRequest { validate_only: true, ..bella() };
    let answer = fixture.create(dry.clone()).await.unwrap();
    assert_eq!(fixture.row_counts().await, [0, 0, 0, 0]);

    let real = fixture.create(bella()).await.unwrap();
    assert_eq!(answer, clear_generated_fields(real));

    let taken = fixture.create(dry.clone()).await.unwrap_err();
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "SLUG_TAKEN"));
    let bad = CreateFullyProvisionedRequest { name: String::new(), ..dry };
    assert_eq!(fixture.create(bad).await.unwrap_err().code(), Code::InvalidArgument);
}

pub fn clear_generated_fields(mut answer: CreateFullyProvisionedResponse) -> CreateFullyProvisionedResponse {
    answer.secret_key.clear();
    let tenant = answer.tenant.as_mut().unwrap();
    tenant.id.clear();
    tenant.api_key_public.clear();
    (tenant.created_at, tenant.updated_at) = (None, None);
    let segment = answer.segment.as_mut().unwrap();
    segment.id.clear();
    segment.tenant_id.clear();
    (segment.created_at, segment.updated_at) = (None, None);
    for package in &mut answer.packages {
        package.id.clear();
        package.tenant_id.clear();
        package.segment_id.clear();
        (package.created_at, package.updated_at) = (None, None);
    }
    answer
}
