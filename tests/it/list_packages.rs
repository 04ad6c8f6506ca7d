//! `ListPackages`: stable pages, filters, and page tokens that are bound to them.

use tonic::Status;
use turnkey::grpc::pb::{
    ListPackagesRequest, ListPackagesResponse, ListSegmentsRequest, UpsertPackageRequest, UpsertSegmentRequest,
};

use crate::support::{
    fixture::{Fixture, NewTenant},
    requests::{gold, with_last_char_changed},
    responses::violations,
};

fn page(tenant: &NewTenant, page_size: i32) -> ListPackagesRequest {
    ListPackagesRequest { tenant_id: tenant.id.clone(), page_size, ..ListPackagesRequest::default() }
}

async fn list(fixture: &Fixture, request: ListPackagesRequest) -> Result<ListPackagesResponse, Status> {
    fixture.catalog.clone().list_packages(request).await.map(tonic::Response::into_inner)
}

async fn add(fixture: &Fixture, tenant: &NewTenant, name: &str, grouping_order: i32) -> String {
    let request =
        UpsertPackageRequest { name: Some(name.to_owned()), grouping_order: Some(grouping_order), ..gold(tenant) };
    fixture.upsert_package(request).await.unwrap().package.unwrap().id
}

fn slugs(page: &ListPackagesResponse) -> Vec<&str> {
    page.packages.iter().map(|package| package.slug.as_str()).collect()
}

/// Postgres writes such a time without a fraction.
#[tokio::test]
async fn a_time_of_a_whole_second_is_read_as_every_other() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    for table in ["segments", "packages"] {
        let times = "created_at = '2024-01-01 00:00:01+00', updated_at = '1999-12-31 23:59:59.5+00'";
        fixture.database.execute(format!("UPDATE {table} SET {times}")).await;
    }
    let packages = list(&fixture, page(&tenant, 0)).await.unwrap().packages;
    let segments = ListSegmentsRequest { tenant_id: tenant.id.clone(), ..ListSegmentsRequest::default() };
    let segments = fixture.catalog.clone().list_segments(segments).await.unwrap().into_inner().segments;
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let expected = (time(1_704_067_201, 0), time(946_684_799, 500_000_000));
    assert_eq!(packages.iter().map(|it| (it.created_at, it.updated_at)).collect::<Vec<_>>(), [expected; 3]);
    assert_eq!(segments.iter().map(|it| (it.created_at, it.updated_at)).collect::<Vec<_>>(), [expected]);
    assert_eq!(fixture.package(&tenant, &tenant.package_ids[0]).await.unwrap().created_at, expected.0);
}

#[tokio::test]
async fn packages_are_listed_by_grouping_order_and_id_across_pages() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    add(&fixture, &tenant, "First", -7).await;
    add(&fixture, &tenant, "Same", 2).await;
    let all = list(&fixture, page(&tenant, 0)).await.unwrap();
    assert_eq!(slugs(&all), ["first", "basic-package", "standard-package", "same", "premium-package"]);
    assert_eq!(all.next_page_token, "");

    let mut paged = Vec::new();
    let mut request = page(&tenant, 2);
    loop {
        let response = list(&fixture, request.clone()).await.unwrap();
        paged.extend(response.packages);
        if response.next_page_token.is_empty() {
            break;
        }
        request.page_token = response.next_page_token;
    }
    assert_eq!(paged, all.packages);
    assert_eq!(
        list(&fixture, page(&tenant, 5)).await.unwrap().next_page_token,
        "",
        "a page that is exactly full is the last"
    );
}

#[tokio::test]
async fn packages_created_or_deleted_between_two_pages_neither_repeat_nor_hide_others() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let first = list(&fixture, page(&tenant, 2)).await.unwrap();
    assert_eq!(slugs(&first), ["basic-package", "standard-package"]);

    add(&fixture, &tenant, "Before", 0).await;
    add(&fixture, &tenant, "After", 9).await;
    // The page token refers to this package.
    fixture.delete_package(&tenant.id, &tenant.package_ids[1]).await.unwrap();
    let rest = ListPackagesRequest { page_token: first.next_page_token, ..page(&tenant, 2) };
    assert_eq!(slugs(&list(&fixture, rest).await.unwrap()), ["premium-package", "after"]);
}

#[tokio::test]
async fn package_filters_select_the_segment_and_the_active_state() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let segment = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    let segment_id = fixture.upsert_segment(segment).await.unwrap().segment.unwrap().id;
    let in_segment = ListPackagesRequest { segment_id: Some(segment_id.clone()), ..page(&tenant, 0) };
    assert!(list(&fixture, in_segment.clone()).await.unwrap().packages.is_empty());
    let request = UpsertPackageRequest { segment_id: Some(segment_id), active: Some(false), ..gold(&tenant) };
    fixture.upsert_package(request).await.unwrap();

    assert_eq!(slugs(&list(&fixture, in_segment.clone()).await.unwrap()), ["gold"]);
    let inactive = ListPackagesRequest { active: Some(false), ..page(&tenant, 0) };
    assert_eq!(slugs(&list(&fixture, inactive).await.unwrap()), ["gold"]);
    let active = ListPackagesRequest { active: Some(true), ..page(&tenant, 0) };
    assert_eq!(list(&fixture, active).await.unwrap().packages.len(), 3);
    let neither = ListPackagesRequest { active: Some(true), ..in_segment };
    assert!(list(&fixture, neither).await.unwrap().packages.is_empty());
}

#[tokio::test]
async fn a_page_token_is_valid_only_for_the_same_packages_list() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let token = list(&fixture, page(&tenant, 1)).await.unwrap().next_page_token;
    let expected = [("page_token".to_owned(), "BAD_FORMAT".to_owned())];
    let with =
        |request: ListPackagesRequest, token: &str| ListPackagesRequest { page_token: token.to_owned(), ..request };

    let other_size = with(page(&tenant, 3), &token);
    assert_eq!(list(&fixture, other_size).await.unwrap().packages.len(), 2, "the page size is not a filter");
    let active = ListPackagesRequest { active: Some(true), ..page(&tenant, 1) };
    let segment = ListPackagesRequest { segment_id: Some(tenant.general_id.clone()), ..page(&tenant, 1) };
    for other_list in [page(&other, 1), active, segment] {
        assert_eq!(violations(&list(&fixture, with(other_list, &token)).await.unwrap_err()), expected);
    }
    for forged in ["x", "====", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &with_last_char_changed(&token), "\u{0}"] {
        let error = list(&fixture, with(page(&tenant, 1), forged)).await.unwrap_err();
        assert_eq!(violations(&error), expected, "{forged}");
    }
}

#[tokio::test]
async fn package_page_sizes_default_to_50_and_are_limited_to_500() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let more = "INSERT INTO packages
                SELECT tenant_id, gen_random_uuid(), segment_id, 'p' || n, 'P', '', 0, 'DATE', n, true, now(), now()
                  FROM packages, generate_series(100, 700) AS n WHERE slug = 'basic-package'";
    fixture.database.execute(more).await;
    for (size, expected) in [(0, 50), (1, 1), (500, 500), (501, 500), (i32::MAX, 500)] {
        assert_eq!(list(&fixture, page(&tenant, size)).await.unwrap().packages.len(), expected, "{size}");
    }
    let error = list(&fixture, page(&tenant, -1)).await.unwrap_err();
    assert_eq!(violations(&error), [("page_size".to_owned(), "OUT_OF_RANGE".to_owned())]);
}

/// 500 packages of this size exceed the message limit of clients.
#[tokio::test]
async fn pages_of_large_packages_stay_below_the_message_limit() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    sqlx::query(
        "INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type, grouping_order,
                               active, created_at, updated_at)
         SELECT tenant_id, gen_random_uuid(), segment_id, 'heavy-' || number, repeat('𝄞', 200), repeat('𝄞', 2000),
                base_price, booking_type, number, active, created_at, updated_at
           FROM packages, generate_series(1, 600) AS number
          WHERE slug = 'basic-package'",
    )
    .execute(&fixture.superuser_pool().await)
    .await
    .unwrap();
    let mut request = page(&tenant, 500);
    let mut listed = Vec::new();
    loop {
        let response = list(&fixture, request.clone()).await.unwrap();
        let is_last = response.next_page_token.is_empty();
        assert!(is_last || (200..300).contains(&response.packages.len()), "{}", response.packages.len());
        listed.extend(response.packages);
        if is_last {
            break;
        }
        request.page_token = response.next_page_token;
    }
    assert_eq!(listed.len(), 603);
    assert!(listed.is_sorted_by_key(|package| (package.grouping_order, package.id.clone())));
}

#[tokio::test]
async fn a_page_has_500_packages_with_descriptions_of_2000_characters() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let more = "INSERT INTO packages
                SELECT tenant_id, gen_random_uuid(), segment_id, 'p' || n, 'P', repeat('a', 2000), 0, 'DATE', n, true,
                       now(), now()
                  FROM packages, generate_series(100, 700) AS n WHERE slug = 'basic-package'";
    fixture.database.execute(more).await;
    assert_eq!(list(&fixture, page(&tenant, 500)).await.unwrap().packages.len(), 500);
}
