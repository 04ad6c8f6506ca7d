//! Credentials and roles: who may call which RPC, and that other callers are rejected before their request is read.

use std::{
    fs::{self},
    os::unix::fs::PermissionsExt as _,
};

use prost::Message as _;
use tonic::{Code, Status, client::Grpc};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;
use turnkey::{
    config::ServerSettings,
    grpc::pb::{
        ApiKeyScope, CreateApiKeyRequest, DESCRIPTORS, GetPackageRequest, ListPackagesRequest, ListTenantsRequest,
        RevokeApiKeyRequest, SuspendTenantRequest, VerifyApiKeyRequest,
        tenant_provisioning_client::TenantProvisioningClient,
    },
};

use crate::support::{
    connect::{Transport, over_connect, over_grpc},
    database::{Cluster, TestDatabase},
    fixture::{Fixture, channel, with_http},
    process::{Process, database_url, serve, temp_folder, turnkey},
    requests::{another_key, bella, unknown_secret_key, with_bearer, with_last_char_changed},
    responses::reason,
    tokens::Tokens,
};

fn rpcs() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let ours = files.into_iter().filter(|file| file.package() == "turnkey.v1").flat_map(|file| file.service);
    ours.flat_map(|service| {
        let name = service.name().to_owned();
        service.method.into_iter().map(move |rpc| format!("/turnkey.v1.{name}/{}", rpc.name()))
    })
    .collect()
}

/// Calls the RPC with an empty request.
async fn call(transport: &Transport, rpc: &str, credential: Option<&str>) -> Result<(), Status> {
    let mut client = Grpc::new(transport.clone());
    client.ready().await.unwrap();
    let path = rpc.parse().unwrap();
    client.unary(with_bearer((), credential), path, ProstCodec::<(), ()>::default()).await.map(drop)
}

/// The code, if the call was rejected for its credential.
fn rejection(response: &Result<(), Status>) -> Option<Code> {
    let status = response
        .as_ref()
        .err()
        .filter(|status| [Code::Unauthenticated, Code::PermissionDenied].contains(&status.code()))?;
    let expected = if status.code() == Code::Unauthenticated { "UNAUTHENTICATED" } else { "PERMISSION_DENIED" };
    assert_eq!(reason(status), expected);
    Some(status.code())
}

/// Whether the key of a tenant permits the RPC, if its scope does.
fn permits_tenant_keys(rpc: &str) -> bool {
    let name = rpc.rsplit('/').next().unwrap();
    rpc.contains("PackageCatalog") || ["GetTenant", "ListApiKeys", "RotateApiKey"].contains(&name)
}

/// The database is unreachable, so the rejections precede any SQL.
#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_rejects_credentials_without_its_role() {
    let tenant = Fixture::start().await.tenant("bella-weddings").await;
    let tokens = Tokens::new();
    let provisioner = tokens.create("admin-ui", &["provisioner"]);
    let verifier = tokens.create("gateway", &["verifier"]);
    let owner_manager = tokens.create("support", &["owner_manager"]);
    let catalog = tokens.create("booking", &["catalog"]);
    let all = tokens.create("all", &["provisioner", "catalog"]);
    let fixture = Fixture::start_with(TestDatabase::unreachable(), with_http(tokens.settings())).await;
    let grpc = over_grpc(channel(&fixture.server.address.to_string()).await);

    let wrong = with_last_char_changed(&catalog);
    let (unauthenticated, denied) = (Some(Code::Unauthenticated), Some(Code::PermissionDenied));
    assert_eq!(rpcs().len(), 35);
    let transports = [&grpc, &over_connect(fixture.http())];
    for (transport, rpc) in
        transports.into_iter().flat_map(|transport| rpcs().into_iter().map(move |rpc| (transport, rpc)))
    {
        let is_catalog = rpc.contains("PackageCatalog");
        let is_one_of = |names: &[&str]| names.contains(&rpc.rsplit('/').next().unwrap());
        let is_verify =
            is_one_of(&["VerifyApiKey", "VerifyPassword", "ChangePassword", "ResetPassword", "VerifyEmail"]);
        let is_owner_management = is_one_of(&["CreateOwnerToken", "SetOwner"]);
        for invalid in
            [None, Some(""), Some("x"), Some(wrong.as_str()), Some("sk_live_bella"), Some(tenant.public_key.as_str())]
        {
            assert_eq!(rejection(&call(transport, &rpc, invalid).await), unauthenticated, "{rpc} {invalid:?}");
        }
        let outcome = async |token: &str| rejection(&call(transport, &rpc, Some(token)).await);
        assert_eq!(outcome(&provisioner).await, denied.filter(|_| is_catalog), "{rpc}");
        assert_eq!(outcome(&verifier).await, denied.filter(|_| !is_verify), "{rpc}");
        assert_eq!(outcome(&owner_manager).await, denied.filter(|_| !is_owner_management), "{rpc}");
        assert_eq!(outcome(&catalog).await, denied.filter(|_| !is_catalog), "{rpc}");
        assert_eq!(outcome(&all).await, None, "{rpc}");
        if !permits_tenant_keys(&rpc) {
            assert_eq!(outcome(&tenant.secret_key).await, denied, "{rpc}");
        }
    }
    for unknown in ["/turnkey.v1.TenantProvisioning/DropEverything", "/turnkey.v2.Unknown/Rpc"] {
        assert_eq!(rejection(&call(&grpc, unknown, None).await), unauthenticated);
        assert_eq!(call(&grpc, unknown, Some(&all)).await.unwrap_err().code(), Code::Unimplemented);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_two_credentials_is_unauthenticated() {
    let tokens = Tokens::new();
    let token = tokens.create("admin-ui", &["provisioner"]);
    let closed = Fixture::with_settings(with_http(tokens.settings())).await;
    let grpc = over_grpc(channel(&closed.server.address.to_string()).await);
    for transport in [grpc, over_connect(closed.http())] {
        let mut request = with_bearer(ListTenantsRequest::default(), Some(&token));
        request.metadata_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
        let error = TenantProvisioningClient::new(transport).list_tenants(request).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_key_grants_access_to_the_catalog_of_its_own_tenant_only() {
    let database = Cluster::get().migrated().await;
    let open = Fixture::start_on(database.clone()).await;
    let (tenant, other) = (open.tenant("bella-weddings").await, open.tenant("omers-cafe").await);
    let closed = Fixture::start_with(database, Tokens::new().settings()).await;
    let list = |tenant_id: &str, key: &str| {
        let request = ListPackagesRequest { tenant_id: tenant_id.to_owned(), ..ListPackagesRequest::default() };
        let (mut client, request) = (closed.catalog.clone(), with_bearer(request, Some(key)));
        async move { client.list_packages(request).await.map(|response| response.into_inner().packages.len()) }
    };
    assert_eq!(list(&tenant.id, &tenant.secret_key).await.unwrap(), 3);
    for foreign in [&other.id, &uuid::Uuid::new_v4().to_string()] {
        let error = list(foreign, &tenant.secret_key).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"));
    }
    let request = GetPackageRequest {
        tenant_id: other.id.clone(),
        package_id: other.package_ids[0].clone(),
        ..Default::default()
    };
    let error = closed.catalog.clone().get_package(with_bearer(request, Some(&tenant.secret_key))).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);

    let suspend = SuspendTenantRequest { tenant_id: tenant.id.clone() };
    open.provisioning.clone().suspend_tenant(suspend).await.unwrap();
    assert_eq!(list(&tenant.id, &tenant.secret_key).await.unwrap_err().code(), Code::Unauthenticated);
    let revoke = RevokeApiKeyRequest { tenant_id: other.id.clone(), public_key: other.public_key.clone() };
    open.provisioning.clone().revoke_api_key(revoke).await.unwrap();
    assert_eq!(list(&other.id, &other.secret_key).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scope_of_a_tenant_key_decides_which_rpcs_it_permits() {
    let open = Fixture::start().await;
    let tenant = open.tenant("bella-weddings").await;
    let for_reading = CreateApiKeyRequest { scope: ApiKeyScope::CatalogRead.into(), ..another_key(&tenant.id) };
    let for_reading = open.create_key(for_reading).await.unwrap().secret_key;
    let closed = Fixture::start_with(open.database.clone(), with_http(Tokens::new().settings())).await;
    let grpc = over_grpc(channel(&closed.server.address.to_string()).await);
    for transport in [&grpc, &over_connect(closed.http())] {
        for rpc in rpcs() {
            let denied = |is_permitted: bool| (!is_permitted).then_some(Code::PermissionDenied);
            let outcome = async |key: &str| rejection(&call(transport, &rpc, Some(key)).await);
            // A request of GetTenant that names no tenant is denied, too.
            let is_permitted = permits_tenant_keys(&rpc) && !rpc.ends_with("/GetTenant");
            assert_eq!(outcome(&tenant.secret_key).await, denied(is_permitted), "{rpc}");
            let is_reading = rpc.contains("PackageCatalog/Get") || rpc.contains("PackageCatalog/List");
            assert_eq!(outcome(&for_reading).await, denied(is_reading), "{rpc}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_id_of_two_callers_is_two_requests() {
    let tokens = Tokens::new();
    let (one, two) = (tokens.create("one", &["provisioner"]), tokens.create("two", &["provisioner"]));
    let fixture = Fixture::with_settings(tokens.settings()).await;
    let request_id = Some(uuid::Uuid::new_v4().to_string());
    let request = turnkey::grpc::pb::CreateFullyProvisionedRequest { request_id, ..bella() };
    let mut client = fixture.provisioning.clone();
    assert!(
        !client.create_fully_provisioned(with_bearer(request.clone(), Some(&one))).await.unwrap().into_inner().replayed
    );
    assert!(
        client.create_fully_provisioned(with_bearer(request.clone(), Some(&one))).await.unwrap().into_inner().replayed
    );
    let error = client.create_fully_provisioned(with_bearer(request, Some(&two))).await.unwrap_err();
    assert_eq!(reason(&error), "SLUG_TAKEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_tokens_file_is_reloaded_and_an_invalid_one_keeps_the_previous_tokens() {
    let tokens = Tokens::new();
    let first = tokens.create("first", &["provisioner"]);
    assert_eq!(fs::metadata(tokens.file()).unwrap().permissions().mode() & 0o077, 0o044, "made by the test itself");
    let database = Cluster::get().migrated().await;
    let mut process = Process::start(serve(tokens.folder(), &database.server).args(["--tokens-file", "tokens.toml"]));
    let channel = channel(&process.address()).await;
    let verify = async |token: &str| {
        let request = with_bearer(VerifyApiKeyRequest { secret_key: String::new() }, Some(token));
        let mut client = TenantProvisioningClient::new(channel.clone());
        client.verify_api_key(request).await.map(drop)
    };
    assert!(verify(&first).await.is_ok());
    let second = tokens.create("second", &["verifier"]);
    process.wait_for("Reloaded the tokens");
    assert!(verify(&first).await.is_ok() && verify(&second).await.is_ok());

    fs::write(tokens.file(), "[[token]]\nname = ").unwrap();
    let line = process.wait_for("Cannot reload the tokens");
    assert!(line.contains("ERROR"), "{line}");
    assert!(verify(&first).await.is_ok());

    fs::write(tokens.file(), "").unwrap();
    process.wait_for("Reloaded the tokens");
    assert_eq!(verify(&first).await.unwrap_err().code(), Code::Unauthenticated, "no token is left");
    for token in [&first, &second] {
        let random = token.rsplit('_').next().unwrap();
        assert!(!process.log.iter().any(|line| line.contains(random)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_create_prints_the_token_to_stdout_and_its_entry_to_stderr_or_to_a_private_file() {
    let folder = temp_folder();
    let run = |arguments: &[&str]| {
        let mut command = turnkey(folder.path());
        command.args(["token", "create", "--name", "booking", "--role", "catalog"]).args(arguments).output().unwrap()
    };
    let printed = run(&[]);
    let token = String::from_utf8(printed.stdout).unwrap();
    assert!(token.starts_with("svc_booking_") && token.len() == "svc_booking_".len() + 43 + 1, "{token}");
    let entry = String::from_utf8(printed.stderr).unwrap();
    assert!(entry.starts_with("[[token]]\nname = \"booking\"\nroles = [\"catalog\"]\nsha256 = \""), "{entry}");

    assert!(run(&["--tokens-file", "new.toml"]).status.success());
    assert!(run(&["--tokens-file", "new.toml"]).status.success());
    let file = folder.path().join("new.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&file).unwrap().matches("[[token]]").count(), 2);

    fs::write(&file, "broken").unwrap();
    assert_eq!(run(&["--tokens-file", "new.toml"]).status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).unwrap(), "broken");
    for name in ["A_B", "import", "anonymous", "cli", "tenant:bella"] {
        let output =
            turnkey(folder.path()).args(["token", "create", "--name", name, "--role", "king"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(stderr.contains("--name") && stderr.contains("--role"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokens_file_permits_any_listen_address_and_an_unreadable_one_is_reported_at_start() {
    let tokens = Tokens::new();
    let database = Cluster::get().migrated().await;
    let serve_with = |file: &str| {
        let mut command = turnkey(tokens.folder());
        command
            .args(["--listen", "0.0.0.0:0", "--tokens-file", file])
            .env("DATABASE_URL", database_url(&database.server));
        command
    };
    let mut process = Process::start(&mut serve_with("tokens.toml"));
    process.wait_for("Callers need a service token");
    let line = process.wait_for("in plaintext");
    assert!(line.contains("WARN") && line.contains("--tls-cert"), "{line}");
    drop(process);
    let output = serve_with("missing.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("TURNKEY_TOKENS_FILE: cannot read missing.toml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokens_file_that_others_can_write_is_reported_at_start_and_a_private_one_on_loopback_is_not() {
    let tokens = Tokens::new();
    let database = Cluster::get().migrated().await;
    let start = || Process::start(serve(tokens.folder(), &database.server).args(["--tokens-file", "tokens.toml"]));
    let mut process = start();
    process.address();
    assert!(!process.log.iter().any(|line| line.contains("WARN")), "{:?}", process.log);
    drop(process);
    fs::set_permissions(tokens.file(), fs::Permissions::from_mode(0o664)).unwrap();
    let line = start().wait_for("The tokens file decides who may call");
    assert!(line.contains("WARN") && line.contains("chmod go-w tokens.toml"), "{line}");
}

#[tokio::test]
async fn an_abandoned_key_lookup_does_not_cost_a_connection() {
    let tokens = Tokens::new();
    let settings = ServerSettings { database_max_connections: 4, ..tokens.settings() };
    let fixture = Fixture::with_settings(settings.clone()).await;
    let secret = unknown_secret_key("pk_live_bella_0123456789abcdef");
    let superuser = fixture.superuser_pool().await;
    let mut holder = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE api_keys").execute(&mut *holder).await.unwrap();
    for _ in 0..20 {
        let mut request = with_bearer(ListPackagesRequest::default(), Some(&secret));
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
async fn health_checks_need_no_credential_and_are_not_rate_limited() {
    let tokens = Tokens::new();
    let limited = ServerSettings { rate_limit_per_caller: Some(1.try_into().unwrap()), ..tokens.settings() };
    let fixture = Fixture::with_settings(limited).await;
    let mut health = HealthClient::new(channel(&fixture.server.address.to_string()).await);
    for _ in 0..20 {
        health.check(HealthCheckRequest { service: String::new() }).await.unwrap();
    }
}
