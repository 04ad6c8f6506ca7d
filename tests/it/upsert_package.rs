//! `UpsertPackage`: creates a package or changes its present fields.

use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;
use turnkey::{
    config::ServerSettings,
    domain::Quotas,
    grpc::pb::{BookingType, Package, UpsertAction, UpsertPackageRequest, UpsertSegmentRequest},
};

use crate::support::{
    citus::{fewer_on_citus, is_skipped_on_citus},
    damage::UNKNOWN_TENANT,
    fixture::{Fixture, settings},
    requests::gold,
    responses::{reason, violations},
};

#[tokio::test]
async fn a_new_package_gets_the_given_fields_and_defaults_for_the_others() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let created = fixture.upsert_package(gold(&tenant)).await.unwrap();
    assert_eq!(created.action(), UpsertAction::Created);
    let package = created.package.unwrap();
    assert_eq!((package.slug.as_str(), package.name.as_str(), package.description.as_str()), ("gold", "Gold", ""));
    assert_eq!((package.base_price, package.booking_type(), package.active), (Some(100), BookingType::Date, true));
    assert_eq!((package.grouping_order, package.segment_id.as_str()), (4, tenant.general_id.as_str()));
    assert_eq!(package.tenant_id, tenant.id);
    assert_eq!(fixture.package(&tenant, &package.id).await.unwrap(), package);
}

#[tokio::test]
async fn a_repeated_package_upsert_changes_nothing_and_returns_updated() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let request = UpsertPackageRequest { slug: Some("gold".to_owned()), active: Some(false), ..gold(&tenant) };
    let first = fixture.upsert_package(request.clone()).await.unwrap();
    let second = fixture.upsert_package(request).await.unwrap();
    assert_eq!((first.action(), second.action()), (UpsertAction::Created, UpsertAction::Updated));
    assert_eq!(first.package, second.package, "updated_at included");
}

#[tokio::test]
async fn twenty_concurrent_upserts_of_one_new_slug_create_one_package() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let mut catalog = fixture.catalog.clone();
        let request = UpsertPackageRequest { slug: Some("gold".to_owned()), ..gold(&tenant) };
        calls.spawn(async move { catalog.upsert_package(request).await.unwrap().into_inner() });
    }
    let responses = calls.join_all().await;
    assert_eq!(responses.iter().filter(|response| response.action() == UpsertAction::Created).count(), 1);
    assert!(responses.iter().all(|response| response.package == responses[0].package));
}

#[tokio::test]
async fn concurrent_package_upserts_with_the_same_name_get_different_slugs_and_positions() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let (mut calls, count) = (JoinSet::new(), fewer_on_citus(30));
    for _ in 0..count {
        let mut catalog = fixture.catalog.clone();
        let request = UpsertPackageRequest { name: Some("Ömer's Café".to_owned()), ..gold(&tenant) };
        calls.spawn(async move { catalog.upsert_package(request).await.unwrap().into_inner().package.unwrap() });
    }
    let mut packages = calls.join_all().await;
    packages.sort_by_key(|package| package.grouping_order);
    let orders: Vec<i32> = packages.iter().map(|package| package.grouping_order).collect();
    assert_eq!(orders, (4..).take(count).collect::<Vec<_>>());
    let slugs: Vec<&str> = packages.iter().map(|package| package.slug.as_str()).collect();
    assert_eq!(slugs[..3], ["omers-cafe", "omers-cafe-2", "omers-cafe-3"]);
    assert_eq!(slugs[count - 1], format!("omers-cafe-{count}"));
}

#[tokio::test]
async fn a_package_slug_is_derived_from_the_name_by_the_documented_rule() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let slug_from = async |name: &str| {
        let request = UpsertPackageRequest { name: Some(name.to_owned()), ..gold(&tenant) };
        fixture.upsert_package(request).await.map(|created| created.package.unwrap().slug)
    };
    let long = "a".repeat(150);
    for (name, slug) in [
        ("Bella Weddings & Co. Photography", "bella-weddings-co-photography"),
        ("123 Go", "s-123-go"),
        ("Q", "q-2"),
        ("Q", "q-3"),
        ("🎂 Cake", "cake"),
        ("Gəncə", "gence"),
        (long.as_str(), &long[..63]),
        (long.as_str(), &format!("{}-2", &long[..61])),
    ] {
        assert_eq!(slug_from(name).await.unwrap(), slug, "{name}");
    }
    let error = slug_from("🎂").await.unwrap_err();
    assert_eq!(violations(&error), [("name".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test]
async fn a_package_update_changes_only_present_fields_and_zero_is_a_value() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let before = fixture.package(&tenant, &tenant.package_ids[0]).await.unwrap();
    let update = |change: UpsertPackageRequest| UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(before.id.clone()),
        ..change
    };
    let blank = UpsertPackageRequest::default;

    let priced =
        fixture.upsert_package(update(UpsertPackageRequest { base_price: Some(9_900), ..blank() })).await.unwrap();
    assert_eq!(priced.action(), UpsertAction::Updated);
    let priced = priced.package.unwrap();
    assert!(
        priced.updated_at.unwrap().nanos != before.updated_at.unwrap().nanos || priced.updated_at != before.updated_at
    );
    assert_eq!(
        Package { base_price: Some(9_900), updated_at: priced.updated_at, etag: priced.etag.clone(), ..before.clone() },
        priced
    );

    let emptied = UpsertPackageRequest {
        base_price: Some(0),
        active: Some(false),
        description: Some(String::new()),
        grouping_order: Some(0),
        booking_type: BookingType::Timeslot.into(),
        ..blank()
    };
    let emptied = fixture.upsert_package(update(emptied)).await.unwrap().package.unwrap();
    assert_eq!((emptied.base_price, emptied.active, emptied.description.as_str()), (Some(0), false, ""));
    assert_eq!((emptied.grouping_order, emptied.booking_type()), (0, BookingType::Timeslot));
    assert_eq!(emptied.name, before.name);

    let nothing = fixture.upsert_package(update(blank())).await.unwrap().package.unwrap();
    assert_eq!(nothing, emptied, "an update without fields changes nothing, updated_at included");
}

#[tokio::test]
async fn deprecated_field_names_are_accepted_and_the_new_names_take_precedence() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    #[expect(deprecated, reason = "the test is about the deprecated fields")]
    let old = UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        title: Some("Old Gold".to_owned()),
        price_cents: Some(7),
        ..UpsertPackageRequest::default()
    };
    let created = fixture.upsert_package(old.clone()).await.unwrap().package.unwrap();
    assert_eq!((created.name.as_str(), created.slug.as_str(), created.base_price), ("Old Gold", "old-gold", Some(7)));
    let both = UpsertPackageRequest { name: Some("New".to_owned()), base_price: Some(0), ..old.clone() };
    let created = fixture.upsert_package(both).await.unwrap().package.unwrap();
    assert_eq!((created.name.as_str(), created.base_price), ("New", Some(0)));
    #[expect(deprecated, reason = "the test is about the deprecated fields")]
    let invalid = UpsertPackageRequest { title: Some(" ".to_owned()), price_cents: Some(-1), ..old };
    let error = fixture.upsert_package(invalid).await.unwrap_err();
    let expected = [("title", "TOO_SHORT"), ("price_cents", "OUT_OF_RANGE")];
    assert_eq!(violations(&error), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
}

#[tokio::test]
async fn an_empty_text_that_identifies_or_names_a_package_counts_as_absent() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let empty = || Some(String::new());
    #[expect(deprecated, reason = "agents send the deprecated title, and every field")]
    let request = |title: &str| UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: empty(),
        slug: empty(),
        name: empty(),
        title: Some(title.to_owned()),
        base_price: Some(100),
        segment_id: empty(),
        ..UpsertPackageRequest::default()
    };
    let created = fixture.upsert_package(request("Elopement")).await.unwrap().package.unwrap();
    assert_eq!((created.slug.as_str(), created.name.as_str()), ("elopement", "Elopement"));
    assert_eq!(created.segment_id, tenant.general_id);

    let update = UpsertPackageRequest { package_id: Some(created.id.clone()), ..request("") };
    assert_eq!(fixture.upsert_package(update).await.unwrap().package.unwrap(), created);
    let error = fixture.upsert_package(request("")).await.unwrap_err();
    assert_eq!(violations(&error), [("name".to_owned(), "MISSING_FIELD".to_owned())]);
}

#[tokio::test]
async fn a_name_of_a_package_is_visible_and_the_line_breaks_of_its_description_are_newlines() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    for name in ["\u{200b}", "\u{3164}", "\u{2800}"] {
        let request =
            UpsertPackageRequest { slug: Some("gold".to_owned()), name: Some(name.to_owned()), ..gold(&tenant) };
        let error = fixture.upsert_package(request).await.unwrap_err();
        assert_eq!(violations(&error), [("name".to_owned(), "BAD_FORMAT".to_owned())]);
    }
    let request = UpsertPackageRequest { description: Some("One\r\ntwo\rthree\n".to_owned()), ..gold(&tenant) };
    let package = fixture.upsert_package(request).await.unwrap().package.unwrap();
    assert_eq!(package.description, "One\ntwo\nthree\n");
}

#[tokio::test]
async fn a_package_slug_with_a_number_ends_with_a_whole_word_before_it() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let name = "Intimate Elopement Ceremony With Photography And Champagne Toas";
    let request = || UpsertPackageRequest { name: Some(name.to_owned()), ..gold(&tenant) };
    for slug in [
        "intimate-elopement-ceremony-with-photography-and-champagne-toas",
        "intimate-elopement-ceremony-with-photography-and-champagne-2",
        "intimate-elopement-ceremony-with-photography-and-champagne-3",
    ] {
        assert_eq!(fixture.upsert_package(request()).await.unwrap().package.unwrap().slug, slug);
    }
}

#[tokio::test]
async fn a_new_package_without_name_and_price_gets_both_violations() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let missing = ["name", "base_price"].map(|field| (field.to_owned(), "MISSING_FIELD".to_owned()));
    for slug in [None, Some("gold".to_owned())] {
        let request = UpsertPackageRequest { tenant_id: tenant.id.clone(), slug, ..UpsertPackageRequest::default() };
        let error = fixture.upsert_package(request).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert_eq!(violations(&error), missing);
    }
    let nameless = UpsertPackageRequest { name: None, ..gold(&tenant) };
    assert_eq!(violations(&fixture.upsert_package(nameless).await.unwrap_err()), missing[..1]);
    let priceless = UpsertPackageRequest { base_price: None, ..gold(&tenant) };
    assert_eq!(violations(&fixture.upsert_package(priceless).await.unwrap_err()), missing[1..]);
    assert_eq!(fixture.count("packages").await, 3);
}

#[tokio::test]
async fn all_violations_of_a_package_upsert_are_reported_together() {
    let fixture = Fixture::start().await;
    let error = fixture
        .upsert_package(UpsertPackageRequest {
            tenant_id: "42".to_owned(),
            package_id: Some("x".to_owned()),
            slug: Some("Gold".to_owned()),
            name: Some("\u{7}".to_owned()),
            description: Some("d".repeat(2_001)),
            base_price: Some(1_000_000_000_001),
            booking_type: 7,
            segment_id: Some("x".to_owned()),
            ..UpsertPackageRequest::default()
        })
        .await
        .unwrap_err();
    let expected = [
        ("tenant_id", "BAD_FORMAT"),
        ("package_id", "BAD_FORMAT"),
        ("slug", "BAD_FORMAT"),
        ("name", "BAD_FORMAT"),
        ("description", "TOO_LONG"),
        ("base_price", "OUT_OF_RANGE"),
        ("booking_type", "BAD_FORMAT"),
        ("segment_id", "BAD_FORMAT"),
    ];
    assert_eq!(violations(&error), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
}

#[tokio::test]
async fn renaming_a_package_to_an_existing_slug_is_already_exists() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let rename = |slug: &str| UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(tenant.package_ids[0].clone()),
        slug: Some(slug.to_owned()),
        ..UpsertPackageRequest::default()
    };
    let error = fixture.upsert_package(rename("premium-package")).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "PACKAGE_SLUG_TAKEN"));
    let resource = error.get_details_resource_info().unwrap();
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("turnkey.v1.Package", "premium-package")
    );
    assert_eq!(fixture.upsert_package(rename("starter")).await.unwrap().package.unwrap().slug, "starter");
    assert_eq!(fixture.upsert_package(rename("starter")).await.unwrap().action(), UpsertAction::Updated);
}

#[tokio::test]
async fn a_package_can_be_moved_to_another_segment_of_its_own_tenant_only() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let segment = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    let segment_id = fixture.upsert_segment(segment).await.unwrap().segment.unwrap().id;
    let move_to = |segment_id: &str| UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(tenant.package_ids[0].clone()),
        segment_id: Some(segment_id.to_owned()),
        ..UpsertPackageRequest::default()
    };
    assert_eq!(fixture.upsert_package(move_to(&segment_id)).await.unwrap().package.unwrap().segment_id, segment_id);
    let untouched = UpsertPackageRequest { segment_id: None, ..move_to("") };
    assert_eq!(
        fixture.upsert_package(untouched).await.unwrap().package.unwrap().segment_id,
        segment_id,
        "the segment does not change"
    );

    for unknown_segment in [other.general_id, uuid::Uuid::new_v4().to_string()] {
        for request in [
            move_to(&unknown_segment),
            UpsertPackageRequest { segment_id: Some(unknown_segment.clone()), ..gold(&tenant) },
        ] {
            let error = fixture.upsert_package(request).await.unwrap_err();
            assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "SEGMENT_NOT_FOUND"));
            assert!(error.message().contains("Use ListSegments to find available segments for this tenant."));
        }
    }
}

#[tokio::test]
async fn a_missing_general_segment_is_created_again_for_a_new_package() {
    if is_skipped_on_citus("triggers cannot be turned off on the workers from here") {
        return;
    }
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    fixture.database.execute_without_triggers("DELETE FROM packages; DELETE FROM segments").await;
    let package = fixture.upsert_package(gold(&tenant)).await.unwrap().package.unwrap();
    let row: (String, String, String, String, i32) =
        sqlx::query_as("SELECT id::text, slug, name, hero_title || '|' || description, sort_order FROM segments")
            .fetch_one(&fixture.superuser_pool().await)
            .await
            .unwrap();
    let texts = "Our Services|Your main service offerings".to_owned();
    assert_eq!(row, (package.segment_id, "general".to_owned(), "General".to_owned(), texts, 0));
}

#[tokio::test]
async fn the_response_of_an_update_has_the_package_before_it_and_that_of_a_create_has_none() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let created = fixture.upsert_package(gold(&tenant)).await.unwrap();
    assert_eq!(created.previous, None);
    let before = created.package.unwrap();
    let update = |base_price: i64| UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        slug: Some("gold".to_owned()),
        base_price: Some(base_price),
        ..UpsertPackageRequest::default()
    };
    let updated = fixture.upsert_package(update(9_900)).await.unwrap();
    assert_eq!((updated.previous.as_ref(), updated.package.as_ref().unwrap().base_price), (Some(&before), Some(9_900)));
    let unchanged = fixture.upsert_package(update(9_900)).await.unwrap();
    assert_eq!((&unchanged.previous, &unchanged.package), (&updated.package, &updated.package));
}

#[tokio::test]
async fn validate_only_returns_the_same_response_and_writes_nothing() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let dry_run = |request: UpsertPackageRequest| UpsertPackageRequest { validate_only: Some(true), ..request };
    let update = UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(tenant.package_ids[0].clone()),
        slug: Some("starter".to_owned()),
        base_price: Some(9_900),
        ..UpsertPackageRequest::default()
    };
    let with_slug = UpsertPackageRequest { slug: Some("silver".to_owned()), ..gold(&tenant) };
    for request in [gold(&tenant), with_slug, update] {
        let validated = fixture.upsert_package(dry_run(request.clone())).await.unwrap();
        let again = fixture.upsert_package(dry_run(request.clone())).await.unwrap();
        assert_eq!(validated.action(), again.action(), "the first has written nothing");

        let mut real = fixture.upsert_package(request).await.unwrap();
        let (validated_package, package) = (validated.package.clone().unwrap(), real.package.as_mut().unwrap());
        package.etag.clear();
        if validated.action() == UpsertAction::Created {
            package.id.clear();
            (package.created_at, package.updated_at) = (None, None);
        } else {
            package.updated_at = validated_package.updated_at;
        }
        assert_eq!(validated, real);
    }
    assert_eq!(fixture.count("packages").await, 5);
    assert_eq!(fixture.check_integrity(Some(&tenant.id)).await.unwrap(), [], "the counters, too, are right");
}

#[tokio::test]
async fn validate_only_reports_the_errors_of_a_real_call() {
    let quotas = Quotas { packages: 4.try_into().unwrap(), ..Quotas::DEFAULT };
    let fixture = Fixture::with_settings(ServerSettings { quotas, ..settings() }).await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let by_id = |package_id: &str| UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(package_id.to_owned()),
        ..UpsertPackageRequest::default()
    };
    let own = &tenant.package_ids[0];
    let invalid = [
        UpsertPackageRequest { base_price: None, ..gold(&tenant) },
        UpsertPackageRequest { tenant_id: UNKNOWN_TENANT.to_owned(), ..gold(&tenant) },
        by_id(&other.package_ids[0]),
        UpsertPackageRequest { segment_id: Some(other.general_id.clone()), ..by_id(own) },
        UpsertPackageRequest { slug: Some("premium-package".to_owned()), ..by_id(own) },
    ];
    for request in invalid {
        let validated = fixture.upsert_package(UpsertPackageRequest { validate_only: Some(true), ..request.clone() });
        let (validated, real) = (validated.await.unwrap_err(), fixture.upsert_package(request).await.unwrap_err());
        assert_eq!(
            (validated.code(), validated.message(), validated.details()),
            (real.code(), real.message(), real.details())
        );
    }
    fixture.upsert_package(gold(&tenant)).await.unwrap();
    let beyond_quota = UpsertPackageRequest { validate_only: Some(true), ..gold(&tenant) };
    assert_eq!(reason(&fixture.upsert_package(beyond_quota).await.unwrap_err()), "QUOTA_EXCEEDED");
}
