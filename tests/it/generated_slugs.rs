//! Slugs of packages and segments without one, where many others have the same name.

use turnkey::grpc::pb::{BatchUpsertPackagesRequest, PackageUpsert, UpsertSegmentRequest};

use crate::support::{
    fixture::{Fixture, NewTenant},
    requests::gold,
};

/// Inserts packages with these slugs.
async fn insert_packages(fixture: &Fixture, slugs: &[&str]) {
    let slugs = slugs.iter().map(|slug| format!("('{slug}')")).collect::<Vec<_>>().join(", ");
    let insert = format!(
        "INSERT INTO packages
         SELECT tenant_id, gen_random_uuid(), segment_id, new.slug, 'Gold', '', 0, 'DATE', 9, true, now(), now()
           FROM packages, (VALUES {slugs}) AS new (slug) WHERE packages.slug = 'basic-package'"
    );
    fixture.database.execute(insert).await;
}

/// Inserts packages with the slugs gold-`from` to gold-`to`.
async fn insert_numbered(fixture: &Fixture, from: u32, to: u32) {
    let insert = format!(
        "INSERT INTO packages
         SELECT tenant_id, gen_random_uuid(), segment_id, 'gold-' || n, 'Gold', '', 0, 'DATE', 9, true, now(), now()
           FROM packages, generate_series({from}, {to}) AS n WHERE slug = 'basic-package'"
    );
    fixture.database.execute(insert).await;
}

async fn new_slug(fixture: &Fixture, tenant: &NewTenant) -> String {
    fixture.upsert_package(gold(tenant)).await.unwrap().package.unwrap().slug
}

async fn batch_slugs(fixture: &Fixture, tenant: &NewTenant, names: &[&str]) -> Vec<String> {
    let package =
        |name: &&str| PackageUpsert { name: Some((*name).to_owned()), base_price: Some(1), ..Default::default() };
    let request =
        BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages: names.iter().map(package).collect() };
    let results = fixture.catalog.clone().batch_upsert_packages(request).await.unwrap().into_inner().results;
    results.into_iter().map(|result| result.package.unwrap().slug).collect()
}

#[tokio::test]
async fn the_next_number_is_found_however_many_slugs_exist() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let mut existing = 1;
    for (count, expected) in
        [(1, "gold"), (2, "gold-2"), (9, "gold-9"), (10, "gold-10"), (100, "gold-100"), (777, "gold-777")]
    {
        if count > existing {
            insert_numbered(&fixture, existing.max(2), count - 1).await;
        }
        assert_eq!(new_slug(&fixture, &tenant).await, expected);
        existing = count + 1;
    }
}

#[tokio::test]
async fn a_gap_up_to_9_is_filled_and_beyond_it_a_free_number_follows_a_used_one() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    insert_packages(&fixture, &["gold", "gold-2", "gold-3", "gold-5", "gold-7"]).await;
    assert_eq!(batch_slugs(&fixture, &tenant, &["Gold", "Gold", "Gold"]).await, ["gold-4", "gold-6", "gold-8"]);
    insert_packages(&fixture, &["gold-9", "gold-10", "gold-11", "gold-13"]).await;
    assert_eq!(new_slug(&fixture, &tenant).await, "gold-12");
}

#[tokio::test]
async fn a_number_is_found_also_where_the_last_of_every_length_is_used() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    insert_packages(&fixture, &["gold"]).await;
    insert_numbered(&fixture, 2, 9).await;
    let last = |digits: usize| format!("gold-{}", "9".repeat(digits));
    let lasts: Vec<String> = (2..=9).map(last).collect();
    insert_packages(&fixture, &lasts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(new_slug(&fixture, &tenant).await, "gold-1000000000");
    assert_eq!(batch_slugs(&fixture, &tenant, &["Gold", "Gold"]).await, ["gold-1000000001", "gold-1000000002"]);
}

#[tokio::test]
async fn five_hundred_items_with_one_name_get_consecutive_numbers_around_existing_and_requested_ones() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    insert_packages(&fixture, &["gold", "gold-5", "gold-50"]).await;
    let slugs = batch_slugs(&fixture, &tenant, &["Gold"; 500]).await;
    let expected: Vec<String> =
        (2..).filter(|number| ![5, 50].contains(number)).take(500).map(|number| format!("gold-{number}")).collect();
    assert_eq!(slugs, expected);
}

#[tokio::test]
async fn long_names_that_differ_only_where_they_are_truncated_get_different_numbers() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let word = "a".repeat(56);
    let names: Vec<String> = (0..100).map(|number| format!("{word} {number:06}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = batch_slugs(&fixture, &tenant, &names).await;
    assert_eq!(first[7], format!("{word}-000007"));
    let second = batch_slugs(&fixture, &tenant, &names).await;
    assert_eq!((&second[0], &second[99]), (&format!("{word}-2"), &format!("{word}-101")));
}

#[tokio::test]
async fn numbers_of_segments_are_found_in_the_same_way() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let insert = "INSERT INTO segments
                  SELECT tenant_id, gen_random_uuid(), CASE n WHEN 1 THEN 'gold' ELSE 'gold-' || n END, 'Gold', 'Gold', '',
                         5, true, now(), now()
                    FROM segments, generate_series(1, 45) AS n WHERE slug = 'general'";
    fixture.database.execute(insert).await;
    let request = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Gold".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    assert_eq!(fixture.upsert_segment(request).await.unwrap().segment.unwrap().slug, "gold-46");
}
