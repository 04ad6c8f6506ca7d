//! The tools of agents, by the Model Context Protocol.

use http::{Method, Request, StatusCode};
use prost::bytes::Bytes;
use serde_json::{Value, json};
use time::Duration as SignedDuration;
use turnkey::{
    config::ServerSettings,
    domain::Quotas,
    grpc::pb::{UpsertPackageRequest, UpsertSegmentRequest},
};

use crate::support::{
    fixture::{Fixture, NewTenant, settings, with_http},
    http1::{Http, Received, request},
    requests::{gold, unknown_secret_key},
    tokens::Tokens,
};

const PATH: &str = "/mcp";

/// An agent with the secret key of a tenant.
struct Agent {
    http: Http,
    key: String,
}

impl Agent {
    fn new(fixture: &Fixture, tenant: &NewTenant) -> Self {
        Self { http: fixture.http(), key: tenant.secret_key.clone() }
    }

    async fn post_bytes(&self, body: impl Into<Bytes>) -> Received {
        let post = Request::post(PATH).header("content-type", "application/json");
        self.http.send(post.header("authorization", format!("Bearer {}", self.key)).body(body.into()).unwrap()).await
    }

    async fn post(&self, message: &Value) -> Received {
        self.post_bytes(message.to_string()).await
    }

    /// Returns the result of a request that the protocol permits.
    async fn request(&self, method: &str, params: Value) -> Value {
        let message = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let response = self.post(&message).await;
        assert_eq!(response.status, StatusCode::OK, "{response:?}");
        let response = response.json();
        assert_eq!((&response["jsonrpc"], &response["id"]), (&json!("2.0"), &json!(7)));
        response["result"].clone()
    }

    /// Calls a tool, which succeeds.
    async fn call(&self, tool: &str, arguments: Value) -> Value {
        let result = self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await;
        assert_eq!(result["isError"], json!(false), "{result}");
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"], "clients read one or the other");
        text
    }

    /// Calls a tool, which fails, and returns the text.
    async fn call_error(&self, tool: &str, arguments: Value) -> String {
        let result = self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await;
        assert_eq!(result["isError"], json!(true), "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }
}

async fn start() -> (Fixture, NewTenant, Agent) {
    start_with(settings()).await
}

async fn start_with(settings: ServerSettings) -> (Fixture, NewTenant, Agent) {
    let fixture = Fixture::with_settings(with_http(settings)).await;
    let tenant = fixture.tenant("bella").await;
    let agent = Agent::new(&fixture, &tenant);
    (fixture, tenant, agent)
}

fn slugs(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["slug"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_agent_initializes_with_the_version_it_knows_and_there_is_no_session() {
    let (_fixture, _tenant, agent) = start().await;
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let client = json!({ "name": "test", "version": "1" });
        let params = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": client });
        let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
        let response = agent.post(&initialize).await;
        assert_eq!((response.status, response.header("mcp-session-id")), (StatusCode::OK, None));
        let result = &response.json()["result"];
        assert_eq!((&result["protocolVersion"], &result["serverInfo"]["name"]), (&json!(version), &json!("turnkey")));
        assert!(result["capabilities"]["tools"].is_object() && result["capabilities"]["resources"].is_null());
    }
    let initialized = agent.post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
    assert_eq!((initialized.status, initialized.body.len()), (StatusCode::ACCEPTED, 0));
    assert_eq!(agent.request("ping", json!({})).await, json!({}));
}

#[tokio::test]
async fn the_tools_have_the_established_names_and_arguments() {
    let (_fixture, _tenant, agent) = start().await;
    let list = agent.request("tools/list", json!({})).await;
    let named = |tool: &Value| {
        let arguments = tool["inputSchema"]["properties"].as_object().unwrap();
        let mut arguments: Vec<&str> = arguments.keys().map(String::as_str).collect();
        arguments.sort_unstable();
        json!([tool["name"], arguments])
    };
    let tools: Vec<Value> = list["tools"].as_array().unwrap().iter().map(named).collect();
    let expected = json!([
        ["get_segments", ["pageToken"]],
        ["get_packages", ["active", "pageToken", "segmentId"]],
        [
            "upsert_package",
            [
                "active",
                "bookingType",
                "description",
                "dryRun",
                "groupingOrder",
                "packageId",
                "priceCents",
                "segmentId",
                "slug",
                "title"
            ]
        ],
    ]);
    assert_eq!(json!(tools), expected);
}

#[tokio::test]
async fn get_segments_and_get_packages_list_the_catalog_of_the_keys_tenant_alone() {
    let (fixture, tenant, agent) = start().await;
    fixture.tenant("other").await;
    let segments = agent.call("get_segments", json!({})).await;
    let general = json!({
        "id": tenant.general_id, "slug": "general", "name": "General", "heroTitle": "Our Services",
        "description": "Your main service offerings", "sortOrder": 0, "active": true
    });
    assert_eq!(segments, json!({ "segments": [general] }));

    let packages = agent.call("get_packages", json!({ "segmentId": "" })).await;
    assert_eq!(slugs(&packages["packages"]), ["basic-package", "standard-package", "premium-package"]);
    let basic = json!({
        "id": tenant.package_ids[0], "segmentId": tenant.general_id, "slug": "basic-package", "title": "Basic Package",
        "description": "Your starter option - perfect for budget-conscious clients", "priceCents": 0,
        "bookingType": "DATE", "active": true, "groupingOrder": 1
    });
    assert_eq!(packages["packages"][0], basic);
    let inactive = agent.call("get_packages", json!({ "segmentId": tenant.general_id, "active": false })).await;
    assert_eq!(inactive, json!({ "packages": [] }));
}

#[tokio::test]
async fn a_long_list_has_a_token_for_its_next_page() {
    let (fixture, tenant, agent) = start().await;
    for number in 0..98 {
        fixture
            .upsert_package(UpsertPackageRequest { name: Some(format!("P {number}")), ..gold(&tenant) })
            .await
            .unwrap();
    }
    let first = agent.call("get_packages", json!({})).await;
    let second = agent.call("get_packages", json!({ "pageToken": first["nextPageToken"] })).await;
    assert_eq!((slugs(&first["packages"]).len(), slugs(&second["packages"])), (100, vec!["p-97"]));
    assert_eq!(second["nextPageToken"], Value::Null);
}

#[tokio::test]
async fn upsert_package_creates_and_updates_and_shows_the_previous_price() {
    let (fixture, tenant, agent) = start().await;
    let weddings = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Weddings".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    let weddings = fixture.upsert_segment(weddings).await.unwrap().segment.unwrap().id;
    // As an agent calls that fills in every argument.
    let arguments = json!({
        "packageId": "", "slug": "", "title": "Elopement", "description": "Two people", "priceCents": 120_000,
        "bookingType": "TIMESLOT", "active": false, "groupingOrder": 9, "segmentId": weddings, "dryRun": false
    });
    let created = agent.call("upsert_package", arguments).await;
    let id = created["package"]["id"].as_str().unwrap();
    let package = json!({
        "id": id, "segmentId": weddings, "slug": "elopement", "title": "Elopement", "description": "Two people",
        "priceCents": 120_000, "bookingType": "TIMESLOT", "active": false, "groupingOrder": 9
    });
    assert_eq!(created, json!({ "action": "CREATED", "dryRun": false, "package": package }));
    assert_eq!(fixture.package(&tenant, id).await.unwrap().base_price, Some(120_000));

    let change = json!({ "packageId": id, "title": "", "priceCents": 0, "bookingType": "", "segmentId": "" });
    let updated = agent.call("upsert_package", change).await;
    assert_eq!((&updated["action"], &updated["previousPrice"]), (&json!("UPDATED"), &json!(120_000)));
    let mut expected = package;
    expected["priceCents"] = json!(0);
    assert_eq!(updated["package"], expected, "empty texts are absent arguments");
}

#[tokio::test]
async fn a_dry_run_returns_what_the_call_would_return_and_changes_nothing() {
    let (fixture, tenant, agent) = start().await;
    let create = json!({ "title": "Gold", "priceCents": 100, "dryRun": true });
    let created = agent.call("upsert_package", create).await;
    assert_eq!((&created["action"], &created["dryRun"]), (&json!("CREATED"), &json!(true)));
    assert_eq!((&created["package"]["slug"], &created["package"]["id"]), (&json!("gold"), &Value::Null));

    let id = &tenant.package_ids[0];
    let before = fixture.package(&tenant, id).await.unwrap();
    let updated = agent.call("upsert_package", json!({ "packageId": id, "priceCents": 5, "dryRun": true })).await;
    assert_eq!(
        (&updated["action"], &updated["previousPrice"], &updated["package"]["priceCents"]),
        (&json!("UPDATED"), &json!(0), &json!(5))
    );
    assert_eq!(fixture.package(&tenant, id).await.unwrap(), before);
    assert_eq!(fixture.count("packages").await, 3);
    let invalid = agent.call_error("upsert_package", json!({ "title": "Gold", "dryRun": true })).await;
    assert_eq!(invalid, "INVALID_REQUEST: priceCents is required");
}

#[tokio::test]
async fn errors_are_results_that_name_the_arguments_and_say_what_to_do() {
    let (fixture, tenant, agent) = start().await;
    let other = fixture.tenant("other").await;
    let own = &tenant.package_ids[0];
    let invalid = agent.call_error("upsert_package", json!({ "priceCents": -1, "packageId": "4711" })).await;
    let (reason, lines) = invalid.split_once(": ").unwrap();
    let arguments: Vec<&str> = lines.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    assert_eq!((reason, arguments), ("INVALID_REQUEST", vec!["packageId", "priceCents"]));
    let hint = "Use get_segments to find available segments for this tenant.";
    for (arguments, text) in [
        (json!({}), "INVALID_REQUEST: title is required\npriceCents is required".to_owned()),
        (json!({ "price": 5 }), "INVALID_REQUEST: price is not an argument of this tool".to_owned()),
        (json!({ "priceCents": "5" }), "INVALID_REQUEST: priceCents must be a whole number".to_owned()),
        (json!({ "bookingType": "HOURLY" }), "INVALID_REQUEST: bookingType must be DATE or TIMESLOT".to_owned()),
        (
            json!({ "packageId": own, "slug": "premium-package" }),
            "PACKAGE_SLUG_TAKEN: the slug already exists".to_owned(),
        ),
        (
            json!({ "packageId": own, "segmentId": other.general_id }),
            format!("SEGMENT_NOT_FOUND: no such segment. {hint}"),
        ),
        (
            json!({ "packageId": other.package_ids[0], "priceCents": 5 }),
            "PACKAGE_NOT_FOUND: no such package\nUse get_packages to find the packages.".to_owned(),
        ),
    ] {
        assert_eq!(agent.call_error("upsert_package", arguments.clone()).await, text, "{arguments}");
    }
    let unknown_segment = agent.call_error("get_packages", json!({ "segmentId": other.general_id })).await;
    assert_eq!(unknown_segment, format!("SEGMENT_NOT_FOUND: no such segment. {hint}"));
    let token = agent.call_error("get_packages", json!({ "pageToken": "x" })).await;
    assert!(token.starts_with("INVALID_REQUEST: pageToken "), "{token}");
    assert_eq!(fixture.package(&other, &other.package_ids[0]).await.unwrap().base_price, Some(0));
}

#[tokio::test]
async fn a_quota_and_a_rate_limit_are_results_too() {
    let quotas = Quotas { packages: 3.try_into().unwrap(), ..Quotas::DEFAULT };
    let limit = Some(1.try_into().unwrap());
    let (_fixture, _tenant, agent) =
        start_with(ServerSettings { quotas, rate_limit_per_caller: limit, ..settings() }).await;
    let create = json!({ "title": "Gold", "priceCents": 100 });
    let mut texts = Vec::new();
    // The limit permits one call each second.
    while texts.len() < 2 {
        let text = agent.call_error("upsert_package", create.clone()).await;
        texts.extend(Some(text).filter(|text| !texts.contains(text)));
    }
    let quota =
        "QUOTA_EXCEEDED: a tenant can have at most 3 packages. Delete packages that the tenant no longer needs.";
    assert_eq!(texts[0], quota);
    assert!(texts[1].starts_with("OVERLOADED: too many calls by this caller\nTry again in "), "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_tenants_own_key_is_permitted_with_and_without_a_tokens_file() {
    let tokens = Tokens::new();
    let service_token = tokens.create("booking", &["catalog", "provisioner"]);
    let (open, tenant, agent) = start().await;
    let strict = Fixture::start_with(open.database.clone(), with_http(tokens.settings())).await;
    let unknown = unknown_secret_key(&tenant.public_key);
    for (http, for_service) in [(agent.http, StatusCode::UNAUTHORIZED), (strict.http(), StatusCode::FORBIDDEN)] {
        // Refused before the message is read.
        let send = async |credential: Option<&str>| {
            let mut post = Request::post(PATH).header("content-type", "application/json");
            if let Some(credential) = credential {
                post = post.header("authorization", format!("Bearer {credential}"));
            }
            http.send(post.body(Bytes::from("{")).unwrap()).await
        };
        assert_eq!(send(Some(&tenant.secret_key)).await.status, StatusCode::BAD_REQUEST);
        let missing = send(None).await;
        assert_eq!((missing.status, missing.header("www-authenticate")), (StatusCode::UNAUTHORIZED, Some("Bearer")));
        assert_eq!(missing.json()["error"], "UNAUTHENTICATED");
        assert_eq!(send(Some(&service_token)).await.status, for_service);
        for invalid in ["", "svc_booking_wrong", "sk_live_wrong", &tenant.public_key, &unknown] {
            assert_eq!(send(Some(invalid)).await.status, StatusCode::UNAUTHORIZED, "{invalid}");
        }
    }
    open.rotate(&tenant, Some(SignedDuration::ZERO)).await;
    assert_eq!(agent.post(&json!({})).await.status, StatusCode::UNAUTHORIZED, "the key has ended");
}

#[tokio::test]
async fn requests_outside_the_protocol_are_refused() {
    let (_fixture, _tenant, agent) = start().await;
    for method in [Method::GET, Method::DELETE, Method::PUT, Method::HEAD, Method::OPTIONS] {
        let refused = agent.http.send(request(method.clone(), PATH)).await;
        assert_eq!(
            (refused.status, refused.header("allow")),
            (StatusCode::METHOD_NOT_ALLOWED, Some("POST")),
            "{method}"
        );
    }
    let text = Request::post(PATH).header("content-type", "text/plain").body("{}".into()).unwrap();
    assert_eq!(agent.http.send(text).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for (encoding, status) in [("identity", StatusCode::UNAUTHORIZED), ("gzip", StatusCode::UNSUPPORTED_MEDIA_TYPE)] {
        let encoded = Request::post(PATH).header("content-type", "application/json");
        let encoded = encoded.header("content-encoding", encoding).body("{}".into()).unwrap();
        assert_eq!(agent.http.send(encoded).await.status, status, "{encoding}");
    }
    for (body, code) in [
        ("", -32700),
        ("{", -32700),
        ("{}", -32600),
        ("[]", -32600),
        (r#"[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]"#, -32600),
        (r#"{"jsonrpc": "1.0", "id": 1, "method": "ping"}"#, -32600),
        (r#"{"jsonrpc": "2.0", "id": 1}"#, -32600),
    ] {
        let refused = agent.post_bytes(body).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["code"]),
            (StatusCode::BAD_REQUEST, &json!(code)),
            "{body}"
        );
    }
    let call = |method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    for (message, code) in [
        (call("resources/list", json!({})), -32601),
        (call("unknown", json!({})), -32601),
        (call("tools/call", json!({ "name": "delete_package", "arguments": {} })), -32602),
    ] {
        let refused = agent.post(&message).await.json();
        assert_eq!(refused["error"]["code"], json!(code), "{message}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_or_that_grows_when_it_is_parsed_is_refused() {
    let (_fixture, _tenant, agent) = start().await;
    let message = r#"{"jsonrpc": "2.0", "id": 1, "method": "ping"}"#;
    let padded = |length: usize| format!("{message}{}", " ".repeat(length - message.len()));
    assert_eq!(agent.post_bytes(padded(256 * 1024)).await.status, StatusCode::OK);
    for length in [256 * 1024 + 1, 3 * 1024 * 1024] {
        let refused = agent.post_bytes(padded(length)).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]),
            (StatusCode::PAYLOAD_TOO_LARGE, &json!("PAYLOAD_TOO_LARGE"))
        );
    }
    let items = format!("[{}0]", "0,".repeat(100_000));
    assert_eq!(agent.post_bytes(items).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    assert_eq!(agent.post_bytes(deep).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_agent_of_the_newest_version_calls_a_tool_without_initializing() {
    let (_fixture, tenant, agent) = start().await;
    let version = "2026-07-28";
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {}
    });
    let params = json!({ "name": "get_segments", "arguments": {}, "_meta": meta });
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let authorization = format!("Bearer {}", tenant.secret_key);
    let mut headers = vec![
        ("authorization", authorization.as_str()),
        ("mcp-protocol-version", version),
        ("mcp-method", "tools/call"),
        ("mcp-name", "get_segments"),
    ];
    let response = agent.http.post_with(PATH, &message, &headers).await;
    assert_eq!(response.status, StatusCode::OK, "{response:?}");
    let result = &response.json()["result"];
    assert_eq!((&result["isError"], &result["resultType"]), (&json!(false), &json!("complete")));
    headers[3].1 = "get_packages";
    assert_eq!(agent.http.post_with(PATH, &message, &headers).await.status, StatusCode::BAD_REQUEST);
}
