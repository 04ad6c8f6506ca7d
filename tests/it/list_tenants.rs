//! `ListTenants`: in the order of creation, page by page.

use prost::Message as _;
use serde_json::{Map, Value, json};
use sqlx::types::Json;
use tonic::Status;
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, DeleteTenantRequest, ListTenantsRequest, ListTenantsResponse,
    SuspendTenantRequest,
};

use crate::{
    create_from_signup::signup,
    fixture::{Fixture, named, violations},
};

impl Fixture {
    async fn list_tenants(&self, request: ListTenantsRequest) -> Result<ListTenantsResponse, Status> {
        self.provisioning.clone().list_tenants(request).await.map(tonic::Response::into_inner)
    }

    async fn slugs(&self, request: ListTenantsRequest) -> Vec<String> {
        let page = self.list_tenants(request).await.unwrap();
        page.tenants.into_iter().map(|tenant| tenant.slug).collect()
    }
}

fn all() -> ListTenantsRequest {
    ListTenantsRequest::default()
}

#[tokio::test]
async fn tenants_come_oldest_first_as_they_are() {
    let fixture = Fixture::start().await;
    fixture.tenant("zoe").await;
    fixture.tenant("bella").await;
    let signed_up = fixture.sign_up(signup("Adam", "adam@example.com")).await.unwrap().tenant.unwrap();
    let page = fixture.list_tenants(all()).await.unwrap();
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
    // Two of one moment are told apart by their ids.
    sqlx::query("UPDATE tenants SET created_at = (SELECT min(created_at) FROM tenants) WHERE slug < 'tenant-3'")
        .execute(&fixture.superuser_pool().await)
        .await
        .unwrap();
    let mut request = ListTenantsRequest { page_size: 2, ..all() };
    let mut seen = Vec::new();
    loop {
        let page = fixture.list_tenants(request.clone()).await.unwrap();
        assert!(page.tenants.len() <= 2);
        seen.extend(page.tenants.into_iter().map(|tenant| tenant.slug));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        if seen.len() == 2 {
            fixture.tenant("late").await;
            let first = fixture.get(turnkey::grpc::pb::get_tenant_request::Identifier::Slug(seen[0].clone())).await;
            let tenant_id = first.unwrap().id;
            fixture.provisioning.clone().delete_tenant(DeleteTenantRequest { tenant_id }).await.unwrap();
        }
    }
    let last_three = seen.split_off(3);
    seen.sort();
    assert_eq!(seen, ["tenant-0", "tenant-1", "tenant-2"]);
    assert_eq!(last_three, ["tenant-3", "tenant-4", "late"]);
}

#[tokio::test]
async fn filters_keep_what_they_say() {
    let fixture = Fixture::start().await;
    let bella = fixture.tenant("bella").await;
    let bella_two = fixture.tenant("bella-two").await;
    fixture.tenant("bellamy").await;
    fixture.tenant("omers-cafe").await;
    let mut client = fixture.provisioning.clone();
    client.suspend_tenant(SuspendTenantRequest { tenant_id: bella_two.id }).await.unwrap();
    client.delete_tenant(DeleteTenantRequest { tenant_id: bella.id }).await.unwrap();

    assert_eq!(fixture.slugs(all()).await, ["bella-two", "bellamy", "omers-cafe"]);
    let with_deleted = ListTenantsRequest { show_deleted: true, ..all() };
    assert_eq!(fixture.slugs(with_deleted.clone()).await, ["bella", "bella-two", "bellamy", "omers-cafe"]);
    let active = |is_active| ListTenantsRequest { is_active: Some(is_active), ..all() };
    assert_eq!(fixture.slugs(active(true)).await, ["bellamy", "omers-cafe"]);
    assert_eq!(fixture.slugs(active(false)).await, ["bella-two"]);
    let prefix = |slug_prefix: &str| ListTenantsRequest { slug_prefix: slug_prefix.to_owned(), ..with_deleted.clone() };
    assert_eq!(fixture.slugs(prefix("bella")).await, ["bella", "bella-two", "bellamy"]);
    assert_eq!(fixture.slugs(prefix("bella-")).await, ["bella-two"]);
    for nobodys in ["%", "_ella", "Bella", "bella\0", "é", &"b".repeat(70)] {
        assert_eq!(fixture.slugs(prefix(nobodys)).await, [""; 0], "{nobodys:?}");
    }
    let both = ListTenantsRequest { is_active: Some(true), ..prefix("bella-") };
    assert_eq!(fixture.slugs(both).await, [""; 0]);
}

#[tokio::test]
async fn page_sizes_are_bounded_and_negative_ones_refused() {
    let fixture = Fixture::start().await;
    // Copies of a tenant that none of the rules is about.
    let many = "SET session_replication_role = replica;
                INSERT INTO tenants SELECT gen_random_uuid(), 'tenant-' || number, 'x', 10, '{}', true, now(), now()
                  FROM generate_series(1, 502) AS number";
    crate::cluster::execute(&fixture.database.superuser, many.to_owned()).await;
    for (size, expected) in [(0, 50), (1, 1), (500, 500), (501, 500), (i32::MAX, 500)] {
        let page = fixture.list_tenants(ListTenantsRequest { page_size: size, ..all() }).await.unwrap();
        assert_eq!(page.tenants.len(), expected, "{size}");
    }
    let refused = fixture.list_tenants(ListTenantsRequest { page_size: -1, ..all() }).await.unwrap_err();
    assert_eq!(violations(&refused), [("page_size".to_owned(), "OUT_OF_RANGE".to_owned())]);
}

#[tokio::test]
async fn a_token_is_good_for_its_own_filters_only() {
    let fixture = Fixture::start().await;
    fixture.tenant("bella").await;
    fixture.tenant("bellamy").await;
    let first = ListTenantsRequest { page_size: 1, slug_prefix: "bella".to_owned(), ..all() };
    let token = fixture.list_tenants(first.clone()).await.unwrap().next_page_token;
    let second = ListTenantsRequest { page_token: token.clone(), ..first.clone() };
    assert_eq!(fixture.slugs(ListTenantsRequest { page_size: 7, ..second.clone() }).await, ["bellamy"]);
    for other in [
        ListTenantsRequest { slug_prefix: "bell".to_owned(), ..second.clone() },
        ListTenantsRequest { is_active: Some(true), ..second.clone() },
        ListTenantsRequest { show_deleted: true, ..second.clone() },
        ListTenantsRequest { page_token: token[1..].to_owned(), ..second.clone() },
        ListTenantsRequest { page_token: "not a token".to_owned(), ..second },
    ] {
        let refused = fixture.list_tenants(other).await.unwrap_err();
        assert_eq!(violations(&refused), [("page_token".to_owned(), "BAD_FORMAT".to_owned())]);
    }
}

/// Clients take 4 MiB by default. As JSON none of these is larger than a branding may be.
#[tokio::test]
async fn heavy_brandings_come_in_pages_that_clients_accept_and_that_are_worth_a_call() {
    let fixture = Fixture::start().await;
    let superuser = fixture.superuser_pool().await;
    let members: Map<String, Value> = (0..4_000).map(|number| (format!("member{number}"), json!(1))).collect();
    for (prefix, count, branding) in [
        ("texts", 70, json!({"text": "a".repeat(65_000)})),
        ("numbers", 14, json!({"numbers": vec![1; 32_000]})),
        ("members", 60, json!({"members": members})),
    ] {
        let requests = (0..count).map(|number| named(&format!("{prefix}-{number}"))).collect();
        let batch = BatchCreateFullyProvisionedRequest { requests };
        fixture.provisioning.clone().batch_create_fully_provisioned(batch).await.unwrap();
        let dress = "UPDATE tenants SET branding = $1 WHERE starts_with(slug, $2)";
        sqlx::query(dress).bind(Json(branding)).bind(prefix).execute(&superuser).await.unwrap();
        let request = ListTenantsRequest { page_size: 500, slug_prefix: prefix.to_owned(), ..all() };
        let page = fixture.list_tenants(request).await.unwrap();
        let bytes = page.encoded_len();
        assert!(!page.next_page_token.is_empty() && bytes > 1024 * 1024, "{prefix}: {bytes} bytes");
    }
}
