//! Secrets appear only in the response that returns them: canary values go through every call with a secret, by gRPC,
//! HTTP and MCP, at the most verbose log level and with telemetry exported.

use std::fmt::Debug;

use http::{Request as HttpRequest, StatusCode};
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::{
    Request, Response, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, ChangePasswordRequest, CreateApiKeyRequest, CreateFromSignupRequest,
    CreateFullyProvisionedRequest, CreateOwnerTokenRequest, ListPackagesRequest, OwnerTokenPurpose,
    RepairTenantRequest, ResetPasswordRequest, RevokeApiKeyRequest, SetOwnerRequest, VerifyApiKeyRequest,
    VerifyEmailRequest, VerifyPasswordRequest, batch_create_fully_provisioned_result::Result as BatchResult,
    package_catalog_client::PackageCatalogClient, tenant_provisioning_client::TenantProvisioningClient,
};

use crate::{
    support::{
        database::{Cluster, TestDatabase, dump},
        fixture::channel,
        http1::Http,
        process::{Process, serve, temp_folder},
        requests::{another_key, bella, named, rotation, rotation_of, signup},
        tokens::Tokens,
    },
    telemetry::Collector,
};

const PASSWORD: &str = "canary under a lamp";
const WRONG_PASSWORD: &str = "canary under the lamp";
const WEAK_PASSWORD: &str = "canary99";
const NEW_PASSWORD: &str = "canary beside a lamp";
const OTHER_PASSWORD: &str = "canary behind a lamp";
const REQUEST_IDS: [&str; 5] = [
    "c0ffee99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "decade99-9c0b-4ef8-bb6d-6bb9bd380a12",
    "facade99-9c0b-4ef8-bb6d-6bb9bd380a13",
    "beaded99-9c0b-4ef8-bb6d-6bb9bd380a14",
    "defaced9-9c0b-4ef8-bb6d-6bb9bd380a15",
];
/// Invalid, and not to be repeated in the error.
const INVALID_REQUEST_ID: &str = "c0ffee99-9c0b-7ef8-bb6d-6bb9bd380a11";

/// The debug output of requests and responses, as a client might log it.
#[derive(Default)]
struct Seen(Vec<String>);

impl Seen {
    fn request<Message: Debug>(&mut self, message: Message) -> Message {
        self.0.push(format!("{message:?}"));
        message
    }

    fn response<Message: Debug>(&mut self, response: Result<Response<Message>, Status>) -> Option<Message> {
        match response {
            Ok(response) => {
                self.0.push(format!("{response:?}"));
                Some(response.into_inner())
            }
            Err(status) => {
                self.0.push(format!("{status:?} {status} {}", String::from_utf8_lossy(status.details())));
                None
            }
        }
    }
}

/// Adds a credential to each call.
struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.0).parse().unwrap());
        Ok(request)
    }
}

type Client = TenantProvisioningClient<InterceptedService<Channel, Bearer>>;

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_log_line_span_debug_output_error_or_table() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let tokens = Tokens::new();
    let token = tokens.create("canary", &["provisioner"]);
    let mut command = serve(folder.path(), &database.server);
    command.args(["--http-listen", "127.0.0.1:0"]).arg("--tokens-file").arg(tokens.file()).env("RUST_LOG", "trace");
    let collector = Collector::default();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.start().await);
    let mut process = Process::start(&mut command);
    let channel = channel(&process.address()).await;
    let http = process.http();
    let mut client = TenantProvisioningClient::with_interceptor(channel.clone(), Bearer(token.clone()));
    let mut seen = Seen::default();
    let mut keys = call_with_secrets(&mut client, &mut seen).await;
    keys.push(call_in_a_batch(&mut client, &mut seen).await);
    keys.push(repair(&mut client, &database, &mut seen).await);
    let owner_tokens = call_with_owners_secrets(&mut client, &mut seen).await;
    keys.extend(call_by_http(http, &token, &mut seen).await);
    call_with_credentials(&channel, &token, &keys[2], &mut seen).await;
    call_as_agent(http, &keys).await;
    process.signal(Signal::SIGTERM);
    process.wait();

    let log = process.log.join("\n");
    let dump = dump(&database.superuser).await;
    let debug = seen.0.join("\n");
    let exported = collector.text();
    for rpc in ["BatchCreateFullyProvisioned", "RepairTenant", "ResetPassword"] {
        assert!(exported.contains(&format!("TenantProvisioning/{rpc}")), "the spans of {rpc} are exported");
    }
    assert!(log.contains(r#""level":"TRACE""#), "the log has the most verbose level");
    assert!(dump.contains("bella-weddings") && dump.contains("m=19456,t=2,p=1"));
    let random_parts =
        keys.iter().chain([&token]).chain(&owner_tokens).map(|secret| secret.rsplit_once('_').unwrap().1);
    let without_hyphens: Vec<String> = REQUEST_IDS.iter().map(|id| id.replace('-', "")).collect();
    let secrets =
        [PASSWORD, WRONG_PASSWORD, WEAK_PASSWORD, NEW_PASSWORD, OTHER_PASSWORD, INVALID_REQUEST_ID].into_iter();
    for secret in secrets.chain(REQUEST_IDS).chain(without_hyphens.iter().map(String::as_str)).chain(random_parts) {
        for (location, text) in
            [("log", &log), ("dump", &dump), ("Debug output", &debug), ("exported telemetry", &exported)]
        {
            assert!(!text.contains(secret), "{secret} is in the {location}");
        }
    }
}

/// Calls with valid and invalid credentials.
async fn call_with_credentials(channel: &Channel, token: &str, secret_key: &str, seen: &mut Seen) {
    let list =
        ListPackagesRequest { tenant_id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(), ..Default::default() };
    for credential in [token, secret_key, &format!("{token}x"), &format!("{secret_key}x"), &token[..token.len() - 1]] {
        let bearer = Bearer(credential.to_owned());
        let mut catalog = PackageCatalogClient::with_interceptor(channel.clone(), bearer);
        assert!(seen.response(catalog.list_packages(list.clone()).await).is_none());
    }
}

/// Calls a tool for agents with each key. Not all are valid.
async fn call_as_agent(http: Http, keys: &[String]) {
    let params = json!({ "name": "get_packages", "arguments": {} });
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let mut permitted = 0;
    for key in keys {
        let authorization = format!("Bearer {key}");
        let response = http.post_with("/mcp", &message, &[("authorization", &authorization)]).await;
        permitted += usize::from(response.status == StatusCode::OK);
    }
    assert!(permitted > 0);
}

/// Makes every call that takes or returns a secret, with valid and invalid values. Returns the created secret keys.
async fn call_with_secrets(client: &mut Client, seen: &mut Seen) -> Vec<String> {
    let request_id = |number: usize| Some(REQUEST_IDS[number].to_owned());
    let create = seen.request(CreateFullyProvisionedRequest { request_id: request_id(0), ..bella() });
    let created = seen.response(client.create_fully_provisioned(create.clone()).await).unwrap();
    let existing = CreateFullyProvisionedRequest { request_id: None, ..create };
    assert!(seen.response(client.create_fully_provisioned(existing).await).is_none());
    let invalid =
        seen.request(CreateFullyProvisionedRequest { request_id: Some(INVALID_REQUEST_ID.to_owned()), ..bella() });
    assert!(seen.response(client.create_fully_provisioned(invalid).await).is_none());

    let owner = CreateFromSignupRequest {
        password: PASSWORD.to_owned(),
        request_id: request_id(1),
        ..signup("Omer", "omer@example.com")
    };
    let owner = seen.request(owner);
    let signed_up = seen.response(client.create_from_signup(owner.clone()).await).unwrap();
    let existing = CreateFromSignupRequest { request_id: None, ..owner.clone() };
    assert!(seen.response(client.create_from_signup(existing).await).is_none());
    let weak = seen.request(CreateFromSignupRequest { password: WEAK_PASSWORD.to_owned(), ..owner });
    assert!(seen.response(client.create_from_signup(weak).await).is_none());
    for password in [PASSWORD, WRONG_PASSWORD] {
        let request = VerifyPasswordRequest { password: password.to_owned(), ..log_in() };
        let request = seen.request(request);
        seen.response(client.verify_password(request).await).unwrap();
    }

    let tenant_id = created.tenant.unwrap().id;
    let rotate = turnkey::grpc::pb::RotateApiKeyRequest { request_id: request_id(2), ..rotation(&tenant_id, None) };
    let rotate = seen.request(rotate);
    let rotated = seen.response(client.rotate_api_key(rotate).await).unwrap();
    let another = CreateApiKeyRequest { request_id: request_id(3), ..another_key(&tenant_id) };
    let another = seen.request(another);
    let another = seen.response(client.create_api_key(another).await).unwrap();
    let keys = vec![created.secret_key, signed_up.secret_key, rotated.secret_key, another.secret_key];
    for secret_key in keys.iter().cloned().chain(keys.iter().map(|key| format!("{key}x"))) {
        let request = seen.request(VerifyApiKeyRequest { secret_key });
        seen.response(client.verify_api_key(request).await).unwrap();
    }
    // A secret key instead of the public key.
    let secret_as_public = RevokeApiKeyRequest { tenant_id: tenant_id.clone(), public_key: keys[0].clone() };
    assert!(seen.response(client.revoke_api_key(secret_as_public).await).is_none());
    assert!(seen.response(client.rotate_api_key(rotation_of(&tenant_id, &keys[0])).await).is_none());
    keys
}

/// Creates a tenant as the item of a batch, beside items with invalid secrets, and repeats it. Returns its key.
async fn call_in_a_batch(client: &mut Client, seen: &mut Seen) -> String {
    let item = CreateFullyProvisionedRequest { request_id: Some(REQUEST_IDS[4].to_owned()), ..named("in-a-batch") };
    let invalid = CreateFullyProvisionedRequest { request_id: Some(INVALID_REQUEST_ID.to_owned()), ..item.clone() };
    let reused = CreateFullyProvisionedRequest { name: "Other".to_owned(), ..item.clone() };
    let batch = seen.request(BatchCreateFullyProvisionedRequest { requests: vec![item, invalid, reused] });
    let mut results = seen.response(client.batch_create_fully_provisioned(batch.clone()).await).unwrap().results;
    seen.response(client.batch_create_fully_provisioned(batch).await).unwrap();
    match results.swap_remove(0).result.unwrap() {
        BatchResult::Provisioned(created) => created.secret_key,
        BatchResult::Error(error) => panic!("{error:?}"),
    }
}

/// Repairs a tenant without a key, and returns the new one.
async fn repair(client: &mut Client, database: &TestDatabase, seen: &mut Seen) -> String {
    let created = seen.response(client.create_fully_provisioned(named("damaged")).await).unwrap();
    let tenant_id = created.tenant.unwrap().id;
    database.execute_without_triggers(&format!("DELETE FROM api_keys WHERE tenant_id = '{tenant_id}'")).await;
    let repaired = seen.response(client.repair_tenant(RepairTenantRequest { tenant_id }).await).unwrap();
    repaired.secret_key.expect("the tenant had no key")
}

fn log_in() -> VerifyPasswordRequest {
    VerifyPasswordRequest { email: "omer@example.com".to_owned(), ..VerifyPasswordRequest::default() }
}

/// Makes every call that takes or returns a secret of an owner. Returns the tokens.
async fn call_with_owners_secrets(client: &mut Client, seen: &mut Seen) -> Vec<String> {
    let mut tokens = Vec::new();
    for purpose in [OwnerTokenPurpose::ResetPassword, OwnerTokenPurpose::VerifyEmail, OwnerTokenPurpose::ResetPassword]
    {
        let email = log_in().email;
        let request = CreateOwnerTokenRequest { email, purpose: purpose.into(), ..Default::default() };
        tokens.push(seen.response(client.create_owner_token(request).await).unwrap().token);
    }
    for token in tokens.iter().cloned().chain(tokens.iter().map(|token| format!("{token}x"))) {
        let request = seen.request(VerifyEmailRequest { token: token.clone() });
        seen.response(client.verify_email(request).await).unwrap();
        for new_password in [WEAK_PASSWORD, NEW_PASSWORD, OTHER_PASSWORD] {
            let request = ResetPasswordRequest { token: token.clone(), new_password: new_password.to_owned() };
            let request = seen.request(request);
            assert_eq!(seen.response(client.reset_password(request).await).is_none(), new_password == WEAK_PASSWORD);
        }
    }
    for (current_password, new_password) in
        [(WRONG_PASSWORD, OTHER_PASSWORD), (NEW_PASSWORD, WEAK_PASSWORD), (NEW_PASSWORD, OTHER_PASSWORD)]
    {
        let request = ChangePasswordRequest {
            email: log_in().email,
            current_password: current_password.to_owned(),
            new_password: new_password.to_owned(),
            client_address: None,
        };
        let request = seen.request(request);
        assert_eq!(seen.response(client.change_password(request).await).is_none(), new_password == WEAK_PASSWORD);
    }
    let verified = seen.response(
        client.verify_password(VerifyPasswordRequest { password: OTHER_PASSWORD.to_owned(), ..log_in() }).await,
    );
    let tenant_id = verified.unwrap().tenant_id;
    for password in [WEAK_PASSWORD, NEW_PASSWORD] {
        let request = SetOwnerRequest {
            tenant_id: tenant_id.clone(),
            email: log_in().email,
            password: Some(password.to_owned()),
        };
        let request = seen.request(request);
        assert_eq!(seen.response(client.set_owner(request).await).is_none(), password == WEAK_PASSWORD);
    }
    tokens
}

/// Makes calls with secrets by HTTP, readable ones and others. Returns the created secret keys.
async fn call_by_http(http: Http, token: &str, seen: &mut Seen) -> Vec<String> {
    let authorization = format!("Bearer {token}");
    let post = async |path: &str, key: &str, body: &str| {
        let request = HttpRequest::post(path).header("content-type", "application/json");
        let request = request.header("authorization", &authorization).header("idempotency-key", key);
        http.send(request.body(body.to_owned().into()).unwrap()).await
    };
    let (create, sign_up) = ("/api/v1/admin/tenants", "/v1/auth/signup");
    let created = post(create, REQUEST_IDS[3], r#"{"slug": "by-http", "name": "By HTTP"}"#).await.json();
    let signed_up = json!({ "email": "http@example.com", "password": PASSWORD, "businessName": "Signed up" });
    let signed_up = post(sign_up, "", &signed_up.to_string()).await;
    assert_eq!(signed_up.status, StatusCode::BAD_REQUEST, "an empty key");
    let secret_key = created["secretKey"].as_str().unwrap();
    let verify_key = "/turnkey.v1.TenantProvisioning/VerifyApiKey";
    let verified = post(verify_key, "", &json!({ "secretKey": secret_key }).to_string()).await;
    assert_eq!(verified.json()["verdict"], "VERDICT_VALID");
    for (path, key, body) in [
        (create, INVALID_REQUEST_ID, json!({ "slug": "other", "name": "Other" }).to_string()),
        (sign_up, "", json!({ "email": "http@example.com", "password": WEAK_PASSWORD }).to_string()),
        (sign_up, "", json!({ "email": "http@example.com", "password": [PASSWORD] }).to_string()),
        (sign_up, "", format!(r#"{{"password": "{PASSWORD}""#)),
        (verify_key, "", json!({ "secretKey": { "key": secret_key } }).to_string()),
        (verify_key, "", secret_key.to_owned()),
        (&format!("/{secret_key}"), REQUEST_IDS[3], String::new()),
    ] {
        let refused = post(path, key, &body).await;
        assert!(refused.status.is_client_error(), "{refused:?}");
        seen.0.push(format!("{refused:?}"));
    }
    vec![secret_key.to_owned()]
}
