//! `ListTenants`: pages in three orders, and filters. `flat_costs.rs` measures what they read.

use prost::Message as _;
use serde_json::{Value, json};
use sqlx::types::Json;
use tonic::Status;
use turnkey::{
    domain::paging::{Cursor, PageTokenScope},
    grpc::pb::{
        BatchCreateFullyProvisionedRequest, ListTenantsRequest, ListTenantsResponse, get_tenant_request::Identifier,
    },
};

use crate::support::{
    fixture::Fixture,
    requests::{named, signup},
    responses::violations,
};

async fn list_tenants(fixture: &Fixture, request: ListTenantsRequest) -> Result<ListTenantsResponse, Status> {
    fixture.provisioning.clone().list_tenants(request).await.map(tonic::Response::into_inner)
}

async fn slugs(fixture: &Fixture, request: ListTenantsRequest) -> Vec<String> {
    let page = list_tenants(fixture, request).await.unwrap();
    page.tenants.into_iter().map(|tenant| tenant.slug).collect()
}

fn all() -> ListTenantsRequest {
    ListTenantsRequest::default()
}

#[tokio::test]
async fn tenants_are_listed_oldest_first() {
    let fixture = Fixture::start().await;
    fixture.tenant("zoe").await;
    fixture.tenant("bella").await;
    let signed_up = fixture.sign_up(signup("Adam", "adam@example.com")).await.unwrap().tenant.unwrap();
    let page = list_tenants(&fixture, all()).await.unwrap();
    let slugs: Vec<&str> = page.tenants.iter().map(|tenant| tenant.slug.as_str()).collect();
    assert_eq!(slugs, ["zoe", "bella", "adam"]);
    assert_eq!((&page.tenants[2], page.next_page_token.as_str()), (&signed_up, ""));
}

#[tokio::test]
async fn pages_neither_repeat_nor_hide_a_tenant_that_is_created_or_deleted_meanwhile() {
    let fixture = Fixture::start().await;
    for number in 0..5 {
        fixture.tenant(&format!("tenant-{number}")).await;
    }
    // Tenants with the same creation time are ordered by id.
    sqlx::query("UPDATE tenants SET created_at = (SELECT min(created_at) FROM tenants) WHERE slug < 'tenant-3'")
        .execute(&fixture.superuser_pool().await)
        .await
        .unwrap();
    let mut request = ListTenantsRequest { page_size: 2, ..all() };
    let mut listed = Vec::new();
    loop {
        let page = list_tenants(&fixture, request.clone()).await.unwrap();
        assert!(page.tenants.len() <= 2);
        listed.extend(page.tenants.into_iter().map(|tenant| tenant.slug));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        if listed.len() == 2 {
            fixture.tenant("late").await;
            let first = fixture.get(Identifier::Slug(listed[0].clone())).await;
            let tenant_id = first.unwrap().id;
            fixture.delete_tenant(&tenant_id).await.unwrap();
        }
    }
    let last_three = listed.split_off(3);
    listed.sort();
    assert_eq!(listed, ["tenant-0", "tenant-1", "tenant-2"]);
    assert_eq!(last_three, ["tenant-3", "tenant-4", "late"]);
}

/// Lists all pages, of two tenants each. Calls `meanwhile` after the first page.
async fn list_pages(fixture: &Fixture, list: ListTenantsRequest, meanwhile: impl AsyncFnOnce()) -> Vec<String> {
    let mut request = ListTenantsRequest { page_size: 2, ..list };
    let (mut listed, mut meanwhile) = (Vec::new(), Some(meanwhile));
    loop {
        let page = list_tenants(fixture, request.clone()).await.unwrap();
        assert!(page.tenants.len() <= 2);
        listed.extend(page.tenants.into_iter().map(|tenant| tenant.slug));
        if page.next_page_token.is_empty() {
            return listed;
        }
        request.page_token = page.next_page_token;
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile().await;
        }
    }
}

#[tokio::test]
async fn the_newest_tenants_come_first_on_request_and_later_ones_do_not_appear_on_later_pages() {
    let fixture = Fixture::start().await;
    for slug in ["zoe", "bella", "adam", "carla", "dora"] {
        fixture.tenant(slug).await;
    }
    let suspended = fixture.tenant("eve").await;
    fixture.suspend_tenant(&suspended.id).await.unwrap();
    // The order includes the id: these three have the same creation time.
    let same_time = "UPDATE tenants SET created_at = (SELECT created_at FROM tenants WHERE slug = 'bella')
                      WHERE slug IN ('adam', 'carla')";
    fixture.database.execute(same_time).await;
    let newest_first = ListTenantsRequest { newest_first: true, ..all() };
    let listed = list_pages(&fixture, newest_first.clone(), async || {
        fixture.tenant("late").await;
    });
    let mut oldest_first = slugs(&fixture, all()).await;
    oldest_first.reverse();
    assert_eq!(listed.await, oldest_first);
    assert_eq!((oldest_first[0].as_str(), oldest_first[1].as_str(), oldest_first[5].as_str()), ("eve", "dora", "zoe"));
    assert_eq!(slugs(&fixture, newest_first.clone()).await[..2], ["late", "eve"]);
    let suspended_only = ListTenantsRequest { is_active: Some(false), ..newest_first };
    assert_eq!(slugs(&fixture, suspended_only).await, ["eve"]);
}

#[tokio::test]
async fn tenants_with_a_slug_prefix_are_listed_by_slug_across_pages_while_others_are_created() {
    let fixture = Fixture::start().await;
    let mut expected = vec!["gold", "gold-10", "gold-2", "gold-2-x", "gold1", "golda", "goldz"];
    for slug in ["goldz", "golda", "silver", "gold-2", "gold-2-x", "gole", "gold1", "gold", "gold-10", "gol-d"] {
        fixture.tenant(slug).await;
    }
    for slug in ["gold-2", "golda"] {
        let tenant = fixture.get(Identifier::Slug(slug.to_owned())).await;
        fixture.suspend_tenant(&tenant.unwrap().id).await.unwrap();
    }
    let list = ListTenantsRequest { slug_prefix: "gold".to_owned(), ..all() };
    assert_eq!(slugs(&fixture, list.clone()).await, expected);
    let listed = list_pages(&fixture, list.clone(), async || {
        // Before and after the position of the page token.
        fixture.tenant("gold-0").await;
        fixture.tenant("gold-2-y").await;
    });
    expected.insert(4, "gold-2-y");
    assert_eq!(listed.await, expected);
    let suspended = ListTenantsRequest { is_active: Some(false), ..list };
    assert_eq!(list_pages(&fixture, suspended, async || {}).await, ["gold-2", "golda"]);
}

#[tokio::test]
async fn newest_first_together_with_a_slug_prefix_is_invalid() {
    let fixture = Fixture::start().await;
    let both = ListTenantsRequest { newest_first: true, slug_prefix: "bella".to_owned(), page_size: -1, ..all() };
    let error = list_tenants(&fixture, both).await.unwrap_err();
    let expected = [("newest_first", "BAD_FORMAT"), ("page_size", "OUT_OF_RANGE")];
    assert_eq!(violations(&error), expected.map(|(field, why)| (field.to_owned(), why.to_owned())));
}

#[tokio::test]
async fn deleted_tenants_are_merged_into_every_order_on_request() {
    let fixture = Fixture::start().await;
    let mut by_creation = Vec::new();
    for number in 0..40_u32 {
        let slug = format!("t{:02}", number * 7 % 40);
        let tenant = fixture.tenant(&slug).await;
        if number.is_multiple_of(2) {
            fixture.suspend_tenant(&tenant.id).await.unwrap();
        }
        if !number.is_multiple_of(8) {
            fixture.delete_tenant(&tenant.id).await.unwrap();
        }
        by_creation.push((slug, number));
    }
    let is_selected = |number: u32, is_active: Option<bool>, show_deleted| {
        is_active.is_none_or(|is_active| is_active != number.is_multiple_of(2))
            && (show_deleted || number.is_multiple_of(8))
    };
    for (is_active, show_deleted) in [
        (None, true),
        (None, false),
        (Some(true), true),
        (Some(false), true),
        (Some(true), false),
        (Some(false), false),
    ] {
        let selected = by_creation.iter().filter(|(_, number)| is_selected(*number, is_active, show_deleted));
        let mut expected: Vec<String> = selected.map(|(slug, _)| slug.clone()).collect();
        let list = ListTenantsRequest { is_active, show_deleted, ..all() };
        assert_eq!(list_pages(&fixture, list.clone(), async || {}).await, expected, "{list:?}");
        expected.reverse();
        let newest_first = ListTenantsRequest { newest_first: true, ..list.clone() };
        assert_eq!(list_pages(&fixture, newest_first, async || {}).await, expected, "{list:?}");
        expected.sort();
        let by_slug = ListTenantsRequest { slug_prefix: "t".to_owned(), ..list };
        assert_eq!(list_pages(&fixture, by_slug.clone(), async || {}).await, expected, "{by_slug:?}");
    }
}

#[tokio::test]
async fn page_tokens_from_before_the_slug_order_stay_valid_without_a_prefix_and_are_refused_with_one() {
    let fixture = Fixture::start().await;
    for slug in ["bella", "adam", "carla"] {
        fixture.tenant(slug).await;
    }
    let first = fixture.get(Identifier::Slug("bella".to_owned())).await.unwrap();
    let created_at = first.created_at.unwrap();
    let order = created_at.seconds * 1_000_000 + i64::from(created_at.nanos) / 1_000;
    let cursor = Cursor { order, id: first.id.parse().unwrap() };
    let old_token = |filters: &str| PageTokenScope::new(format!("ListTenants {filters}")).encode(&cursor);
    let list = ListTenantsRequest { page_token: old_token("None false "), ..all() };
    assert_eq!(slugs(&fixture, list).await, ["adam", "carla"]);
    for list in [
        ListTenantsRequest { slug_prefix: "a".to_owned(), page_token: old_token("None false a"), ..all() },
        ListTenantsRequest { newest_first: true, page_token: old_token("None false "), ..all() },
    ] {
        let error = list_tenants(&fixture, list).await.unwrap_err();
        assert_eq!(violations(&error), [("page_token".to_owned(), "BAD_FORMAT".to_owned())]);
    }
}

#[tokio::test]
async fn tenant_filters_select_by_state_deletion_and_slug_prefix() {
    let fixture = Fixture::start().await;
    let bella = fixture.tenant("bella").await;
    let bella_two = fixture.tenant("bella-two").await;
    fixture.tenant("bellamy").await;
    fixture.tenant("omers-cafe").await;
    fixture.suspend_tenant(&bella_two.id).await.unwrap();
    fixture.delete_tenant(&bella.id).await.unwrap();

    assert_eq!(slugs(&fixture, all()).await, ["bella-two", "bellamy", "omers-cafe"]);
    let with_deleted = ListTenantsRequest { show_deleted: true, ..all() };
    assert_eq!(slugs(&fixture, with_deleted.clone()).await, ["bella", "bella-two", "bellamy", "omers-cafe"]);
    let active = |is_active| ListTenantsRequest { is_active: Some(is_active), ..all() };
    assert_eq!(slugs(&fixture, active(true)).await, ["bellamy", "omers-cafe"]);
    assert_eq!(slugs(&fixture, active(false)).await, ["bella-two"]);
    let prefix = |slug_prefix: &str| ListTenantsRequest { slug_prefix: slug_prefix.to_owned(), ..with_deleted.clone() };
    assert_eq!(slugs(&fixture, prefix("bella")).await, ["bella", "bella-two", "bellamy"]);
    assert_eq!(slugs(&fixture, prefix("bella-")).await, ["bella-two"]);
    for unmatched in ["%", "_ella", "Bella", "bella\0", "é", &"b".repeat(70)] {
        assert_eq!(slugs(&fixture, prefix(unmatched)).await, [""; 0], "{unmatched:?}");
    }
    let both = ListTenantsRequest { is_active: Some(true), ..prefix("bella-") };
    assert_eq!(slugs(&fixture, both).await, [""; 0]);
}

#[tokio::test]
async fn tenant_page_sizes_default_to_50_and_are_limited_to_500() {
    let fixture = Fixture::start().await;
    let many = "INSERT INTO tenants SELECT gen_random_uuid(), 'tenant-' || number, 'x', 10, '{}', true, now(), now()
                  FROM generate_series(1, 502) AS number";
    fixture.database.execute_without_triggers(many).await;
    for (size, expected) in [(0, 50), (1, 1), (500, 500), (501, 500), (i32::MAX, 500)] {
        let page = list_tenants(&fixture, ListTenantsRequest { page_size: size, ..all() }).await.unwrap();
        assert_eq!(page.tenants.len(), expected, "{size}");
    }
    let error = list_tenants(&fixture, ListTenantsRequest { page_size: -1, ..all() }).await.unwrap_err();
    assert_eq!(violations(&error), [("page_size".to_owned(), "OUT_OF_RANGE".to_owned())]);
}

#[tokio::test]
async fn a_page_token_is_valid_only_for_the_same_tenant_filters() {
    let fixture = Fixture::start().await;
    fixture.tenant("bella").await;
    fixture.tenant("bellamy").await;
    let first = ListTenantsRequest { page_size: 1, slug_prefix: "bella".to_owned(), ..all() };
    let token = list_tenants(&fixture, first.clone()).await.unwrap().next_page_token;
    let second = ListTenantsRequest { page_token: token.clone(), ..first.clone() };
    assert_eq!(slugs(&fixture, ListTenantsRequest { page_size: 7, ..second.clone() }).await, ["bellamy"]);
    let newest_first = ListTenantsRequest { page_size: 1, newest_first: true, ..all() };
    let newest_first_token = list_tenants(&fixture, newest_first).await.unwrap().next_page_token;
    for other in [
        ListTenantsRequest { page_token: newest_first_token.clone(), ..all() },
        ListTenantsRequest { page_token: newest_first_token, ..second.clone() },
        ListTenantsRequest { slug_prefix: String::new(), ..second.clone() },
        ListTenantsRequest { slug_prefix: String::new(), newest_first: true, ..second.clone() },
        ListTenantsRequest { slug_prefix: "bell".to_owned(), ..second.clone() },
        ListTenantsRequest { is_active: Some(true), ..second.clone() },
        ListTenantsRequest { show_deleted: true, ..second.clone() },
        ListTenantsRequest { page_token: token[1..].to_owned(), ..second.clone() },
        ListTenantsRequest { page_token: "not a token".to_owned(), ..second },
    ] {
        let error = list_tenants(&fixture, other).await.unwrap_err();
        assert_eq!(violations(&error), [("page_token".to_owned(), "BAD_FORMAT".to_owned())]);
    }
}

/// Clients accept 4 MiB by default.
#[tokio::test]
async fn pages_of_tenants_with_large_brandings_stay_below_the_message_limit_and_above_1_mib() {
    let fixture = Fixture::start().await;
    create_with_branding(&fixture, 70, json!({"text": "a".repeat(65_000)})).await;
    let page = list_tenants(&fixture, ListTenantsRequest { page_size: 500, ..all() }).await.unwrap();
    let bytes = page.encoded_len();
    assert!(!page.next_page_token.is_empty() && bytes > 1024 * 1024, "{bytes} bytes");
}

/// A JSON value takes about 100 bytes in memory. The largest of these brandings are larger than the service accepts.
#[tokio::test]
async fn pages_of_tenants_whose_brandings_have_many_values_are_cut_short_but_not_empty() {
    for (values, expected) in [(2_000, 11), (32_000, 1)] {
        let fixture = Fixture::start().await;
        create_with_branding(&fixture, 14, json!({"numbers": vec![1; values - 1]})).await;
        let page = list_tenants(&fixture, all()).await.unwrap();
        assert_eq!((page.tenants.len(), page.next_page_token.is_empty()), (expected, false), "{values} values");
        let rest = ListTenantsRequest { page_token: page.next_page_token, ..all() };
        let rest = list_tenants(&fixture, rest).await.unwrap();
        let last = &page.tenants[expected - 1];
        assert!(
            rest.tenants.iter().all(|tenant| tenant.created_at.unwrap().seconds >= last.created_at.unwrap().seconds)
        );
        assert!(!rest.tenants.is_empty() && !rest.tenants.contains(last));
    }
}

async fn create_with_branding(fixture: &Fixture, count: usize, branding: Value) {
    let requests = (0..count).map(|number| named(&format!("tenant-{number}"))).collect();
    let batch = BatchCreateFullyProvisionedRequest { requests };
    fixture.provisioning.clone().batch_create_fully_provisioned(batch).await.unwrap();
    let set_branding = sqlx::query("UPDATE tenants SET branding = $1").bind(Json(branding));
    set_branding.execute(&fixture.superuser_pool().await).await.unwrap();
}

#[tokio::test]
async fn the_database_refuses_a_branding_of_more_than_128_kib_from_every_client() {
    let fixture = Fixture::start().await;
    fixture.tenant("bella").await;
    let set_branding = sqlx::query("UPDATE tenants SET branding = $1").bind(Json(json!({"a": "a".repeat(131_072)})));
    let error = set_branding.execute(&fixture.superuser_pool().await).await.unwrap_err();
    assert_eq!(error.into_database_error().unwrap().constraint(), Some("tenants_branding_length"));
}
