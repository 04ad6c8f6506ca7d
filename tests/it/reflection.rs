//! Reflection: open on a loopback address, and elsewhere for callers with a valid credential.

use tonic::{Code, transport::Channel};
use turnkey::{config::ServerSettings, grpc::pb::RevokeApiKeyRequest};

use crate::support::{
    database::Cluster,
    fixture::{Fixture, channel},
    process::{Process, serve, temp_folder},
    reflection::list_services,
    requests::unknown_secret_key,
    responses::reason,
    tokens::Tokens,
};

const SERVICES: [&str; 3] = ["grpc.health.v1.Health", "turnkey.v1.PackageCatalog", "turnkey.v1.TenantProvisioning"];

async fn reflects(channel: &Channel, credential: Option<&str>) -> bool {
    match list_services(channel, credential).await {
        Ok(listed) => {
            assert!(SERVICES.iter().all(|name| listed.iter().any(|listed| listed == name)), "{listed:?}");
            true
        }
        Err(status) => {
            assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_loopback_address_reflection_is_open_in_both_versions() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(&mut serve(folder.path(), &database.server));
    assert!(reflects(&channel(&process.address()).await, None).await);
}

#[tokio::test]
async fn open_reflection_needs_no_credential_and_ignores_a_wrong_one() {
    let tokens = Tokens::new();
    let fixture = Fixture::with_settings(ServerSettings { reflection: true, ..tokens.settings() }).await;
    let channel = channel(&fixture.server.address.to_string()).await;
    assert!(reflects(&channel, None).await && reflects(&channel, Some("svc_unknown_x")).await);
}

#[tokio::test]
async fn where_reflection_is_off_every_valid_credential_permits_it_and_no_other() {
    let open = Fixture::start().await;
    let bella = open.tenant("bella-weddings").await;
    let tokens = Tokens::new();
    let verifier = tokens.create("log-in", &["verifier"]);
    let limited = tokens.create_with("one-tenant", &["catalog_reader"], &["--tenant", &bella.id]);
    let settings = ServerSettings { reflection: false, ..tokens.settings() };
    let closed = Fixture::start_with(open.database.clone(), settings).await;
    let channel = channel(&closed.server.address.to_string()).await;
    for credential in [&verifier, &limited, &bella.secret_key] {
        assert!(reflects(&channel, Some(credential)).await, "{credential}");
    }
    let unknown = unknown_secret_key(&bella.public_key);
    for credential in [None, Some("svc_unknown_x"), Some("sk_live_x"), Some(unknown.as_str())] {
        assert!(!reflects(&channel, credential).await, "{credential:?}");
    }
    let revocation = RevokeApiKeyRequest { tenant_id: bella.id, public_key: bella.public_key };
    open.provisioning.clone().revoke_api_key(revocation).await.unwrap();
    assert!(!reflects(&channel, Some(&bella.secret_key)).await, "a revoked key");
}
