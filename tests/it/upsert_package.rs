//! `UpsertPackage`: created once, changed by presence.

use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{
    BookingType, GetPackageRequest, Package, UpsertAction, UpsertPackageRequest, UpsertPackageResponse,
    UpsertSegmentRequest,
};

use crate::fixture::{Fixture, NewTenant, reason, violations};

/// A new package of this tenant's, by name.
pub fn gold(tenant: &NewTenant) -> UpsertPackageRequest {
    UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Gold".to_owned()),
        base_price: Some(100),
        ..UpsertPackageRequest::default()
    }
}

impl Fixture {
    pub async fn upsert(&self, request: UpsertPackageRequest) -> Result<UpsertPackageResponse, tonic::Status> {
        self.catalog.clone().upsert_package(request).await.map(tonic::Response::into_inner)
    }

    pub async fn package(&self, tenant: &NewTenant, package_id: &str) -> Result<Package, tonic::Status> {
        let request = GetPackageRequest { tenant_id: tenant.id.clone(), package_id: package_id.to_owned() };
        let reply = self.catalog.clone().get_package(request).await?;
        Ok(reply.into_inner().package.unwrap())
    }
}

#[tokio::test]
async fn a_new_package_gets_what_it_was_given_and_defaults_for_the_rest() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let made = fixture.upsert(gold(&tenant)).await.unwrap();
    assert_eq!(made.action(), UpsertAction::Created);
    let package = made.package.unwrap();
    assert_eq!((package.slug.as_str(), package.name.as_str(), package.description.as_str()), ("gold", "Gold", ""));
    assert_eq!((package.base_price, package.booking_type(), package.active), (Some(100), BookingType::Date, true));
    assert_eq!((package.grouping_order, package.segment_id.as_str()), (4, tenant.general_id.as_str()));
    assert_eq!(package.tenant_id, tenant.id);
    assert_eq!(fixture.package(&tenant, &package.id).await.unwrap(), package);
}

#[tokio::test]
async fn a_repeat_changes_nothing_and_answers_updated() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let request = UpsertPackageRequest { slug: Some("gold".to_owned()), active: Some(false), ..gold(&tenant) };
    let first = fixture.upsert(request.clone()).await.unwrap();
    let second = fixture.upsert(request).await.unwrap();
    assert_eq!((first.action(), second.action()), (UpsertAction::Created, UpsertAction::Updated));
    assert_eq!(first.package, second.package, "updated_at included");
}

#[tokio::test]
async fn two_at_once_for_one_new_slug_make_one_package() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let mut catalog = fixture.catalog.clone();
        let request = UpsertPackageRequest { slug: Some("gold".to_owned()), ..gold(&tenant) };
        calls.spawn(async move { catalog.upsert_package(request).await.unwrap().into_inner() });
    }
    let answers = calls.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.action() == UpsertAction::Created).count(), 1);
    assert!(answers.iter().all(|answer| answer.package == answers[0].package));
}

#[tokio::test]
async fn any_number_at_once_for_one_name_each_get_their_own_slug_and_place() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let mut calls = JoinSet::new();
    for _ in 0..30 {
        let mut catalog = fixture.catalog.clone();
        let request = UpsertPackageRequest { name: Some("Ömer's Café".to_owned()), ..gold(&tenant) };
        calls.spawn(async move { catalog.upsert_package(request).await.unwrap().into_inner().package.unwrap() });
    }
    let mut packages = calls.join_all().await;
    packages.sort_by_key(|package| package.grouping_order);
    let orders: Vec<i32> = packages.iter().map(|package| package.grouping_order).collect();
    assert_eq!(orders, (4..34).collect::<Vec<_>>());
    let slugs: Vec<&str> = packages.iter().map(|package| package.slug.as_str()).collect();
    assert_eq!(slugs[..3], ["omers-cafe", "omers-cafe-2", "omers-cafe-3"]);
    assert_eq!(slugs[29], "omers-cafe-30");
}

#[tokio::test]
async fn slugs_from_names_follow_the_rule() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let slug_of = async |name: &str| {
        let request = UpsertPackageRequest { name: Some(name.to_owned()), ..gold(&tenant) };
        fixture.upsert(request).await.map(|made| made.package.unwrap().slug)
    };
    let long = "a".repeat(150);
    for (name, slug) in [
        ("Bella Weddings & Co. Photography", "bella-weddings-co-photography"),
        ("123 Go", "s-123-go"),
        ("Q", "q-2"),
        ("Q", "q-3"),
        ("🎂 Cake", "cake"),
        (long.as_str(), &long[..63]),
        (long.as_str(), &format!("{}-2", &long[..61])),
    ] {
        assert_eq!(slug_of(name).await.unwrap(), slug, "{name}");
    }
    let refused = slug_of("🎂").await.unwrap_err();
    assert_eq!(violations(&refused), [("name".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test]
async fn an_update_changes_present_fields_only_and_zero_values_are_values() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let before = fixture.package(&tenant, &tenant.package_ids[0]).await.unwrap();
    let update = |change: UpsertPackageRequest| UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(before.id.clone()),
        ..change
    };
    let blank = UpsertPackageRequest::default;

    let priced = fixture.upsert(update(UpsertPackageRequest { base_price: Some(9_900), ..blank() })).await.unwrap();
    assert_eq!(priced.action(), UpsertAction::Updated);
    let priced = priced.package.unwrap();
    assert!(
        priced.updated_at.unwrap().nanos != before.updated_at.unwrap().nanos || priced.updated_at != before.updated_at
    );
    assert_eq!(Package { base_price: Some(9_900), updated_at: priced.updated_at, ..before.clone() }, priced);

    let emptied = UpsertPackageRequest {
        base_price: Some(0),
        active: Some(false),
        description: Some(String::new()),
        grouping_order: Some(0),
        booking_type: BookingType::Timeslot.into(),
        ..blank()
    };
    let emptied = fixture.upsert(update(emptied)).await.unwrap().package.unwrap();
    assert_eq!((emptied.base_price, emptied.active, emptied.description.as_str()), (Some(0), false, ""));
    assert_eq!((emptied.grouping_order, emptied.booking_type()), (0, BookingType::Timeslot));
    assert_eq!(emptied.name, before.name);

    let nothing = fixture.upsert(update(blank())).await.unwrap().package.unwrap();
    assert_eq!(nothing, emptied, "a change of nothing moves nothing, updated_at included");
}

#[tokio::test]
async fn deprecated_names_are_accepted_and_the_new_ones_win() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    #[expect(deprecated, reason = "they are what is tested")]
    let old = UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        title: Some("Old Gold".to_owned()),
        price_cents: Some(7),
        ..UpsertPackageRequest::default()
    };
    let made = fixture.upsert(old.clone()).await.unwrap().package.unwrap();
    assert_eq!((made.name.as_str(), made.slug.as_str(), made.base_price), ("Old Gold", "old-gold", Some(7)));
    let both = UpsertPackageRequest { name: Some("New".to_owned()), base_price: Some(0), ..old.clone() };
    let made = fixture.upsert(both).await.unwrap().package.unwrap();
    assert_eq!((made.name.as_str(), made.base_price), ("New", Some(0)));
    #[expect(deprecated, reason = "they are what is tested")]
    let bad = UpsertPackageRequest { title: Some(" ".to_owned()), price_cents: Some(-1), ..old };
    let refused = fixture.upsert(bad).await.unwrap_err();
    let expected = [("title", "TOO_SHORT"), ("price_cents", "OUT_OF_RANGE")];
    assert_eq!(violations(&refused), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
}

#[tokio::test]
async fn a_new_package_needs_a_name_and_a_price_and_both_are_said() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let missing = ["name", "base_price"].map(|field| (field.to_owned(), "MISSING_FIELD".to_owned()));
    for slug in [None, Some("gold".to_owned())] {
        let request = UpsertPackageRequest { tenant_id: tenant.id.clone(), slug, ..UpsertPackageRequest::default() };
        let refused = fixture.upsert(request).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert_eq!(violations(&refused), missing);
    }
    let nameless = UpsertPackageRequest { name: None, ..gold(&tenant) };
    assert_eq!(violations(&fixture.upsert(nameless).await.unwrap_err()), missing[..1]);
    let priceless = UpsertPackageRequest { base_price: None, ..gold(&tenant) };
    assert_eq!(violations(&fixture.upsert(priceless).await.unwrap_err()), missing[1..]);
    assert_eq!(fixture.count("packages").await, 3);
}

#[tokio::test]
async fn bad_values_are_all_said_at_once() {
    let fixture = Fixture::start().await;
    let refused = fixture
        .upsert(UpsertPackageRequest {
            tenant_id: "42".to_owned(),
            package_id: Some("x".to_owned()),
            slug: Some("Gold".to_owned()),
            name: Some("\u{7}".to_owned()),
            description: Some("d".repeat(2_001)),
            base_price: Some(1_000_000_000_001),
            booking_type: 7,
            segment_id: Some(String::new()),
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
        ("segment_id", "MISSING_FIELD"),
    ];
    assert_eq!(violations(&refused), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
}

#[tokio::test]
async fn a_rename_to_a_slug_that_is_taken_is_refused() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let rename = |slug: &str| UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(tenant.package_ids[0].clone()),
        slug: Some(slug.to_owned()),
        ..UpsertPackageRequest::default()
    };
    let refused = fixture.upsert(rename("premium-package")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "PACKAGE_SLUG_TAKEN"));
    let resource = refused.get_details_resource_info().unwrap();
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("turnkey.v1.Package", "premium-package")
    );
    assert_eq!(fixture.upsert(rename("starter")).await.unwrap().package.unwrap().slug, "starter");
    assert_eq!(fixture.upsert(rename("starter")).await.unwrap().action(), UpsertAction::Updated);
}

#[tokio::test]
async fn a_package_can_move_to_another_segment_of_its_tenant_and_to_no_other() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let segment = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    let segment_id = fixture.catalog.clone().upsert_segment(segment).await.unwrap().into_inner().segment.unwrap().id;
    let move_to = |segment_id: &str| UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(tenant.package_ids[0].clone()),
        segment_id: Some(segment_id.to_owned()),
        ..UpsertPackageRequest::default()
    };
    assert_eq!(fixture.upsert(move_to(&segment_id)).await.unwrap().package.unwrap().segment_id, segment_id);
    let untouched = UpsertPackageRequest { segment_id: None, ..move_to("") };
    assert_eq!(fixture.upsert(untouched).await.unwrap().package.unwrap().segment_id, segment_id, "it stays");

    for nowhere in [other.general_id, uuid::Uuid::new_v4().to_string()] {
        for request in [move_to(&nowhere), UpsertPackageRequest { segment_id: Some(nowhere.clone()), ..gold(&tenant) }]
        {
            let refused = fixture.upsert(request).await.unwrap_err();
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "SEGMENT_NOT_FOUND"));
            assert!(refused.message().contains("Use ListSegments to find available segments for this tenant."));
        }
    }
}

#[tokio::test]
async fn a_missing_general_segment_is_made_again_for_a_package_that_needs_it() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let damage = "SET session_replication_role = replica; DELETE FROM packages; DELETE FROM segments";
    crate::cluster::execute(&fixture.database.superuser, damage.to_owned()).await;
    let package = fixture.upsert(gold(&tenant)).await.unwrap().package.unwrap();
    let row: (String, String, String, String, i32) =
        sqlx::query_as("SELECT id::text, slug, name, hero_title || '|' || description, sort_order FROM segments")
            .fetch_one(&fixture.superuser_pool().await)
            .await
            .unwrap();
    let texts = "Our Services|Your main service offerings".to_owned();
    assert_eq!(row, (package.segment_id, "general".to_owned(), "General".to_owned(), texts, 0));
}
