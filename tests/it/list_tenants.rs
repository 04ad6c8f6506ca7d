//! `ListTenants`: pages in the order of creation, and filters.

use prost::Message as _;
use serde_json::{Value, json};
use sqlx::types::Json;
use tonic::Status;
use turnkey::grpc::pb::{BatchCreateFullyProvisionedRequest, ListTenantsRequest, ListTenantsResponse};

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
            let first = fixture.get(turnkey::grpc::pb::get_tenant_request::Identifier::Slug(listed[0].clone())).await;
            let tenant_id = first.unwrap().id;
            fixture.delete_tenant(&tenant_id).await.unwrap();
        }
    }
    let last_three = listed.split_off(3);
    listed.sort();
    assert_eq!(listed, ["tenant-0", "tenant-1", "tenant-2"]);
    assert_eq!(last_three, ["tenant-3", "tenant-4", "late"]);
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
    for other in [
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
