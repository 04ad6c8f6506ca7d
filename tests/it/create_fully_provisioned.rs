//! `CreateFullyProvisioned`: a complete tenant with the documented defaults, or nothing.

use std::collections::BTreeMap;

use argon2::{Argon2, PasswordVerifier as _, password_hash::phc::PasswordHash};
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;
use tonic::Code;
use turnkey::grpc::pb::{BookingType, CreateFullyProvisionedRequest, get_tenant_request::Identifier};

use crate::support::{
    citus::can_have_triggers,
    fixture::{Fixture, ONE_TENANT},
    requests::{bella, named, signup_with_request_id},
    responses::{clear_generated_fields, reason, violations},
};

#[tokio::test]
async fn the_response_has_the_tenant_its_general_segment_and_three_packages() {
    let fixture = Fixture::start().await;
    let response = fixture.create(bella()).await.unwrap();

    let tenant = response.tenant.unwrap();
    assert_eq!((tenant.slug.as_str(), tenant.name.as_str()), ("bella-weddings", "Bella Weddings"));
    assert!((tenant.commission_percent - 10.0).abs() < f64::EPSILON);
    assert!(tenant.is_active && tenant.deleted_at.is_none() && tenant.owner_email.is_none());
    assert_eq!(tenant.branding.unwrap().fields.len(), 0);
    assert_eq!(tenant.created_at, tenant.updated_at);
    assert!(tenant.created_at.unwrap().seconds > 1_700_000_000);
    assert!(!response.replayed);

    let segment = response.segment.unwrap();
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
    assert_eq!(response.packages.len(), expected.len());
    for (package, (slug, name, description, order)) in response.packages.iter().zip(expected) {
        assert_eq!((package.slug.as_str(), package.name.as_str()), (slug, name));
        assert_eq!((package.description.as_str(), package.grouping_order), (description, order));
        assert_eq!((package.base_price, package.booking_type()), (Some(0), BookingType::Date));
        assert_eq!(
            (package.tenant_id.as_str(), package.segment_id.as_str()),
            (tenant.id.as_str(), segment.id.as_str())
        );
        assert!(package.active);
    }
    for id in [&tenant.id, &segment.id, &response.packages[0].id] {
        assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 7, "{id}");
        assert_eq!(id, &id.to_lowercase());
    }
}

#[tokio::test]
async fn the_stored_rows_are_those_of_the_response() {
    let fixture = Fixture::start().await;
    let response = fixture.create(bella()).await.unwrap();
    let tenant = response.tenant.clone().unwrap();
    assert_eq!(fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap(), tenant);

    let superuser = fixture.superuser_pool().await;
    let row: (String, String, String, String, i32, bool) = sqlx::query_as(
        "SELECT id::text, slug, name, hero_title || '|' || description, sort_order, active FROM segments",
    )
    .fetch_one(&superuser)
    .await
    .unwrap();
    let segment = response.segment.unwrap();
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
    let expected: Vec<String> = response
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
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn a_key_has_the_documented_format_and_its_secret_matches_the_stored_hash() {
    let fixture = Fixture::start().await;
    let response = fixture.create(bella()).await.unwrap();
    let public = response.tenant.unwrap().api_key_public;
    let key_id = public.strip_prefix("pk_live_bella_").unwrap();
    assert_eq!(key_id.len(), 16);
    let random = response.secret_key.strip_prefix(&format!("sk_live_bella_{key_id}_")).unwrap();
    assert_eq!(random.len(), 49);

    let (stored, stored_public_key): (String, String) =
        sqlx::query_as("SELECT secret_hash, public_key FROM api_keys WHERE key_id = $1")
            .bind(key_id)
            .fetch_one(&fixture.superuser_pool().await)
            .await
            .unwrap();
    assert_eq!(stored_public_key, public);
    assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{stored}");
    let hash = PasswordHash::new(&stored).unwrap();
    assert!(Argon2::default().verify_password(random.as_bytes(), &hash).is_ok());
    assert!(Argon2::default().verify_password(response.secret_key.as_bytes(), &hash).is_err());
}

#[tokio::test]
async fn commission_defaults_to_10_and_is_stored_exactly() {
    let fixture = Fixture::start().await;
    for (slug, commission_percent, expected) in [
        ("none", None, "10.00"),
        ("zero", Some(0.0), "0.00"),
        ("most", Some(100.0), "100.00"),
        ("two", Some(12.34), "12.34"),
    ] {
        let request = CreateFullyProvisionedRequest { commission_percent, ..named(slug) };
        let tenant = fixture.create(request).await.unwrap().tenant.unwrap();
        assert_eq!(format!("{:.2}", tenant.commission_percent), expected);
        let stored: String = sqlx::query_scalar("SELECT commission_percent::text FROM tenants WHERE slug = $1")
            .bind(slug)
            .fetch_one(&fixture.superuser_pool().await)
            .await
            .unwrap();
        assert_eq!(stored, expected);
    }
    for (percent, why) in
        [(-0.01, "OUT_OF_RANGE"), (100.01, "OUT_OF_RANGE"), (12.345, "BAD_FORMAT"), (f64::NAN, "BAD_FORMAT")]
    {
        let request = CreateFullyProvisionedRequest { commission_percent: Some(percent), ..named("five") };
        let error = fixture.create(request).await.unwrap_err();
        assert_eq!(violations(&error), [("commission_percent".to_owned(), why.to_owned())], "{percent}");
    }
}

#[tokio::test]
async fn an_invalid_slug_is_rejected_with_the_reason_of_its_rule() {
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
        let error = fixture.create(named(slug)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{slug}");
        assert_eq!(violations(&error), [("slug".to_owned(), why.to_owned())], "{slug}");
    }
    assert_eq!(fixture.row_counts().await, [0, 0, 0, 0]);
}

#[tokio::test]
async fn all_violations_of_a_create_request_are_reported_together() {
    let fixture = Fixture::start().await;
    let error = fixture
        .create(CreateFullyProvisionedRequest {
            slug: "Q".to_owned(),
            name: "  ".to_owned(),
            commission_percent: Some(101.0),
            request_id: Some("retry-1".to_owned()),
            validate_only: false,
            external_id: None,
            labels: BTreeMap::new(),
        })
        .await
        .unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let expected = [
        ("slug", "BAD_FORMAT"),
        ("name", "TOO_SHORT"),
        ("commission_percent", "OUT_OF_RANGE"),
        ("request_id", "BAD_FORMAT"),
    ];
    assert_eq!(violations(&error), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
}

#[tokio::test]
async fn the_name_of_a_created_tenant_is_trimmed() {
    let fixture = Fixture::start().await;
    let request = CreateFullyProvisionedRequest { name: " \u{a0}Ömer's Café 🎂\n".to_owned(), ..bella() };
    assert_eq!(fixture.create(request).await.unwrap().tenant.unwrap().name, "Ömer's Café 🎂");
}

#[tokio::test]
async fn an_existing_slug_is_already_exists_and_the_existing_tenant_does_not_change() {
    let fixture = Fixture::start().await;
    let first = fixture.create(bella()).await.unwrap().tenant.unwrap();
    let error = fixture.create(bella()).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "SLUG_TAKEN"));
    let resource = tonic_types::StatusExt::get_details_resource_info(&error).unwrap();
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("turnkey.v1.Tenant", "bella-weddings")
    );
    assert_eq!(fixture.get(Identifier::TenantId(first.id.clone())).await.unwrap(), first);
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

#[tokio::test]
async fn fifty_concurrent_calls_for_one_slug_create_one_complete_tenant() {
    let fixture = Fixture::start().await;
    let mut calls = JoinSet::new();
    for number in 0..50 {
        let mut client = fixture.provisioning.clone();
        let request = CreateFullyProvisionedRequest { name: format!("Bella {number}"), ..bella() };
        calls.spawn(async move { client.create_fully_provisioned(request).await });
    }
    let (won, lost): (Vec<_>, Vec<_>) = calls.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 49));
    for error in lost {
        let error = error.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "SLUG_TAKEN"));
    }
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
}

/// The tables that a sign-up with a request id writes to.
const TABLES: [&str; 8] =
    ["tenants", "segments", "packages", "api_keys", "owners", "idempotency_records", "tenant_usage", "events"];

#[tokio::test]
async fn a_failed_insert_into_any_table_rolls_back_all_tables() {
    for table in TABLES.into_iter().filter(|table| can_have_triggers(table)) {
        let fixture = Fixture::start().await;
        let superuser = fixture.superuser_pool().await;
        let fail_inserts = format!(
            "CREATE FUNCTION fail_insert() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'secret cause in table {table}'; END $$;
             CREATE TRIGGER fail_insert AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fail_insert()"
        );
        sqlx::raw_sql(AssertSqlSafe(fail_inserts)).execute(&superuser).await.unwrap();

        let error = fixture.sign_up(signup_with_request_id()).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::Internal, "INTERNAL"), "{table}");
        assert!(!format!("{error:?}").contains("secret cause"), "the cause must not reach the client");
        assert!(error.message().contains("trace id"), "{}", error.message());
        for other in TABLES {
            assert_eq!(fixture.count(other).await, 0, "{other} after {table}");
        }

        let drop_trigger = format!("DROP TRIGGER fail_insert ON {table}");
        sqlx::raw_sql(AssertSqlSafe(drop_trigger)).execute(&superuser).await.unwrap();
        assert!(
            !fixture.sign_up(signup_with_request_id()).await.unwrap().replayed,
            "neither the slug nor the request id is used up"
        );
    }
}

#[tokio::test]
async fn validate_only_returns_the_same_response_and_writes_nothing() {
    let fixture = Fixture::start().await;
    let dry_run = CreateFullyProvisionedRequest { validate_only: true, ..bella() };
    let response = fixture.create(dry_run.clone()).await.unwrap();
    assert_eq!(fixture.row_counts().await, [0, 0, 0, 0]);

    let real = fixture.create(bella()).await.unwrap();
    assert_eq!(response, clear_generated_fields(real));

    let error = fixture.create(dry_run.clone()).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "SLUG_TAKEN"));
    let invalid = CreateFullyProvisionedRequest { name: String::new(), ..dry_run };
    assert_eq!(fixture.create(invalid).await.unwrap_err().code(), Code::InvalidArgument);
}
