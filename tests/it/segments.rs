//! `UpsertSegment`, `GetSegment`, `ListSegments` and `DeleteSegment`.

use tokio::task::JoinSet;
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    DeleteSegmentRequest, GetSegmentRequest, ListSegmentsRequest, Segment, UpsertAction, UpsertPackageRequest,
    UpsertSegmentRequest,
};

use crate::support::{
    citus::is_skipped_on_citus,
    fixture::{Fixture, NewTenant},
    requests::gold,
    responses::{reason, violations},
};

fn weddings(tenant: &NewTenant) -> UpsertSegmentRequest {
    UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    }
}

async fn get_segment(fixture: &Fixture, tenant: &NewTenant, segment_id: &str) -> Result<Segment, Status> {
    let request =
        GetSegmentRequest { tenant_id: tenant.id.clone(), segment_id: segment_id.to_owned(), ..Default::default() };
    Ok(fixture.catalog.clone().get_segment(request).await?.into_inner().segment.unwrap())
}

async fn delete_segment(fixture: &Fixture, tenant: &NewTenant, segment_id: &str) -> Result<(), Status> {
    let request =
        DeleteSegmentRequest { tenant_id: tenant.id.clone(), segment_id: segment_id.to_owned(), ..Default::default() };
    fixture.catalog.clone().delete_segment(request).await.map(drop)
}

#[tokio::test]
async fn a_new_segment_gets_a_slug_from_its_name_and_the_last_position() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let created = fixture.upsert_segment(weddings(&tenant)).await.unwrap();
    assert_eq!(created.action(), UpsertAction::Created);
    let segment = created.segment.unwrap();
    assert_eq!((segment.slug.as_str(), segment.name.as_str()), ("weddings", "Weddings"));
    assert_eq!((segment.hero_title.as_str(), segment.description.as_str()), ("Weddings", ""));
    assert_eq!((segment.sort_order, segment.active), (1, true));
    assert_eq!(get_segment(&fixture, &tenant, &segment.id).await.unwrap(), segment);
    let second = fixture.upsert_segment(weddings(&tenant)).await.unwrap().segment.unwrap();
    assert_eq!((second.slug.as_str(), second.sort_order), ("weddings-2", 2));
}

#[tokio::test]
async fn an_empty_text_that_identifies_or_names_a_segment_counts_as_absent() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let empty = || Some(String::new());
    let request = UpsertSegmentRequest { segment_id: empty(), slug: empty(), hero_title: empty(), ..weddings(&tenant) };
    let created = fixture.upsert_segment(request.clone()).await.unwrap().segment.unwrap();
    assert_eq!((created.slug.as_str(), created.hero_title.as_str()), ("weddings", "Weddings"));

    let update = UpsertSegmentRequest { segment_id: Some(created.id.clone()), name: empty(), ..request.clone() };
    assert_eq!(fixture.upsert_segment(update).await.unwrap().segment.unwrap(), created);
    let nameless = UpsertSegmentRequest { name: empty(), ..request };
    let error = fixture.upsert_segment(nameless).await.unwrap_err();
    assert_eq!(violations(&error), [("name".to_owned(), "MISSING_FIELD".to_owned())]);
}

#[tokio::test]
async fn texts_of_a_segment_are_visible_and_the_line_breaks_of_its_description_are_newlines() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let invisible = Some("\u{200b}\u{3164}".to_owned());
    let request = UpsertSegmentRequest { slug: Some("gold".to_owned()), name: invisible.clone(), ..weddings(&tenant) };
    let error = fixture.upsert_segment(UpsertSegmentRequest { hero_title: invisible, ..request }).await.unwrap_err();
    let expected = ["name", "hero_title"].map(|field| (field.to_owned(), "BAD_FORMAT".to_owned()));
    assert_eq!(violations(&error), expected);
    let request = UpsertSegmentRequest { description: Some("One\r\ntwo".to_owned()), ..weddings(&tenant) };
    assert_eq!(fixture.upsert_segment(request).await.unwrap().segment.unwrap().description, "One\ntwo");
}

#[tokio::test]
async fn a_new_segment_without_a_name_is_rejected() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    for slug in [None, Some("weddings".to_owned())] {
        let request = UpsertSegmentRequest { name: None, slug, ..weddings(&tenant) };
        let error = fixture.upsert_segment(request).await.unwrap_err();
        assert_eq!(violations(&error), [("name".to_owned(), "MISSING_FIELD".to_owned())]);
    }
}

#[tokio::test]
async fn a_repeated_segment_upsert_changes_nothing_and_an_update_changes_only_present_fields() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let request = UpsertSegmentRequest { slug: Some("weddings".to_owned()), ..weddings(&tenant) };
    let first = fixture.upsert_segment(request.clone()).await.unwrap().segment.unwrap();
    let second = fixture.upsert_segment(request).await.unwrap();
    assert_eq!((second.action(), second.segment.as_ref()), (UpsertAction::Updated, Some(&first)));

    let change = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        segment_id: Some(first.id.clone()),
        slug: Some("marriages".to_owned()),
        sort_order: Some(0),
        active: Some(false),
        description: Some("All of them".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    let changed = fixture.upsert_segment(change).await.unwrap().segment.unwrap();
    let expected = Segment {
        slug: "marriages".to_owned(),
        sort_order: 0,
        active: false,
        description: "All of them".to_owned(),
        updated_at: changed.updated_at,
        etag: changed.etag.clone(),
        ..first.clone()
    };
    assert_eq!(changed, expected);
    assert_ne!(changed.updated_at, first.updated_at);
}

#[tokio::test]
async fn concurrent_segment_upserts_with_the_same_name_get_different_slugs() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let (mut catalog, request) = (fixture.catalog.clone(), weddings(&tenant));
        calls.spawn(async move { catalog.upsert_segment(request).await.unwrap().into_inner().segment.unwrap() });
    }
    let mut segments = calls.join_all().await;
    segments.sort_by_key(|segment| segment.sort_order);
    assert_eq!((segments[0].slug.as_str(), segments[19].slug.as_str()), ("weddings", "weddings-20"));
    assert_eq!(segments[19].sort_order, 20);
}

#[tokio::test]
async fn the_general_segment_keeps_its_slug_but_not_its_texts() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let rename = UpsertSegmentRequest {
        segment_id: Some(tenant.general_id.clone()),
        slug: Some("special".to_owned()),
        ..weddings(&tenant)
    };
    let error = fixture.upsert_segment(rename.clone()).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "DEFAULT_SEGMENT"));
    let texts =
        UpsertSegmentRequest { slug: Some("general".to_owned()), hero_title: Some("Hello".to_owned()), ..rename };
    let changed = fixture.upsert_segment(texts).await.unwrap().segment.unwrap();
    assert_eq!(
        (changed.slug.as_str(), changed.name.as_str(), changed.hero_title.as_str()),
        ("general", "Weddings", "Hello")
    );
    let error = delete_segment(&fixture, &tenant, &tenant.general_id).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "DEFAULT_SEGMENT"));
}

#[tokio::test]
async fn renaming_a_segment_to_an_existing_slug_is_already_exists() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let segment_id = fixture.upsert_segment(weddings(&tenant)).await.unwrap().segment.unwrap().id;
    let rename =
        UpsertSegmentRequest { segment_id: Some(segment_id), slug: Some("general".to_owned()), ..weddings(&tenant) };
    let error = fixture.upsert_segment(rename).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "SEGMENT_SLUG_TAKEN"));
}

#[tokio::test]
async fn a_segment_delete_that_waits_for_a_superuser_sees_the_packages_that_were_added() {
    if is_skipped_on_citus("the lock that it waits for is on a worker") {
        return;
    }
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let segment_id = fixture.upsert_segment(weddings(&tenant)).await.unwrap().segment.unwrap().id;
    let pool = fixture.superuser_pool().await;
    let mut superuser = pool.begin().await.unwrap();
    let fill = "UPDATE packages SET segment_id = (SELECT id FROM segments WHERE slug = 'weddings')";
    sqlx::query(fill).execute(&mut *superuser).await.unwrap();
    let service = delete_segment(&fixture, &tenant, &segment_id);
    let psql = async {
        let is_waiting = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                      WHERE datname = current_database() AND NOT granted)";
        while !sqlx::query_scalar::<_, bool>(is_waiting).fetch_one(&pool).await.unwrap() {}
        superuser.commit().await.unwrap();
    };
    let (error, ()) = tokio::join!(service, psql);
    assert_eq!(reason(&error.unwrap_err()), "SEGMENT_NOT_EMPTY");
    assert_eq!(fixture.count("segments").await, 2);
}

#[tokio::test]
async fn a_segment_can_be_deleted_once_it_is_empty() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let segment_id = fixture.upsert_segment(weddings(&tenant)).await.unwrap().segment.unwrap().id;
    let in_segment = UpsertPackageRequest { segment_id: Some(segment_id.clone()), ..gold(&tenant) };
    let package_id = fixture.upsert_package(in_segment).await.unwrap().package.unwrap().id;
    let error = delete_segment(&fixture, &tenant, &segment_id).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "SEGMENT_NOT_EMPTY"));

    let moved = UpsertPackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: Some(package_id),
        segment_id: Some(tenant.general_id.clone()),
        ..UpsertPackageRequest::default()
    };
    fixture.upsert_package(moved).await.unwrap();
    delete_segment(&fixture, &tenant, &segment_id).await.unwrap();
    let error = delete_segment(&fixture, &tenant, &segment_id).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "SEGMENT_NOT_FOUND"));
    assert_eq!(get_segment(&fixture, &tenant, &segment_id).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn segments_are_listed_by_sort_order_across_pages_and_a_token_is_bound_to_its_tenant() {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    for (name, sort_order) in [("Last", 9), ("First", -1)] {
        let request =
            UpsertSegmentRequest { name: Some(name.to_owned()), sort_order: Some(sort_order), ..weddings(&tenant) };
        fixture.upsert_segment(request).await.unwrap();
    }
    let mut request =
        ListSegmentsRequest { tenant_id: tenant.id.clone(), page_size: 2, ..ListSegmentsRequest::default() };
    let mut catalog = fixture.catalog.clone();
    let first = catalog.list_segments(request.clone()).await.unwrap().into_inner();
    request.page_token = first.next_page_token;
    let second = catalog.list_segments(request.clone()).await.unwrap().into_inner();
    let slugs: Vec<&str> = first.segments.iter().chain(&second.segments).map(|segment| segment.slug.as_str()).collect();
    assert_eq!((slugs, second.next_page_token.as_str()), (vec!["first", "general", "last"], ""));

    request.tenant_id = other.id;
    let error = catalog.list_segments(request).await.unwrap_err();
    assert_eq!(violations(&error), [("page_token".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test]
async fn pages_of_large_segments_stay_below_the_message_limit() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    sqlx::query(
        "INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active, created_at, updated_at)
         SELECT tenant_id, gen_random_uuid(), 'heavy-' || number, repeat('𝄞', 200), repeat('𝄞', 200), repeat('𝄞', 2000),
                number, active, created_at, updated_at
           FROM segments, generate_series(1, 600) AS number",
    )
    .execute(&fixture.superuser_pool().await)
    .await
    .unwrap();
    let request = ListSegmentsRequest { tenant_id: tenant.id, page_size: 500, ..Default::default() };
    let page = fixture.catalog.clone().list_segments(request).await.unwrap().into_inner();
    assert!((200..300).contains(&page.segments.len()), "{}", page.segments.len());
    assert_ne!(page.next_page_token, "");
}
