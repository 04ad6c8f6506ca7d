//! `BatchUpsertPackages`: all items or none.

use tonic::{Code, Status};
use turnkey::grpc::pb::{BatchUpsertPackagesRequest, BatchUpsertPackagesResult, PackageUpsert, UpsertAction};

use crate::support::{
    fixture::{Fixture, NewTenant},
    responses::{reason, violations},
};

fn named(name: &str) -> PackageUpsert {
    PackageUpsert { name: Some(name.to_owned()), base_price: Some(100), ..PackageUpsert::default() }
}

fn with_slug(slug: &str) -> PackageUpsert {
    PackageUpsert { slug: Some(slug.to_owned()), ..named("Gold") }
}

async fn batch_upsert(
    fixture: &Fixture,
    tenant: &NewTenant,
    packages: Vec<PackageUpsert>,
) -> Result<Vec<BatchUpsertPackagesResult>, Status> {
    let request = BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages };
    Ok(fixture.catalog.clone().batch_upsert_packages(request).await?.into_inner().results)
}

#[tokio::test]
async fn results_and_generated_slugs_and_positions_are_in_the_order_of_the_items() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let results = batch_upsert(
        &fixture,
        &tenant,
        vec![
            named("Gold"),
            with_slug("basic-package"),
            named("Gold"),
            PackageUpsert {
                package_id: Some(tenant.package_ids[1].clone()),
                active: Some(false),
                ..PackageUpsert::default()
            },
            with_slug("gold-2"),
            named("Gold"),
        ],
    )
    .await
    .unwrap();
    let shown: Vec<(UpsertAction, &str, i32)> = results
        .iter()
        .map(|result| {
            let package = result.package.as_ref().unwrap();
            (result.action(), package.slug.as_str(), package.grouping_order)
        })
        .collect();
    assert_eq!(
        shown,
        [
            (UpsertAction::Created, "gold", 4),
            (UpsertAction::Updated, "basic-package", 1),
            (UpsertAction::Created, "gold-3", 5),
            (UpsertAction::Updated, "standard-package", 2),
            (UpsertAction::Created, "gold-2", 6),
            (UpsertAction::Created, "gold-4", 7),
        ]
    );
}

#[tokio::test]
async fn a_batch_of_packages_has_between_1_and_500_items() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let results = batch_upsert(&fixture, &tenant, (0..500).map(|_| named("Gold")).collect()).await.unwrap();
    assert_eq!(results.len(), 500);
    assert_eq!(results[499].package.as_ref().unwrap().slug, "gold-500");
    assert_eq!(fixture.count("packages").await, 503);

    let too_many = batch_upsert(&fixture, &tenant, (0..501).map(|_| named("Gold")).collect()).await.unwrap_err();
    assert_eq!(violations(&too_many), [("packages".to_owned(), "TOO_LONG".to_owned())]);
    let none = batch_upsert(&fixture, &tenant, Vec::new()).await.unwrap_err();
    assert_eq!(violations(&none), [("packages".to_owned(), "MISSING_FIELD".to_owned())]);
}

#[tokio::test]
async fn one_invalid_item_prevents_all_changes_of_the_batch() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let unknown = uuid::Uuid::new_v4().to_string();
    let by_unknown_id = PackageUpsert { package_id: Some(unknown.clone()), ..named("Gold") };
    let in_unknown_segment = PackageUpsert { segment_id: Some(unknown), ..named("Gold") };
    let renamed = PackageUpsert {
        package_id: Some(tenant.package_ids[0].clone()),
        slug: Some("premium-package".to_owned()),
        ..PackageUpsert::default()
    };
    for (invalid, code, why) in [
        (by_unknown_id, Code::NotFound, "PACKAGE_NOT_FOUND"),
        (in_unknown_segment, Code::NotFound, "SEGMENT_NOT_FOUND"),
        (renamed, Code::AlreadyExists, "PACKAGE_SLUG_TAKEN"),
        (PackageUpsert { name: None, ..with_slug("silver") }, Code::InvalidArgument, "INVALID_REQUEST"),
    ] {
        let change = PackageUpsert { base_price: Some(5), ..with_slug("standard-package") };
        let error = batch_upsert(&fixture, &tenant, vec![named("Gold"), change, invalid]).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (code, why));
        assert_eq!(fixture.count("packages").await, 3);
        assert_eq!(fixture.package(&tenant, &tenant.package_ids[1]).await.unwrap().base_price, Some(0));
    }
}

#[tokio::test]
async fn an_item_that_only_validates_is_refused() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let validating = PackageUpsert { validate_only: Some(true), ..named("Gold") };
    let error = batch_upsert(&fixture, &tenant, vec![named("Gold"), validating]).await.unwrap_err();
    assert_eq!(violations(&error), [("packages[1].validate_only".to_owned(), "BAD_FORMAT".to_owned())]);
    assert_eq!(fixture.count("packages").await, 3);
}

#[tokio::test]
async fn violations_contain_the_index_of_their_item() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let invalid = vec![
        named("Gold"),
        PackageUpsert { base_price: Some(-1), ..named(" ") },
        PackageUpsert { slug: Some("Q".to_owned()), ..named("Gold") },
    ];
    let expected = [
        ("packages[1].name", "TOO_SHORT"),
        ("packages[1].base_price", "OUT_OF_RANGE"),
        ("packages[2].slug", "BAD_FORMAT"),
    ];
    assert_eq!(
        violations(&batch_upsert(&fixture, &tenant, invalid).await.unwrap_err()),
        expected.map(|(field, why)| (field.to_owned(), why.to_owned()))
    );

    let incomplete = vec![
        with_slug("basic-package"),
        PackageUpsert { name: None, base_price: None, ..with_slug("silver") },
        PackageUpsert { base_price: None, ..with_slug("bronze") },
    ];
    let expected = ["packages[1].name", "packages[1].base_price", "packages[2].base_price"];
    assert_eq!(
        violations(&batch_upsert(&fixture, &tenant, incomplete).await.unwrap_err()),
        expected.map(|field| (field.to_owned(), "MISSING_FIELD".to_owned()))
    );
}

#[tokio::test]
async fn two_items_for_the_same_package_are_rejected() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let by_id = PackageUpsert { package_id: Some(tenant.package_ids[0].clone()), ..PackageUpsert::default() };
    for (items, field) in [
        (vec![with_slug("gold"), with_slug("gold")], "packages[1].slug"),
        (vec![by_id.clone(), by_id.clone()], "packages[1].package_id"),
        (vec![by_id, with_slug("basic-package")], "packages[1].slug"),
    ] {
        let error = batch_upsert(&fixture, &tenant, items).await.unwrap_err();
        assert_eq!(violations(&error), [(field.to_owned(), "BAD_FORMAT".to_owned())]);
    }
}

#[tokio::test]
async fn the_error_of_500_invalid_items_is_small_enough_for_clients() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let invalid = PackageUpsert { slug: Some("Q".to_owned()), base_price: Some(-1), ..PackageUpsert::default() };
    let error = batch_upsert(&fixture, &tenant, vec![invalid; 500]).await.unwrap_err();
    let violations = violations(&error);
    assert_eq!((error.code(), violations.last().unwrap().0.as_str()), (Code::InvalidArgument, "…"));
    let (count, bytes) = (violations.len(), error.details().len());
    assert!(count <= 50 && bytes <= 6 * 1024, "{count} violations, {bytes} bytes");
}

/// 500 updates of packages with the longest texts: a request of 30 KB and a response of 4.5 MB.
#[tokio::test]
async fn a_batch_whose_response_would_exceed_4_mib_is_refused_and_changes_nothing() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let large = "INSERT INTO packages
                 SELECT tenant_id, gen_random_uuid(), segment_id, 'large-' || n, repeat('𝄞', 200), repeat('𝄞', 2000), 0,
                        'DATE', n, true, now(), now()
                   FROM packages, generate_series(1, 500) AS n WHERE slug = 'basic-package'";
    fixture.database.execute(large).await;
    let update = |number: i32| PackageUpsert {
        slug: Some(format!("large-{number}")),
        base_price: Some(7),
        ..PackageUpsert::default()
    };
    let mut items = vec![named("New")];
    items.extend((1..500).map(update));
    let error = batch_upsert(&fixture, &tenant, items).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(violations(&error), [("packages".to_owned(), "TOO_LONG".to_owned())]);
    assert_eq!(fixture.count("packages").await, 503);
    assert_eq!(fixture.count("packages WHERE base_price = 7").await, 0);

    // Half of it fits.
    assert_eq!(batch_upsert(&fixture, &tenant, (1..=250).map(update).collect()).await.unwrap().len(), 250);
}
