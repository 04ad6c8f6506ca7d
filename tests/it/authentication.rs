//! Who may call what, and that the others are told so before anything is looked at.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use prost::Message as _;
use sqlx::postgres::PgConnectOptions;
use tempfile::{TempDir, tempdir_in};
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;
use turnkey::{
    config::ServerSettings,
    grpc::pb::{
        DESCRIPTORS, GetPackageRequest, ListPackagesRequest, ListTenantsRequest, RevokeApiKeyRequest,
        SuspendTenantRequest, VerifyApiKeyRequest,
    },
};

use crate::{
    cluster::{Cluster, TestDatabase},
    fixture::{Fixture, bella, channel, reason, settings, unknown_secret_key, with_last_char_changed},
    process::{Program, serving, turnkey, url},
};

/// A folder with a file of tokens, made as an operator makes it.
pub struct Tokens {
    folder: TempDir,
}

impl Tokens {
    pub fn new() -> Self {
        let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = folder.path().join("tokens.toml");
        fs::write(&file, "").unwrap();
        // Whatever the umask is.
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        Self { folder }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("tokens.toml")
    }

    pub fn create(&self, name: &str, roles: &[&str]) -> String {
        let mut command = turnkey(self.folder.path());
        command.args(["token", "create", "--name", name, "--tokens-file", "tokens.toml"]);
        let output = command.args(roles.iter().flat_map(|role| ["--role", role])).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stderr, b"", "standard output is all it says");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub fn settings(&self) -> ServerSettings {
        ServerSettings { tokens_file: Some(self.file()), ..settings() }
    }
}

fn rpcs() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let ours = files.into_iter().filter(|file| file.package() == "turnkey.v1").flat_map(|file| file.service);
    ours.flat_map(|service| {
        let name = service.name().to_owned();
        service.method.into_iter().map(move |rpc| format!("/turnkey.v1.{name}/{}", rpc.name()))
    })
    .collect()
}

pub fn with<Message>(message: Message, credential: Option<&str>) -> Request<Message> {
    let mut request = Request::new(message);
    if let Some(credential) = credential {
        request.metadata_mut().insert("authorization", format!("Bearer {credential}").parse().unwrap());
    }
    request
}

/// What an empty request comes to.
async fn call(channel: &Channel, rpc: &str, credential: Option<&str>) -> Result<(), Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = rpc.parse().unwrap();
    client.unary(with((), credential), path, ProstCodec::<(), ()>::default()).await.map(drop)
}

fn refused(answer: &Result<(), Status>) -> Option<Code> {
    let status = answer
        .as_ref()
        .err()
        .filter(|status| [Code::Unauthenticated, Code::PermissionDenied].contains(&status.code()))?;
    let expected = if status.code() == Code::Unauthenticated { "UNAUTHENTICATED" } else { "PERMISSION_DENIED" };
    assert_eq!(reason(status), expected);
    Some(status.code())
}

/// The database is nowhere: whatever is told here is told before any SQL.
#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_is_closed_to_all_but_those_it_is_for() {
    let made = Fixture::start().await.tenant("bella-weddings").await;
    let tokens = Tokens::new();
    let provisioner = tokens.create("admin-ui", &["provisioner"]);
    let verifier = tokens.create("gateway", &["verifier"]);
    let catalog = tokens.create("booking", &["catalog"]);
    let all = tokens.create("all", &["provisioner", "catalog"]);
    let nowhere = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1).username("x").database("x");
    let database = TestDatabase { owner: nowhere.clone(), server: nowhere.clone(), superuser: nowhere };
    let fixture = Fixture::start_with(database, tokens.settings()).await;
    let channel = channel(&fixture.server.address.to_string()).await;

    let wrong = with_last_char_changed(&catalog);
    let (no_one, denied) = (Some(Code::Unauthenticated), Some(Code::PermissionDenied));
    assert_eq!(rpcs().len(), 26);
    for rpc in rpcs() {
        let is_catalog = rpc.contains("PackageCatalog");
        let is_verify = rpc.ends_with("/VerifyApiKey") || rpc.ends_with("/VerifyPassword");
        for bad in
            [None, Some(""), Some("x"), Some(wrong.as_str()), Some("sk_live_bella"), Some(made.public_key.as_str())]
        {
            assert_eq!(refused(&call(&channel, &rpc, bad).await), no_one, "{rpc} {bad:?}");
        }
        let outcome = async |token: &str| refused(&call(&channel, &rpc, Some(token)).await);
        assert_eq!(outcome(&provisioner).await, denied.filter(|_| is_catalog), "{rpc}");
        assert_eq!(outcome(&verifier).await, denied.filter(|_| !is_verify), "{rpc}");
        assert_eq!(outcome(&catalog).await, denied.filter(|_| !is_catalog), "{rpc}");
        assert_eq!(outcome(&all).await, None, "{rpc}");
        if !is_catalog {
            assert_eq!(outcome(&made.secret_key).await, denied, "{rpc}");
        }
    }
    for unknown in ["/turnkey.v1.TenantProvisioning/DropEverything", "/turnkey.v2.Whatever/It"] {
        assert_eq!(refused(&call(&channel, unknown, None).await), no_one);
        assert_eq!(call(&channel, unknown, Some(&all)).await.unwrap_err().code(), Code::Unimplemented);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_two_credentials_has_none() {
    let tokens = Tokens::new();
    let token = tokens.create("admin-ui", &["provisioner"]);
    let closed = Fixture::start_with(Cluster::get().migrated().await, tokens.settings()).await;
    let mut request = with(ListTenantsRequest::default(), Some(&token));
    request.metadata_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
    let refused = closed.provisioning.clone().list_tenants(request).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_key_opens_its_own_catalog_and_no_other() {
    let database = Cluster::get().migrated().await;
    let open = Fixture::start_on(database.clone()).await;
    let (tenant, other) = (open.tenant("bella-weddings").await, open.tenant("omers-cafe").await);
    let closed = Fixture::start_with(database, Tokens::new().settings()).await;
    let list = |tenant_id: &str, key: &str| {
        let request = ListPackagesRequest { tenant_id: tenant_id.to_owned(), ..ListPackagesRequest::default() };
        let (mut client, request) = (closed.catalog.clone(), with(request, Some(key)));
        async move { client.list_packages(request).await.map(|answer| answer.into_inner().packages.len()) }
    };
    assert_eq!(list(&tenant.id, &tenant.secret_key).await.unwrap(), 3);
    for foreign in [&other.id, &uuid::Uuid::new_v4().to_string()] {
        let refused = list(foreign, &tenant.secret_key).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"));
    }
    let request = GetPackageRequest { tenant_id: other.id.clone(), package_id: other.package_ids[0].clone() };
    let refused = closed.catalog.clone().get_package(with(request, Some(&tenant.secret_key))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let suspend = SuspendTenantRequest { tenant_id: tenant.id.clone() };
    open.provisioning.clone().suspend_tenant(suspend).await.unwrap();
    assert_eq!(list(&tenant.id, &tenant.secret_key).await.unwrap_err().code(), Code::Unauthenticated);
    let revoke = RevokeApiKeyRequest { tenant_id: other.id.clone(), public_key: other.public_key.clone() };
    open.provisioning.clone().revoke_api_key(revoke).await.unwrap();
    assert_eq!(list(&other.id, &other.secret_key).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_of_two_callers_are_two() {
    let tokens = Tokens::new();
    let (one, two) = (tokens.create("one", &["provisioner"]), tokens.create("two", &["provisioner"]));
    let fixture = Fixture::start_with(Cluster::get().migrated().await, tokens.settings()).await;
    let request_id = Some(uuid::Uuid::new_v4().to_string());
    let wish = turnkey::grpc::pb::CreateFullyProvisionedRequest { request_id, ..bella() };
    let mut client = fixture.provisioning.clone();
    assert!(!client.create_fully_provisioned(with(wish.clone(), Some(&one))).await.unwrap().into_inner().replayed);
    assert!(client.create_fully_provisioned(with(wish.clone(), Some(&one))).await.unwrap().into_inner().replayed);
    let refused = client.create_fully_provisioned(with(wish, Some(&two))).await.unwrap_err();
    assert_eq!(reason(&refused), "SLUG_TAKEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_read_again_and_a_broken_one_leaves_the_tokens_in_force() {
    let tokens = Tokens::new();
    let first = tokens.create("first", &["provisioner"]);
    assert_eq!(fs::metadata(tokens.file()).unwrap().permissions().mode() & 0o077, 0o044, "made by the test itself");
    let database = Cluster::get().migrated().await;
    let mut program =
        Program::start(serving(tokens.folder.path(), &database.server).args(["--tokens-file", "tokens.toml"]));
    let channel = channel(&program.address()).await;
    let verify = async |token: &str| {
        let request = with(VerifyApiKeyRequest { secret_key: String::new() }, Some(token));
        let mut client = turnkey::grpc::pb::tenant_provisioning_client::TenantProvisioningClient::new(channel.clone());
        client.verify_api_key(request).await.map(drop)
    };
    assert!(verify(&first).await.is_ok());
    let second = tokens.create("second", &["verifier"]);
    program.wait_for("Reloaded the tokens");
    assert!(verify(&first).await.is_ok() && verify(&second).await.is_ok());

    fs::write(tokens.file(), "[[token]]\nname = ").unwrap();
    let line = program.wait_for("Cannot reload the tokens");
    assert!(line.contains("ERROR"), "{line}");
    assert!(verify(&first).await.is_ok());

    fs::write(tokens.file(), "").unwrap();
    program.wait_for("Reloaded the tokens");
    assert_eq!(verify(&first).await.unwrap_err().code(), Code::Unauthenticated, "nobody may call");
    for token in [&first, &second] {
        let random = token.rsplit('_').next().unwrap();
        assert!(!program.log.iter().any(|line| line.contains(random)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_to_standard_output_alone_and_its_entry_to_a_new_private_file_or_to_be_pasted() {
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = turnkey(folder.path());
        command.args(["token", "create", "--name", "booking", "--role", "catalog"]).args(arguments).output().unwrap()
    };
    let pasted = run(&[]);
    let token = String::from_utf8(pasted.stdout).unwrap();
    assert!(token.starts_with("svc_booking_") && token.len() == "svc_booking_".len() + 43 + 1, "{token}");
    let entry = String::from_utf8(pasted.stderr).unwrap();
    assert!(entry.starts_with("[[token]]\nname = \"booking\"\nroles = [\"catalog\"]\nsha256 = \""), "{entry}");

    assert!(run(&["--tokens-file", "new.toml"]).status.success());
    assert!(run(&["--tokens-file", "new.toml"]).status.success());
    let file = folder.path().join("new.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&file).unwrap().matches("[[token]]").count(), 2);

    fs::write(&file, "broken").unwrap();
    assert_eq!(run(&["--tokens-file", "new.toml"]).status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).unwrap(), "broken");
    let output = turnkey(folder.path()).args(["token", "create", "--name", "A_B", "--role", "king"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("--name") && said.contains("--role"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_any_address_may_be_served_and_a_broken_file_is_named_at_start() {
    let tokens = Tokens::new();
    let database = Cluster::get().migrated().await;
    let serve = |file: &str| {
        let mut command = turnkey(tokens.folder.path());
        command.args(["--listen", "0.0.0.0:0", "--tokens-file", file]).env("DATABASE_URL", url(&database.server));
        command
    };
    let mut program = Program::start(&mut serve("tokens.toml"));
    program.wait_for("Callers need a service token");
    drop(program);
    let output = serve("missing.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("TURNKEY_TOKENS_FILE: cannot read missing.toml"));
}

#[tokio::test]
async fn a_lookup_of_a_key_that_its_caller_does_not_wait_for_costs_no_connection() {
    let tokens = Tokens::new();
    let settings = ServerSettings { database_max_connections: 4, ..tokens.settings() };
    let fixture = Fixture::start_with(Cluster::get().migrated().await, settings.clone()).await;
    let secret = unknown_secret_key("pk_live_bella_0123456789abcdef");
    let superuser = fixture.superuser_pool().await;
    let mut holder = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE api_keys").execute(&mut *holder).await.unwrap();
    for _ in 0..20 {
        let mut request = with(ListPackagesRequest::default(), Some(&secret));
        request.set_timeout(std::time::Duration::from_millis(20));
        assert!(fixture.catalog.clone().list_packages(request).await.is_err());
    }
    let sessions: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'turnkey'",
    )
    .fetch_one(&superuser)
    .await
    .unwrap();
    holder.rollback().await.unwrap();
    let pool_and_probe = i64::from(settings.database_max_connections) + 1;
    assert!(sessions <= pool_and_probe, "{sessions}");
}

#[tokio::test]
async fn health_is_open_to_everybody_as_often_as_they_like() {
    let tokens = Tokens::new();
    let limited = ServerSettings { rate_limit_per_caller: Some(1.try_into().unwrap()), ..tokens.settings() };
    let fixture = Fixture::start_with(Cluster::get().migrated().await, limited).await;
    let mut health = HealthClient::new(channel(&fixture.server.address.to_string()).await);
    for _ in 0..20 {
        health.check(HealthCheckRequest { service: String::new() }).await.unwrap();
    }
}
