//! Secrets appear only in the response that returns them: canary values go through every call with a secret, at the most
//! verbose log level.

use std::{fmt::Debug, process::Command};

use nix::sys::signal::Signal;
use sqlx::postgres::PgConnectOptions;
use tonic::{
    Request, Response, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use turnkey::grpc::pb::{
    CreateApiKeyRequest, CreateFromSignupRequest, CreateFullyProvisionedRequest, ListPackagesRequest,
    RevokeApiKeyRequest, VerifyApiKeyRequest, VerifyPasswordRequest, package_catalog_client::PackageCatalogClient,
    tenant_provisioning_client::TenantProvisioningClient,
};

use crate::support::{
    database::{Cluster, postgres_bin_dir},
    fixture::channel,
    process::{Process, database_url, serve, temp_folder},
    requests::{another_key, bella, rotation, rotation_of, signup},
    tokens::Tokens,
};

const PASSWORD: &str = "canary under a lamp";
const WRONG_PASSWORD: &str = "canary under the lamp";
const WEAK_PASSWORD: &str = "canary99";
const REQUEST_IDS: [&str; 4] = [
    "c0ffee99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "decade99-9c0b-4ef8-bb6d-6bb9bd380a12",
    "facade99-9c0b-4ef8-bb6d-6bb9bd380a13",
    "beaded99-9c0b-4ef8-bb6d-6bb9bd380a14",
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

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_log_line_debug_output_error_or_table() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let tokens = Tokens::new();
    let token = tokens.create("canary", &["provisioner"]);
    let mut process = Process::start(
        serve(folder.path(), &database.server).arg("--tokens-file").arg(tokens.file()).env("RUST_LOG", "trace"),
    );
    let channel = channel(&process.address()).await;
    let mut client = TenantProvisioningClient::with_interceptor(channel.clone(), Bearer(token.clone()));
    let mut seen = Seen::default();
    let keys = call_with_secrets(&mut client, &mut seen).await;
    call_with_credentials(&channel, &token, &keys[2], &mut seen).await;
    process.signal(Signal::SIGTERM);
    process.wait();

    let log = process.log.join("\n");
    let dump = dump(&database.superuser).await;
    let debug = seen.0.join("\n");
    assert!(log.contains(r#""level":"TRACE""#), "the log has the most verbose level");
    assert!(dump.contains("bella-weddings") && dump.contains("m=19456,t=2,p=1"));
    let random_parts = keys.iter().chain([&token]).map(|secret| secret.rsplit_once('_').unwrap().1);
    let without_hyphens: Vec<String> = REQUEST_IDS.iter().map(|id| id.replace('-', "")).collect();
    let secrets = [PASSWORD, WRONG_PASSWORD, WEAK_PASSWORD, INVALID_REQUEST_ID].into_iter();
    for secret in secrets.chain(REQUEST_IDS).chain(without_hyphens.iter().map(String::as_str)).chain(random_parts) {
        for (location, text) in [("log", &log), ("dump", &dump), ("Debug output", &debug)] {
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

/// Makes every call that takes or returns a secret, with valid and invalid values. Returns the created secret keys.
async fn call_with_secrets(
    client: &mut TenantProvisioningClient<InterceptedService<Channel, Bearer>>,
    seen: &mut Seen,
) -> Vec<String> {
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
        let request = VerifyPasswordRequest { email: "omer@example.com".to_owned(), password: password.to_owned() };
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

/// The whole database as `pg_dump` writes it.
async fn dump(superuser: &PgConnectOptions) -> String {
    let pg_dump = postgres_bin_dir(superuser).await.join("pg_dump");
    let output = Command::new(pg_dump).arg("--dbname").arg(database_url(superuser)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
