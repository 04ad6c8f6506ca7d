//! Service tokens that are limited to tenants or to a time: what their callers see. `permissions.rs` calls every RPC.

use std::fs;

use serde_json::json;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    CheckIntegrityRequest, GetTenantRequest, ListPackagesRequest, ListTenantsRequest, ListTenantsResponse,
    UpdateTenantRequest, VerifyApiKeyRequest, get_tenant_request::Identifier,
};
use uuid::Uuid;

use crate::support::{
    damage::{UNKNOWN_TENANT, damage_of_every_kind},
    database::Cluster,
    fixture::{Fixture, with_http},
    process::{Process, serve, temp_folder, turnkey},
    requests::{named, with_bearer},
    responses::{reason, violations},
    tokens::Tokens,
};

/// A server that requires a credential, on the database of a server that requires none.
async fn closed(open: &Fixture, tokens: &Tokens) -> Fixture {
    Fixture::start_with(open.database.clone(), with_http(tokens.settings())).await
}

fn limited_to(tokens: &Tokens, role: &str, tenants: &[&str]) -> String {
    let arguments: Vec<&str> = tenants.iter().flat_map(|id| ["--tenant", id]).collect();
    tokens.create_with("booking", &[role], &arguments)
}

async fn list(fixture: &Fixture, token: &str, request: ListTenantsRequest) -> Result<ListTenantsResponse, Status> {
    fixture.provisioning.clone().list_tenants(with_bearer(request, Some(token))).await.map(tonic::Response::into_inner)
}

/// The slugs on all pages, of two tenants each.
async fn slugs(fixture: &Fixture, token: &str, request: ListTenantsRequest) -> Vec<String> {
    let mut request = ListTenantsRequest { page_size: 2, ..request };
    let mut slugs = Vec::new();
    loop {
        let page = list(fixture, token, request.clone()).await.unwrap();
        assert!(page.tenants.len() <= 2);
        slugs.extend(page.tenants.into_iter().map(|tenant| tenant.slug));
        if page.next_page_token.is_empty() {
            return slugs;
        }
        request.page_token = page.next_page_token;
    }
}

fn all() -> ListTenantsRequest {
    ListTenantsRequest::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_caller_acts_on_its_tenants_and_learns_nothing_of_others() {
    let open = Fixture::start().await;
    let (own, other) = (open.tenant("bella-weddings").await, open.tenant("omers-cafe").await);
    let tokens = Tokens::new();
    let provisioner = limited_to(&tokens, "provisioner", &[&own.id]);
    let catalog = limited_to(&tokens, "catalog", &[&own.id]);
    let closed = closed(&open, &tokens).await;
    let rename = async |tenant_id: &str, name: &str| {
        let request = UpdateTenantRequest {
            tenant_id: tenant_id.to_owned(),
            name: Some(name.to_owned()),
            ..UpdateTenantRequest::default()
        };
        closed.provisioning.clone().update_tenant(with_bearer(request, Some(&provisioner))).await.map(drop)
    };
    let packages = async |tenant_id: &str| {
        let request = ListPackagesRequest { tenant_id: tenant_id.to_owned(), ..ListPackagesRequest::default() };
        closed.catalog.clone().list_packages(with_bearer(request, Some(&catalog))).await.map(drop)
    };
    rename(&own.id, "Bella").await.unwrap();
    packages(&own.id).await.unwrap();
    let mut denied = Vec::new();
    for foreign in [&other.id, &Uuid::new_v4().to_string()] {
        denied.push(rename(foreign, "Omer").await.unwrap_err());
        // Not the other violations of the request, either.
        denied.push(rename(foreign, "").await.unwrap_err());
        denied.push(packages(foreign).await.unwrap_err());
    }
    for slug in ["bella-weddings", "omers-cafe", "no-such-tenant"] {
        let request = GetTenantRequest { identifier: Some(Identifier::Slug(slug.to_owned())) };
        let request = with_bearer(request, Some(&provisioner));
        denied.push(closed.provisioning.clone().get_tenant(request).await.unwrap_err());
    }
    let create = with_bearer(named("new-tenant"), Some(&provisioner));
    denied.push(closed.provisioning.clone().create_fully_provisioned(create).await.unwrap_err());
    let verify = with_bearer(VerifyApiKeyRequest { secret_key: own.secret_key.clone() }, Some(&provisioner));
    denied.push(closed.provisioning.clone().verify_api_key(verify).await.unwrap_err());
    for status in denied {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"));
    }
    let create = json!({ "slug": "new-tenant", "name": "Bella" });
    let authorization = format!("Bearer {provisioner}");
    let http = closed.http();
    let response = http.post_with("/api/v1/admin/tenants", &create, &[("authorization", &authorization)]).await;
    assert_eq!((response.status.as_u16(), &response.json()["error"]), (403, &json!("PERMISSION_DENIED")));
    assert_eq!(open.count("tenants").await, 2);

    let malformed = rename("bella-weddings", "").await.unwrap_err();
    let expected = [("tenant_id", "BAD_FORMAT"), ("name", "MISSING_FIELD")];
    assert_eq!(violations(&malformed), expected.map(|(field, reason)| (field.to_owned(), reason.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_caller_lists_its_own_tenants_in_every_order_and_with_every_filter() {
    let open = Fixture::start().await;
    let mut ids = Vec::new();
    for slug in ["zoe", "hidden-one", "bella", "adam", "hidden-two", "bea"] {
        ids.push(open.tenant(slug).await.id);
    }
    let [zoe, _, bella, adam, _, bea] = &ids[..] else { panic!() };
    open.suspend_tenant(adam).await.unwrap();
    open.delete_tenant(bea).await.unwrap();
    let tokens = Tokens::new();
    // A tenant that does not exist is not in the list.
    let token = limited_to(&tokens, "reader", &[zoe, bella, adam, bea, UNKNOWN_TENANT]);
    let closed = closed(&open, &tokens).await;
    let by_prefix = |prefix: &str| ListTenantsRequest { slug_prefix: prefix.to_owned(), ..all() };
    for (request, expected) in [
        (all(), &["zoe", "bella", "adam"][..]),
        (ListTenantsRequest { newest_first: true, ..all() }, &["adam", "bella", "zoe"]),
        (ListTenantsRequest { show_deleted: true, ..all() }, &["zoe", "bella", "adam", "bea"]),
        (ListTenantsRequest { is_active: Some(true), ..all() }, &["zoe", "bella"]),
        (ListTenantsRequest { is_active: Some(false), ..all() }, &["adam"]),
        (by_prefix("b"), &["bella"]),
        (ListTenantsRequest { show_deleted: true, ..by_prefix("b") }, &["bea", "bella"]),
        (by_prefix("hidden"), &[]),
    ] {
        assert_eq!(slugs(&closed, &token, request.clone()).await, expected, "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_is_bound_to_the_tenants_of_its_caller() {
    let open = Fixture::start().await;
    let (one, two) = (open.tenant("one").await.id, open.tenant("two").await.id);
    open.tenant("three").await;
    let tokens = Tokens::new();
    let unlimited = tokens.create("booking", &["reader"]);
    let of_both = limited_to(&tokens, "reader", &[&one, &two]);
    let of_both_too = limited_to(&tokens, "reader", &[&two, &one]);
    let of_two = limited_to(&tokens, "reader", &[&two]);
    let closed = closed(&open, &tokens).await;
    let first = ListTenantsRequest { page_size: 1, ..all() };
    let page_token = list(&closed, &of_both, first.clone()).await.unwrap().next_page_token;
    let next = ListTenantsRequest { page_token, ..first.clone() };
    assert_eq!(list(&closed, &of_both_too, next.clone()).await.unwrap().tenants[0].slug, "two");
    let page_token = list(&closed, &unlimited, first.clone()).await.unwrap().next_page_token;
    let next_of_all = ListTenantsRequest { page_token, ..first };
    for (token, request) in [(&unlimited, &next), (&of_two, &next), (&of_both, &next_of_all)] {
        let error = list(&closed, token, request.clone()).await.unwrap_err();
        assert_eq!(violations(&error), [("page_token".to_owned(), "BAD_FORMAT".to_owned())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_caller_is_shown_the_damage_of_its_own_tenants() {
    let open = Fixture::start().await;
    damage_of_every_kind(&open).await;
    let sound = open.tenant("undamaged").await.id;
    let all = open.check_integrity(None).await.unwrap();
    let damaged: Vec<&str> = all.chunk_by(|a, b| a.tenant_id == b.tenant_id).map(|of| &*of[0].tenant_id).collect();
    let own = [damaged[3], &sound, damaged[0], UNKNOWN_TENANT];
    let tokens = Tokens::new();
    let token = limited_to(&tokens, "reader", &own);
    let of_nothing = limited_to(&tokens, "reader", &[&Uuid::new_v4().to_string()]);
    let closed = closed(&open, &tokens).await;
    let check = async |token: &str| {
        let request = with_bearer(CheckIntegrityRequest { tenant_id: None }, Some(token));
        let mut stream = closed.provisioning.clone().check_integrity(request).await.unwrap().into_inner();
        let mut findings = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            findings.push(response.finding.unwrap());
        }
        findings
    };
    let expected: Vec<_> = all.iter().filter(|finding| own.contains(&&*finding.tenant_id)).cloned().collect();
    assert_eq!(check(&token).await, expected);
    assert_eq!(check(&of_nothing).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_unauthenticated_once_it_has_expired() {
    let tokens = Tokens::new();
    let token = tokens.create_with("booking", &["reader"], &["--expires", "90d"]);
    let fixture = Fixture::with_settings(tokens.settings()).await;
    let list = async || list(&fixture, &token, all()).await.map(drop).map_err(|status| reason(&status));
    assert_eq!(list().await, Ok(()));
    fixture.advance_clock(Duration::days(90) - Duration::hours(1));
    assert_eq!(list().await, Ok(()));
    fixture.advance_clock(Duration::hours(1));
    assert_eq!(list().await, Err("UNAUTHENTICATED".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_entries_are_reported_once_at_every_load_of_the_tokens_file() {
    const PAST: &str = "expires = \"2020-01-01T00:00:00Z\"\n";
    let tokens = Tokens::new();
    for name in ["old", "old", "older"] {
        tokens.create(name, &["reader"]);
        tokens.append(PAST);
    }
    tokens.create("valid", &["reader"]);
    let database = Cluster::get().migrated().await;
    let mut process = Process::start(serve(tokens.folder(), &database.server).args(["--tokens-file", "tokens.toml"]));
    process.address();
    tokens.append("\n");
    process.wait_for("Reloaded the tokens");
    let warnings: Vec<_> = process.log.iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for line in warnings {
        assert!(line.contains("The tokens file has expired entries: remove those of old, older"), "{line}");
    }
}

#[test]
fn token_create_prints_the_token_alone_and_writes_its_tenants_and_its_expiry_to_the_entry() {
    let folder = temp_folder();
    let create = |arguments: &[&str]| {
        let mut command = turnkey(folder.path());
        command.args(["token", "create", "--name", "booking", "--role", "key_manager"]).args(arguments);
        command.args(["--tokens-file", "tokens.toml"]).output().unwrap()
    };
    let id = Uuid::new_v4().to_string();
    let output = create(&["--tenant", &id, "--tenant", UNKNOWN_TENANT, "--expires", "1day 12h"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
    let file: toml::Table = fs::read_to_string(folder.path().join("tokens.toml")).unwrap().parse().unwrap();
    let entry = &file["token"][0];
    let mut tenants = [id.as_str(), UNKNOWN_TENANT];
    tenants.sort_unstable();
    assert_eq!(entry["tenants"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect::<Vec<_>>(), tenants);
    let expires = OffsetDateTime::parse(entry["expires"].as_str().unwrap(), &Rfc3339).unwrap();
    let in_36_hours = turnkey::service::Clock::system().now() + Duration::hours(36);
    assert!((in_36_hours - expires).abs() < Duration::hours(1), "{expires}");

    let before = fs::read(folder.path().join("tokens.toml")).unwrap();
    let output = create(&["--tenant", "bella", "--expires", "soon"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("--tenant: bella must be a UUID") && stderr.contains("--expires: must be"), "{stderr}");
    assert_eq!(fs::read(folder.path().join("tokens.toml")).unwrap(), before);
}
