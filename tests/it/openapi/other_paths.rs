//! The paths that are not RPCs: the platform's established calls and health, and the forms of errors.

use serde_json::{Map, Value, json};

use super::schemas::reference;

pub fn tags() -> [Value; 2] {
    [
        json!({ "name": "Platform", "description": "The established calls of the platform, with its names and errors." }),
        json!({ "name": "Health", "description": "For probes. No credential is needed." }),
    ]
}

pub fn paths() -> [(String, Value); 4] {
    [
        (
            "/api/v1/admin/tenants".to_owned(),
            platform_call(
                "createTenant",
                "Creates a tenant, as `CreateFullyProvisioned`",
                "NewTenant",
                "CreatedTenant",
            ),
        ),
        (
            "/v1/auth/signup".to_owned(),
            platform_call(
                "signUp",
                "Creates a tenant with its owner, as `CreateFromSignup`",
                "SignUp",
                "SignedUpTenant",
            ),
        ),
        ("/healthz".to_owned(), health("isReady", "Whether the server is ready", true)),
        ("/livez".to_owned(), health("isAlive", "Whether the process runs", false)),
    ]
}

fn platform_call(id: &str, summary: &str, request: &str, response: &str) -> Value {
    let content = |schema: &str| json!({ "application/json": { "schema": reference(schema) } });
    let replayed = json!({
        "description": "`true` if an earlier call with the same key created the tenant.",
        "schema": { "type": "string", "const": "true" },
    });
    let key = json!({
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A random UUID (version 4) that makes a retry safe: the `request_id` of the RPC.",
        "schema": { "type": "string", "format": "uuid" },
    });
    let created = json!({
        "description": "The tenant was created, now or by an earlier call with the same key.",
        "headers": { "Idempotent-Replayed": replayed },
        "content": content(response),
    });
    json!({ "post": {
        "operationId": id,
        "tags": ["Platform"],
        "summary": summary,
        "parameters": [key],
        "requestBody": { "required": true, "content": content(request) },
        "responses": {
            "201": created,
            "default": {
                "description": "The call failed. The status is that of the RPC's code; 413 if the body is too large.",
                "content": content("PlatformError"),
            },
        },
    } })
}

fn health(id: &str, summary: &str, can_fail: bool) -> Value {
    let response = |description: &str| {
        let content = json!({ "application/json": { "schema": reference("Health") } });
        json!({ "description": description, "content": content })
    };
    let mut responses = json!({ "200": response("It is.") });
    if can_fail {
        responses["503"] = response("It is not.");
    }
    json!({ "get": { "operationId": id, "tags": ["Health"], "summary": summary, "security": [], "responses": responses } })
}

pub fn schemas() -> Map<String, Value> {
    let text = || json!({ "type": "string" });
    let named = object(&[("id", text()), ("slug", text()), ("name", text())]);
    let tenant = [
        ("id", text()),
        ("slug", text()),
        ("name", text()),
        ("apiKeyPublic", text()),
        ("commissionPercent", json!({ "type": "number" })),
        ("isActive", json!({ "type": "boolean" })),
        ("createdAt", json!({ "type": "string", "format": "date-time" })),
    ];
    let created = [
        ("tenant", object(&tenant)),
        ("secretKey", text()),
        ("segment", reference("NamedResource")),
        ("packages", json!({ "type": "array", "items": reference("NamedResource") })),
    ];
    let owner = [("tenantId", text()), ("slug", text()), ("email", text()), ("apiKeyPublic", text())];
    let invalid = object(&[("field", text()), ("reason", text()), ("description", text())]);
    let detail = [("type", text()), ("value", json!({ "type": "string", "contentEncoding": "base64" }))];
    let schemas = [
        ("NewTenant", request(&[("slug", text()), ("name", text()), ("commission", json!({ "type": "number" }))], 2)),
        ("SignUp", request(&[("email", text()), ("password", text()), ("businessName", text()), ("slug", text())], 3)),
        ("NamedResource", named),
        ("CreatedTenant", object(&created)),
        ("SignedUpTenant", object(&[&owner[..], &created].concat())),
        (
            "PlatformError",
            with_optional(
                object(&[
                    ("status", json!({ "type": "string", "const": "error" })),
                    ("statusCode", json!({ "type": "integer" })),
                    ("error", json!({ "type": "string", "description": "The reason, such as `SLUG_TAKEN`." })),
                    ("message", text()),
                ]),
                "fields",
                json!({ "type": "array", "items": invalid, "description": "The invalid fields, by the caller's names." }),
            ),
        ),
        (
            "Error",
            with_optional(
                with_optional(
                    object(&[(
                        "code",
                        json!({ "type": "string", "description": "The code of gRPC, such as `already_exists`." }),
                    )]),
                    "message",
                    text(),
                ),
                "details",
                json!({ "type": "array", "items": reference("ErrorDetail") }),
            ),
        ),
        (
            "ErrorDetail",
            with_optional(
                object(&detail),
                "debug",
                json!({ "type": "object", "description": "The detail in JSON.", "additionalProperties": true }),
            ),
        ),
        ("Health", object(&[("status", json!({ "type": "string", "enum": ["SERVING", "NOT_SERVING"] }))])),
    ];
    schemas.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

fn object(properties: &[(&str, Value)]) -> Value {
    let required: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn with_optional(mut object: Value, name: &str, schema: Value) -> Value {
    object["properties"][name] = schema;
    object
}

/// An object without further fields. The first `required` ones must be present.
fn request(properties: &[(&str, Value)], required: usize) -> Value {
    let mut schema = object(properties);
    schema["required"].as_array_mut().unwrap().truncate(required);
    schema["additionalProperties"] = json!(false);
    schema
}
