//! `ListPackages`: pages that stay in place, filters, and tokens that are bound to both.

use tonic::Status;
use turnkey::grpc::pb::{
    DeletePackageRequest, ListPackagesRequest, ListPackagesResponse, UpsertPackageRequest, UpsertSegmentRequest,
};

use crate::{
    fixture::{Fixture, NewTenant, violations, with_last_char_changed},
    upsert_package::gold,
};

fn page(tenant: &NewTenant, page_size: i32) -> ListPackagesRequest {
    ListPackagesRequest { tenant_id: tenant.id.clone(), page_size, ..ListPackagesRequest::default() }
}

impl Fixture {
    async fn list(&self, request: ListPackagesRequest) -> Result<ListPackagesResponse, Status> {
        self.catalog.clone().list_packages(request).await.map(tonic::Response::into_inner)
    }

    async fn add(&self, tenant: &NewTenant, name: &str, grouping_order: i32) -> String {
        let request =
            UpsertPackageRequest { name: Some(name.to_owned()), grouping_order: Some(grouping_order), ..gold(tenant) };
        self.upsert(request).await.unwrap().package.unwrap().id
    }
}

fn slugs(page: &ListPackagesResponse) -> Vec<&str> {
    page.packages.iter().map(|package| package.slug.as_str()).collect()
}

#[tokio::test]
async fn packages_come_by_grouping_order_then_id_page_by_page() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    fixture.add(&tenant, "First", -7).await;
    fixture.add(&tenant, "Same", 2).await;
    let all = fixture.list(page(&tenant, 0)).await.unwrap();
    assert_eq!(slugs(&all), ["first", "basic-package", "standard-package", "same", "premium-package"]);
    assert_eq!(all.next_page_token, "");

    let mut paged = Vec::new();
    let mut request = page(&tenant, 2);
    loop {
        let answer = fixture.list(request.clone()).await.unwrap();
        paged.extend(answer.packages);
        if answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    assert_eq!(paged, all.packages);
    assert_eq!(
        fixture.list(page(&tenant, 5)).await.unwrap().next_page_token,
        "",
        "a page that is just full is the last"
    );
}

#[tokio::test]
async fn what_comes_and_goes_between_two_pages_neither_repeats_nor_hides_another() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let first = fixture.list(page(&tenant, 2)).await.unwrap();
    assert_eq!(slugs(&first), ["basic-package", "standard-package"]);

    fixture.add(&tenant, "Before", 0).await;
    fixture.add(&tenant, "After", 9).await;
    let last_seen = DeletePackageRequest { tenant_id: tenant.id.clone(), package_id: tenant.package_ids[1].clone() };
    fixture.catalog.clone().delete_package(last_seen).await.unwrap();
    let rest = ListPackagesRequest { page_token: first.next_page_token, ..page(&tenant, 2) };
    assert_eq!(slugs(&fixture.list(rest).await.unwrap()), ["premium-package", "after"]);
}

#[tokio::test]
async fn filters_keep_what_they_name() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let segment = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    let segment_id = fixture.catalog.clone().upsert_segment(segment).await.unwrap().into_inner().segment.unwrap().id;
    let in_segment = ListPackagesRequest { segment_id: Some(segment_id.clone()), ..page(&tenant, 0) };
    assert!(fixture.list(in_segment.clone()).await.unwrap().packages.is_empty());
    let request = UpsertPackageRequest { segment_id: Some(segment_id), active: Some(false), ..gold(&tenant) };
    fixture.upsert(request).await.unwrap();

    assert_eq!(slugs(&fixture.list(in_segment.clone()).await.unwrap()), ["gold"]);
    let inactive = ListPackagesRequest { active: Some(false), ..page(&tenant, 0) };
    assert_eq!(slugs(&fixture.list(inactive).await.unwrap()), ["gold"]);
    let active = ListPackagesRequest { active: Some(true), ..page(&tenant, 0) };
    assert_eq!(fixture.list(active).await.unwrap().packages.len(), 3);
    let neither = ListPackagesRequest { active: Some(true), ..in_segment };
    assert!(fixture.list(neither).await.unwrap().packages.is_empty());
}

#[tokio::test]
async fn a_token_is_good_for_its_own_list_only() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let token = fixture.list(page(&tenant, 1)).await.unwrap().next_page_token;
    let refused = [("page_token".to_owned(), "BAD_FORMAT".to_owned())];
    let with =
        |request: ListPackagesRequest, token: &str| ListPackagesRequest { page_token: token.to_owned(), ..request };

    let other_size = with(page(&tenant, 3), &token);
    assert_eq!(fixture.list(other_size).await.unwrap().packages.len(), 2, "the size is no filter");
    let active = ListPackagesRequest { active: Some(true), ..page(&tenant, 1) };
    let segment = ListPackagesRequest { segment_id: Some(tenant.general_id.clone()), ..page(&tenant, 1) };
    for elsewhere in [page(&other, 1), active, segment] {
        assert_eq!(violations(&fixture.list(with(elsewhere, &token)).await.unwrap_err()), refused);
    }
    for forged in ["x", "====", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &with_last_char_changed(&token), "\u{0}"] {
        let answer = fixture.list(with(page(&tenant, 1), forged)).await.unwrap_err();
        assert_eq!(violations(&answer), refused, "{forged}");
    }
}

#[tokio::test]
async fn page_sizes_are_50_by_default_500_at_most_and_never_negative() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let more = "INSERT INTO packages
                SELECT tenant_id, gen_random_uuid(), segment_id, 'p' || n, 'P', '', 0, 'DATE', n, true, now(), now()
                  FROM packages, generate_series(100, 700) AS n WHERE slug = 'basic-package'";
    crate::cluster::execute(&fixture.database.superuser, more.to_owned()).await;
    for (size, expected) in [(0, 50), (1, 1), (500, 500), (501, 500), (i32::MAX, 500)] {
        assert_eq!(fixture.list(page(&tenant, size)).await.unwrap().packages.len(), expected, "{size}");
    }
    let refused = fixture.list(page(&tenant, -1)).await.unwrap_err();
    assert_eq!(violations(&refused), [("page_size".to_owned(), "OUT_OF_RANGE".to_owned())]);
}

/// 500 of them are more than a client takes in one message.
#[tokio::test]
async fn heavy_packages_come_in_pages_that_clients_accept() {
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
    let first = fixture.list(page(&tenant, 500)).await.unwrap();
    assert!((200..300).contains(&first.packages.len()), "{}", first.packages.len());
    let next = ListPackagesRequest { page_token: first.next_page_token, ..page(&tenant, 500) };
    assert_ne!(fixture.list(next).await.unwrap().packages[0], first.packages[0]);
}
