//! The two established calls of the platform.

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    damage::UNKNOWN_TENANT,
    database::TestDatabase,
    fixture::{Fixture, ONE_TENANT, settings, with_http},
    http1::{Http, Received},
    requests::{PASSWORD, REQUEST_ID, request_id},
    tokens::Tokens,
};

const CREATE: &str = "/api/v1/admin/tenants";
const SIGN_UP: &str = "/v1/auth/signup";

async fn start() -> (Fixture, Http) {
    let fixture = Fixture::with_settings(with_http(settings())).await;
    let http = fixture.http();
    (fixture, http)
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// What both responses have in common.
fn assert_provisioned(response: &Value) {
    let tenant = &response["tenant"];
    let names = ["apiKeyPublic", "commissionPercent", "createdAt", "id", "isActive", "name", "slug"];
    assert_eq!(keys(tenant), names);
    assert!(tenant["commissionPercent"].is_number() && tenant["isActive"] == json!(true));
    assert!(tenant["createdAt"].as_str().unwrap().ends_with('Z'));
    assert!(response["secretKey"].as_str().unwrap().starts_with("sk_live_"));
    assert_eq!(keys(&response["segment"]), ["id", "name", "slug"]);
    assert_eq!((&response["segment"]["slug"], &response["segment"]["name"]), (&json!("general"), &json!("General")));
    let packages = response["packages"].as_array().unwrap();
    assert!(packages.iter().all(|package| keys(package) == ["id", "name", "slug"]));
    let slugs: Vec<&str> = packages.iter().map(|package| package["slug"].as_str().unwrap()).collect();
    assert_eq!(slugs, ["basic-package", "standard-package", "premium-package"]);
}

#[tokio::test]
async fn creating_a_tenant_has_the_established_response() {
    let (fixture, http) = start().await;
    let create = json!({ "slug": "bella-weddings", "name": "Bella Weddings", "commission": 12.5 });
    let created = http.post(CREATE, &create).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let response = created.json();
    assert_eq!(keys(&response), ["packages", "secretKey", "segment", "tenant"]);
    assert_provisioned(&response);
    assert_eq!(response["tenant"]["commissionPercent"], json!(12.5));
    assert_eq!(created.header("idempotent-replayed"), None);
    assert_eq!(created.header("cache-control"), Some("no-store"));
    assert_eq!(fixture.row_counts().await, ONE_TENANT);

    let default = http.post(CREATE, &json!({ "slug": "omers-cafe", "name": "Omer" })).await.json();
    assert_eq!(default["tenant"]["commissionPercent"], json!(10));
}

#[tokio::test]
async fn signing_up_has_the_established_response_with_the_owner_at_the_top() {
    let (_fixture, http) = start().await;
    let form = json!({ "email": "bella@example.com", "password": PASSWORD, "businessName": "Bella & Co" });
    let created = http.post(SIGN_UP, &form).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let response = created.json();
    let names = ["apiKeyPublic", "email", "packages", "secretKey", "segment", "slug", "tenant", "tenantId"];
    assert_eq!(keys(&response), names);
    assert_provisioned(&response);
    assert_eq!(response["slug"], "bella-co");
    assert_eq!(response["email"], "bella@example.com");
    assert_eq!(response["tenantId"], response["tenant"]["id"]);
    assert_eq!(response["apiKeyPublic"], response["tenant"]["apiKeyPublic"]);

    let with_slug =
        json!({ "email": "o@example.com", "password": PASSWORD, "businessName": "Omer", "slug": "omers-cafe" });
    assert_eq!(http.post(SIGN_UP, &with_slug).await.json()["slug"], "omers-cafe");
}

#[tokio::test]
async fn an_idempotency_key_replays_the_response_with_its_secret_and_says_so() {
    let (fixture, http) = start().await;
    for (path, form) in [
        (CREATE, json!({ "slug": "bella", "name": "Bella" })),
        (SIGN_UP, json!({ "email": "bella@example.com", "password": PASSWORD, "businessName": "Bella" })),
    ] {
        let send = async || http.post_with(path, &form, &[("idempotency-key", REQUEST_ID)]).await;
        let (first, replay) = (send().await, send().await);
        assert_eq!((first.status, first.header("idempotent-replayed")), (StatusCode::CREATED, None), "{first:?}");
        assert_eq!((replay.status, replay.header("idempotent-replayed")), (StatusCode::CREATED, Some("true")));
        assert_eq!(first.json(), replay.json());
    }
    assert_eq!(fixture.count("tenants").await, 2);
    let other = json!({ "slug": "other", "name": "Bella" });
    let reused = http.post_with(CREATE, &other, &[("idempotency-key", REQUEST_ID)]).await;
    assert_eq!((reused.status, &reused.json()["error"]), (StatusCode::BAD_REQUEST, &json!("REQUEST_ID_REUSED")));
}

#[tokio::test]
async fn an_idempotency_key_that_could_be_guessed_is_refused_and_not_repeated() {
    let (fixture, http) = start().await;
    let form = json!({ "slug": "bella", "name": "Bella" });
    let time_based = UNKNOWN_TENANT;
    for invalid in ["", "order-4711", time_based, "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""] {
        let response = http.post_with(CREATE, &form, &[("idempotency-key", invalid)]).await;
        assert_eq!(response.status, StatusCode::BAD_REQUEST, "{invalid}");
        let error = response.json();
        assert_eq!(error["fields"][0]["field"], "Idempotency-Key");
        assert!(invalid.is_empty() || !error.to_string().contains(invalid), "{error}");
    }
    let (one, two) = (request_id(1), request_id(2));
    let twice = [("idempotency-key", one.as_str()), ("idempotency-key", two.as_str())];
    assert_eq!(http.post_with(CREATE, &form, &twice).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(fixture.count("tenants").await, 0);
}

#[tokio::test]
async fn errors_have_the_established_form_and_the_names_of_the_callers_fields() {
    let (_fixture, http) = start().await;
    let invalid = http.post(CREATE, &json!({ "slug": "-", "commission": 101 })).await;
    assert_eq!(invalid.status, StatusCode::BAD_REQUEST);
    let error = invalid.json();
    assert_eq!(keys(&error), ["error", "fields", "message", "status", "statusCode"]);
    assert_eq!((&error["status"], &error["statusCode"]), (&json!("error"), &json!(400)));
    assert_eq!(
        (&error["error"], &error["message"]),
        (&json!("INVALID_REQUEST"), &json!("3 fields are missing or invalid"))
    );
    let fields = error["fields"].as_array().unwrap();
    let named: Vec<(&str, &str)> =
        fields.iter().map(|field| (field["field"].as_str().unwrap(), field["reason"].as_str().unwrap())).collect();
    assert_eq!(named, [("slug", "TOO_SHORT"), ("name", "MISSING_FIELD"), ("commission", "OUT_OF_RANGE")]);
    assert_eq!(keys(&fields[0]), ["description", "field", "reason"]);

    let weak = json!({ "email": "bella@example.com", "password": "password1", "businessName": "Bella" });
    let weak = http.post(SIGN_UP, &weak).await.json();
    assert_eq!(
        (&weak["fields"][0]["field"], &weak["fields"][0]["reason"]),
        (&json!("password"), &json!("WEAK_PASSWORD"))
    );
    let nameless = http.post(SIGN_UP, &json!({ "email": "bella@example.com", "password": PASSWORD })).await.json();
    assert_eq!(nameless["message"], "businessName is required");

    http.post(CREATE, &json!({ "slug": "bella", "name": "Bella" })).await;
    let taken = http.post(CREATE, &json!({ "slug": "bella", "name": "Bella" })).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    let taken = taken.json();
    assert_eq!(keys(&taken), ["error", "message", "status", "statusCode"]);
    assert_eq!((&taken["error"], &taken["statusCode"]), (&json!("SLUG_TAKEN"), &json!(409)));
}

#[tokio::test]
async fn json_that_cannot_be_read_names_the_callers_field() {
    let (_fixture, http) = start().await;
    for (form, field) in [
        (json!({ "slug": "bella", "name": "Bella", "commissionPercent": 5 }), "commissionPercent"),
        (json!({ "slug": "bella", "name": "Bella", "commission": "5" }), "commission"),
        (json!({ "slug": 4711, "name": "Bella" }), "slug"),
        (json!({ "slug": "bella", "name": "Bella", "requestId": REQUEST_ID }), "requestId"),
        // The RPC has fields of these names.
        (json!({ "slug": "bella", "name": "Bella", "request_id": REQUEST_ID }), "request_id"),
        (json!({ "slug": "bella", "name": "Bella", "commission_percent": 5 }), "commission_percent"),
    ] {
        let response = http.post(CREATE, &form).await;
        assert_eq!(response.status, StatusCode::BAD_REQUEST, "{form}");
        let error = response.json();
        assert_eq!(
            (&error["error"], &error["fields"][0]["field"]),
            (&json!("INVALID_REQUEST"), &json!(field)),
            "{error}"
        );
        assert!(error["message"].as_str().unwrap().starts_with(field), "{error}");
    }
}

#[tokio::test]
async fn a_retryable_error_says_when_to_retry() {
    let fixture = Fixture::start_with(TestDatabase::unreachable(), with_http(settings())).await;
    let unavailable = fixture.http().post(CREATE, &json!({ "slug": "bella", "name": "Bella" })).await;
    assert_eq!(unavailable.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(unavailable.header("retry-after"), Some("1"));
    let error = unavailable.json();
    assert_eq!((&error["error"], &error["statusCode"]), (&json!("DATABASE_UNAVAILABLE"), &json!(503)));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_calls_need_a_credential_with_the_role_before_the_request_is_looked_at() {
    let tokens = Tokens::new();
    let (provisioner, catalog) = (tokens.create("web", &["provisioner"]), tokens.create("booking", &["catalog"]));
    let fixture = Fixture::with_settings(with_http(tokens.settings())).await;
    let http = fixture.http();
    for path in [CREATE, SIGN_UP] {
        let send = async |credential: Option<&str>| -> Received {
            let authorization = credential.map(|token| format!("Bearer {token}"));
            let headers = authorization.iter().map(|value| ("authorization", value.as_str())).collect::<Vec<_>>();
            http.post_with(path, &json!({ "unknown": 1 }), &headers).await
        };
        let refused = send(None).await;
        assert_eq!((refused.status, refused.header("www-authenticate")), (StatusCode::UNAUTHORIZED, Some("Bearer")));
        assert_eq!(refused.json()["error"], "UNAUTHENTICATED");
        assert_eq!(send(Some("svc_web_wrong")).await.status, StatusCode::UNAUTHORIZED);
        let denied = send(Some(&catalog)).await;
        assert_eq!((denied.status, &denied.json()["error"]), (StatusCode::FORBIDDEN, &json!("PERMISSION_DENIED")));
        assert_eq!(send(Some(&provisioner)).await.status, StatusCode::BAD_REQUEST);
    }
}
