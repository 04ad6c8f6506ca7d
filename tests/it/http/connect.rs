//! The Connect protocol, in JSON and in protobuf: calls, streams, errors and deadlines.

use http::{Request, StatusCode};
use prost::{Message as _, bytes::Bytes};
use serde_json::{Value, json};
use turnkey::{
    config::ServerSettings,
    grpc::pb::{
        GetTenantRequest, GetTenantResponse, ListPackagesRequest, ListPackagesResponse, get_tenant_request::Identifier,
    },
};

use crate::support::{
    damage::{UNKNOWN_TENANT, damage_of_every_kind},
    database::TestDatabase,
    fixture::{Fixture, settings, with_http},
    http1::{Http, Received},
    requests::REQUEST_ID,
    tokens::Tokens,
};

const PROVISIONING: &str = "/turnkey.v1.TenantProvisioning";
const CATALOG: &str = "/turnkey.v1.PackageCatalog";

async fn start() -> (Fixture, Http) {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    let http = fixture.http();
    (fixture, http)
}

/// The reason in the `ErrorInfo` of an error.
fn reason(error: &Value) -> &str {
    let details = error["details"].as_array().unwrap();
    let info = details.iter().find(|detail| detail["type"] == "google.rpc.ErrorInfo").unwrap();
    info["debug"]["reason"].as_str().unwrap()
}

async fn post(http: Http, path: &str, content_type: &str, body: impl Into<Bytes>) -> Received {
    http.send(Request::post(path).header("content-type", content_type).body(body.into()).unwrap()).await
}

#[tokio::test]
async fn a_unary_call_in_json_has_the_established_names_text_for_int64_and_zero_values() {
    let (fixture, http) = start().await;
    let create = json!({ "slug": "bella-weddings", "name": "Bella Weddings", "commissionPercent": 0 });
    let created = http.post(&format!("{PROVISIONING}/CreateFullyProvisioned"), &create).await;
    assert_eq!(created.status, StatusCode::OK);
    let created = created.json();
    let tenant_id = created["tenant"]["id"].as_str().unwrap();
    assert_eq!(created["tenant"]["commissionPercent"], json!(0));
    assert_eq!(created["tenant"]["branding"], json!({}));
    assert_eq!(created["replayed"], json!(false), "a zero value");
    assert_eq!(created["packages"][0]["basePrice"], json!("0"), "an int64 is text");
    assert_eq!(created["packages"][0]["bookingType"], "BOOKING_TYPE_DATE");
    assert!(created["secretKey"].as_str().unwrap().starts_with("sk_live_bella_"));

    // Both names of a field are accepted, int64 as a number and as text.
    for (name, price) in [("basePrice", json!(250_000)), ("base_price", json!("250000"))] {
        let upsert = json!({ "tenantId": tenant_id, "slug": "gold", "name": "Gold", name: price });
        let upserted = http.post(&format!("{CATALOG}/UpsertPackage"), &upsert).await.json();
        assert_eq!(upserted["package"]["basePrice"], "250000");
    }
    fixture.suspend_tenant(tenant_id).await.unwrap();
    let found = http.post(&format!("{PROVISIONING}/GetTenant"), &json!({ "tenantId": tenant_id })).await.json();
    assert_eq!(found["tenant"]["isActive"], json!(false));
    assert!(found["tenant"].get("deletedAt").is_none() && found["tenant"].get("ownerEmail").is_none(), "absent fields");
}

#[tokio::test]
async fn a_unary_call_in_protobuf_is_the_same_call() {
    let (fixture, http) = start().await;
    let tenant = fixture.tenant("bella").await;
    let request = GetTenantRequest { identifier: Some(Identifier::TenantId(tenant.id.clone())) };
    let response = post(http, &format!("{PROVISIONING}/GetTenant"), "application/proto", request.encode_to_vec()).await;
    assert_eq!((response.status, response.header("content-type")), (StatusCode::OK, Some("application/proto")));
    assert_eq!(GetTenantResponse::decode(response.body).unwrap().tenant.unwrap().id, tenant.id);
}

#[tokio::test]
async fn a_message_without_fields_is_empty_in_protobuf_and_an_empty_object_in_json() {
    let (fixture, http) = start().await;
    let tenant = fixture.tenant("bella").await;
    let delete = |package: usize| json!({ "tenantId": tenant.id, "packageId": tenant.package_ids[package] });
    let in_json = http.post(&format!("{CATALOG}/DeletePackage"), &delete(0)).await;
    assert_eq!((in_json.status, in_json.json()), (StatusCode::OK, json!({})));
    let request = turnkey::grpc::pb::DeletePackageRequest {
        tenant_id: tenant.id.clone(),
        package_id: tenant.package_ids[1].clone(),
        ..Default::default()
    };
    let binary = post(http, &format!("{CATALOG}/DeletePackage"), "application/proto", request.encode_to_vec()).await;
    assert_eq!((binary.status, binary.body.len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn errors_have_the_status_of_their_code_and_their_details_in_both_forms() {
    let (fixture, http) = start().await;
    fixture.tenant("bella").await;
    let path = format!("{PROVISIONING}/CreateFullyProvisioned");
    let taken = http.post(&path, &json!({ "slug": "bella", "name": "Bella" })).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    let taken = taken.json();
    assert_eq!((taken["code"].as_str(), reason(&taken)), (Some("already_exists"), "SLUG_TAKEN"));
    assert_eq!(taken["details"][1]["type"], "google.rpc.ResourceInfo");
    assert_eq!(taken["details"][1]["debug"]["resourceName"], "bella");
    assert!(taken["details"][1]["value"].as_str().unwrap().starts_with("ChF"), "protobuf in base64");

    let invalid = http.post(&path, &json!({ "slug": "-", "commissionPercent": 101 })).await;
    assert_eq!(invalid.status, StatusCode::BAD_REQUEST);
    let invalid = invalid.json();
    assert_eq!(invalid["code"], "invalid_argument");
    let violations = invalid["details"][1]["debug"]["fieldViolations"].as_array().unwrap();
    let fields: Vec<&str> = violations.iter().map(|violation| violation["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["slug", "name", "commission_percent"]);

    let missing = http.post(&format!("{PROVISIONING}/GetTenant"), &json!({ "slug": "unknown" })).await;
    assert_eq!((missing.status, reason(&missing.json())), (StatusCode::NOT_FOUND, "TENANT_NOT_FOUND"));
    let request = json!({ "slug": "bella-two", "name": "Bella", "requestId": REQUEST_ID });
    assert_eq!(http.post(&path, &request).await.status, StatusCode::OK);
    let reused = json!({ "slug": "bella-three", "name": "Bella", "requestId": REQUEST_ID });
    let reused = http.post(&path, &reused).await;
    assert_eq!((reused.status, reason(&reused.json())), (StatusCode::BAD_REQUEST, "REQUEST_ID_REUSED"));
}

#[tokio::test]
async fn json_that_cannot_be_read_names_the_field_and_never_repeats_its_value() {
    let (_fixture, http) = start().await;
    let create = format!("{PROVISIONING}/CreateFullyProvisioned");
    let batch = format!("{CATALOG}/BatchUpsertPackages");
    for (path, body, field) in [
        (&create, r#"{"slgu": "bella"}"#, Some("slgu")),
        (&batch, r#"{"packages": [{}, {"prise": 5}]}"#, Some("packages[1].prise")),
        (&batch, r#"{"packages": [{}, {"basePrice": "sk_live_secret"}]}"#, Some("packages[1].basePrice")),
        (&create, r#"{"slug": 4711}"#, Some("slug")),
        (&create, r#"{"slug": ["sk_live_secret"]}"#, Some("slug")),
        (&create, r#"{"commissionPercent": "sk_live_secret"}"#, Some("commissionPercent")),
        (&format!("{PROVISIONING}/GetTenant"), r#"{"slug": "a", "tenantId": "b"}"#, Some("identifier")),
        (&create, r#"{"slug": "sk_live_secret""#, None),
        (&create, "", None),
        (&create, "null", None),
        (&create, r#"["sk_live_secret"]"#, None),
        (&create, r#"{"slug": "a"} sk_live_secret"#, None),
        (&create, "{\"slug\": \"\u{1}\"}", None),
    ] {
        let response = post(http, path, "application/json", body.to_owned()).await;
        assert_eq!(response.status, StatusCode::BAD_REQUEST, "{body}");
        let error = response.json();
        assert_eq!(error["code"], "invalid_argument", "{body}");
        let text = error.to_string();
        assert!(!text.contains("sk_live_secret") && !text.contains("4711"), "{text}");
        match field {
            None => assert!(error["message"].as_str().unwrap().starts_with("the JSON "), "{error}"),
            Some(field) => {
                assert!(error["message"].as_str().unwrap().starts_with(field), "{error}");
                let violation = &error["details"][1]["debug"]["fieldViolations"][0];
                assert_eq!(violation["field"], field);
                assert_eq!(violation["reason"], "BAD_FORMAT");
            }
        }
    }
    // Bytes that are no UTF-8.
    let response = post(http, &create, "application/json", &b"{\"slug\": \"\xff\"}"[..]).await;
    assert_eq!(response.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_replay_returns_the_same_secret_whether_the_call_came_by_grpc_or_by_http() {
    let (fixture, http) = start().await;
    let first = fixture.create(crate::support::requests::bella_with_request_id()).await.unwrap();
    let repeat = json!({ "slug": "bella-weddings", "name": "Bella Weddings", "requestId": REQUEST_ID });
    let replay = http.post(&format!("{PROVISIONING}/CreateFullyProvisioned"), &repeat).await.json();
    assert_eq!((replay["secretKey"].as_str(), &replay["replayed"]), (Some(first.secret_key.as_str()), &json!(true)));
}

/// The envelopes of a stream: flags and JSON.
fn envelopes(mut body: &[u8]) -> Vec<(u8, Value)> {
    let mut found = Vec::new();
    while let [flags, a, b, c, d, rest @ ..] = body {
        let (message, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]).try_into().unwrap());
        found.push((*flags, serde_json::from_slice(message).unwrap()));
        body = rest;
    }
    found
}

fn envelope(flags: u8, json: &str) -> Bytes {
    let length = u32::try_from(json.len()).unwrap().to_be_bytes();
    [&[flags][..], &length, json.as_bytes()].concat().into()
}

const CHECK: &str = "/turnkey.v1.TenantProvisioning/CheckIntegrity";

async fn check(http: Http, body: Bytes) -> Vec<(u8, Value)> {
    let response = post(http, CHECK, "application/connect+json", body).await;
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(response.header("content-type"), Some("application/connect+json"));
    envelopes(&response.body)
}

#[tokio::test]
async fn a_stream_has_an_envelope_for_each_message_and_ends_with_its_status() {
    let (fixture, http) = start().await;
    assert_eq!(check(http, envelope(0, "{}")).await, [(2, json!({}))]);
    damage_of_every_kind(&fixture).await;
    let envelopes = check(http, envelope(0, "{}")).await;
    let (end, messages) = envelopes.split_last().unwrap();
    assert_eq!(end, &(2, json!({})));
    let expected = fixture.check_integrity(None).await.unwrap();
    assert!(!expected.is_empty());
    let slugs: Vec<&str> = messages.iter().map(|(_, message)| message["finding"]["slug"].as_str().unwrap()).collect();
    assert_eq!(slugs, expected.iter().map(|finding| finding.slug.as_str()).collect::<Vec<_>>());
    assert!(messages.iter().all(|(flags, _)| *flags == 0));
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_the_error_and_has_status_200() {
    let (_fixture, http) = start().await;
    let unknown = UNKNOWN_TENANT;
    for (body, code) in [
        (envelope(0, &format!(r#"{{"tenantId": "{unknown}"}}"#)), "not_found"),
        (envelope(0, r#"{"tenantId": "x"}"#), "invalid_argument"),
        (envelope(0, r#"{"tenant": "x"}"#), "invalid_argument"),
        (envelope(1, "{}"), "invalid_argument"),
        (envelope(0, "{}").slice(..6), "invalid_argument"),
        (Bytes::new(), "invalid_argument"),
        ([envelope(0, "{}"), envelope(0, "{}")].concat().into(), "invalid_argument"),
    ] {
        let ended = check(http, body.clone()).await;
        let [(2, end)] = ended.as_slice() else { panic!("{body:?}: {ended:?}") };
        assert_eq!(end["error"]["code"], code, "{body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retryable_error_says_when_to_retry_in_headers_and_in_the_end_of_a_stream() {
    let tokens = Tokens::new();
    let token = tokens.create("frequent", &["provisioner"]);
    let limited = ServerSettings { rate_limit_per_caller: Some(1.try_into().unwrap()), ..tokens.settings() };
    let fixture = Fixture::with_settings(with_http(limited)).await;
    let http = fixture.http();
    let authorization = format!("Bearer {token}");
    let limited = loop {
        let headers = [("authorization", authorization.as_str())];
        let response = http.post_with(&format!("{PROVISIONING}/ListTenants"), &json!({}), &headers).await;
        if response.status != StatusCode::OK {
            break response;
        }
    };
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(limited.header("retry-after"), Some("1"), "whole seconds, rounded up");
    assert!(limited.header("grpc-retry-pushback-ms").unwrap().parse::<u64>().unwrap() <= 1_000);
    let error = limited.json();
    assert_eq!((error["code"].as_str(), reason(&error)), (Some("resource_exhausted"), "OVERLOADED"));

    let stream = Request::post(CHECK).header("content-type", "application/connect+json");
    let stream = stream.header("authorization", authorization).body(envelope(0, "{}")).unwrap();
    let ended = envelopes(&http.send(stream).await.body);
    let [(2, end)] = ended.as_slice() else { panic!("{ended:?}") };
    assert_eq!(end["error"]["code"], "resource_exhausted");
    assert_eq!(end["metadata"]["retry-after"], json!(["1"]));
    let pushback = end["metadata"]["grpc-retry-pushback-ms"][0].as_str().unwrap();
    assert!(pushback.parse::<u64>().unwrap() <= 1_000, "{pushback}");
}

#[tokio::test]
async fn the_timeout_of_a_call_is_its_deadline() {
    let (fixture, http) = start().await;
    let path = format!("{PROVISIONING}/ListTenants");
    let with_timeout =
        async |timeout: &str| http.post_with(&path, &json!({}), &[("connect-timeout-ms", timeout)]).await;
    assert_eq!(with_timeout("30000").await.status, StatusCode::OK);
    assert_eq!(with_timeout("9999999999").await.status, StatusCode::OK);
    let superuser = fixture.superuser_pool().await;
    let mut holder = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenants").execute(&mut *holder).await.unwrap();
    let late = with_timeout("50").await;
    assert_eq!((late.status, reason(&late.json())), (StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"));
    for invalid in ["", "-1", "1s", "99999999999", "1.5"] {
        let response = with_timeout(invalid).await;
        assert_eq!(response.status, StatusCode::BAD_REQUEST, "{invalid:?}");
        assert!(response.json()["message"].as_str().unwrap().contains("Connect-Timeout-Ms"));
    }
}

#[tokio::test]
async fn a_compressed_message_and_another_protocol_version_are_refused_as_the_protocol_says() {
    let (_fixture, http) = start().await;
    let path = format!("{PROVISIONING}/ListTenants");
    let with_header = async |name: &str, value: &str| http.post_with(&path, &json!({}), &[(name, value)]).await;
    assert_eq!(with_header("content-encoding", "identity").await.status, StatusCode::OK);
    let compressed = with_header("content-encoding", "gzip").await;
    assert_eq!(
        (compressed.status, compressed.json()["code"].as_str()),
        (StatusCode::NOT_IMPLEMENTED, Some("unimplemented"))
    );
    assert_eq!(with_header("connect-protocol-version", "1").await.status, StatusCode::OK);
    assert_eq!(with_header("connect-protocol-version", "2").await.status, StatusCode::BAD_REQUEST);
    // A stream ends with the error.
    let stream = Request::post(CHECK).header("content-type", "application/connect+json");
    let stream = stream.header("connect-content-encoding", "gzip").body(envelope(0, "{}")).unwrap();
    let refused = http.send(stream).await;
    assert_eq!(refused.status, StatusCode::OK);
    let ended = envelopes(&refused.body);
    let [(2, end)] = ended.as_slice() else { panic!("{ended:?}") };
    assert_eq!(end["error"]["code"], "unimplemented");
    // Headers of gRPC have no meaning here.
    for (name, value) in [("grpc-timeout", "1n"), ("grpc-encoding", "gzip")] {
        assert_eq!(with_header(name, value).await.status, StatusCode::OK, "{name}");
    }
}

#[tokio::test]
async fn an_unreachable_database_is_503_with_a_retry_delay() {
    let fixture = Fixture::start_with(TestDatabase::unreachable(), with_http(settings())).await;
    let path = format!("{PROVISIONING}/ListTenants");
    let response = fixture.http().post(&path, &json!({})).await;
    assert_eq!((response.status, reason(&response.json())), (StatusCode::SERVICE_UNAVAILABLE, "DATABASE_UNAVAILABLE"));
    assert_eq!(response.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_large_response_arrives_whole_in_both_forms() {
    let (fixture, http) = start().await;
    let tenant = fixture.tenant("bella").await;
    let packages: Vec<Value> = (0..200)
        .map(|number| json!({ "slug": format!("gold-{number}"), "name": "Gold", "basePrice": 1, "description": "é".repeat(2_000) }))
        .collect();
    let batch = json!({ "tenantId": tenant.id, "packages": packages });
    let upserted = http.post(&format!("{CATALOG}/BatchUpsertPackages"), &batch).await;
    assert_eq!(upserted.status, StatusCode::OK);
    assert_eq!(upserted.json()["results"].as_array().unwrap().len(), 200);
    let listed =
        http.post(&format!("{CATALOG}/ListPackages"), &json!({ "tenantId": tenant.id, "pageSize": 500 })).await;
    assert!(listed.body.len() > 800_000);
    assert_eq!(listed.json()["packages"].as_array().unwrap().len(), 203);
    let request = ListPackagesRequest { tenant_id: tenant.id, page_size: 500, ..ListPackagesRequest::default() };
    let binary = post(http, &format!("{CATALOG}/ListPackages"), "application/proto", request.encode_to_vec()).await;
    assert_eq!(ListPackagesResponse::decode(binary.body).unwrap().packages.len(), 203);
}
