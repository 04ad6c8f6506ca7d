//! Log lines that operators rely on.

use nix::sys::signal::Signal;
use turnkey::grpc::pb::{
    RepairTenantRequest, UpsertAction, UpsertPackageRequest, package_catalog_client::PackageCatalogClient,
    tenant_provisioning_client::TenantProvisioningClient,
};

use crate::support::{
    database::Cluster,
    fixture::channel,
    process::{Process, serve, temp_folder},
    requests::{bella, signup, signup_with_request_id, with_bearer},
    tokens::Tokens,
};

#[tokio::test]
async fn created_tenants_and_automatically_assigned_packages_are_logged() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(serve(folder.path(), &database.server).env("RUST_LOG", "turnkey=debug"));
    let address = process.address();
    let mut provisioning = TenantProvisioningClient::new(channel(&address).await);
    let created = provisioning.create_fully_provisioned(bella()).await.unwrap().into_inner();
    let (tenant_id, segment_id) = (created.tenant.unwrap().id, created.segment.unwrap().id);
    let line = process.wait_for_json("Fully provisioned new tenant");
    assert_eq!(line["level"], "INFO");
    assert_eq!((&line["tenant_id"], &line["segment_id"]), (&tenant_id.as_str().into(), &segment_id.as_str().into()));
    assert_eq!((&line["slug"], &line["flow"]), (&"bella-weddings".into(), &"admin".into()));
    assert_eq!(line["packages_created"], 3);

    provisioning.create_from_signup(signup("Omer", "omer@example.com")).await.unwrap();
    let line = process.wait_for_json("Fully provisioned new tenant");
    assert_eq!((&line["slug"], &line["flow"]), (&"omer".into(), &"signup".into()));

    let mut catalog = PackageCatalogClient::new(channel(&address).await);
    #[expect(deprecated, reason = "the use of the deprecated field is logged")]
    let request = UpsertPackageRequest {
        tenant_id: tenant_id.clone(),
        title: Some("Gold".to_owned()),
        base_price: Some(1),
        ..UpsertPackageRequest::default()
    };
    catalog.upsert_package(request.clone()).await.unwrap();
    assert_eq!(process.wait_for_json("A deprecated field was used")["field"], "title");
    let line = process.wait_for_json("Package auto-assigned to General segment");
    assert_eq!(line["level"], "DEBUG");
    assert_eq!((&line["tenant_id"], &line["segment_id"]), (&tenant_id.as_str().into(), &segment_id.as_str().into()));

    database.execute_without_triggers("DELETE FROM packages; DELETE FROM segments").await;
    catalog.upsert_package(request).await.unwrap();
    let line = process.wait_for_json("General segment was missing and has been created again");
    assert_eq!((&line["level"], &line["tenant_id"]), (&"WARN".into(), &tenant_id.as_str().into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_assignment_is_logged_for_a_package_with_a_segment() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(serve(folder.path(), &database.server).env("RUST_LOG", "turnkey=debug"));
    let address = process.address();
    let mut provisioning = TenantProvisioningClient::new(channel(&address).await);
    let created = provisioning.create_fully_provisioned(bella()).await.unwrap().into_inner();
    let mut catalog = PackageCatalogClient::new(channel(&address).await);
    let given = UpsertPackageRequest {
        tenant_id: created.tenant.unwrap().id,
        slug: Some("gold".to_owned()),
        name: Some("Gold".to_owned()),
        base_price: Some(1),
        segment_id: Some(created.segment.unwrap().id),
        ..UpsertPackageRequest::default()
    };
    let changed = UpsertPackageRequest { segment_id: None, base_price: Some(2), ..given.clone() };
    assert_eq!(catalog.upsert_package(given).await.unwrap().into_inner().action(), UpsertAction::Created);
    assert_eq!(catalog.upsert_package(changed).await.unwrap().into_inner().action(), UpsertAction::Updated);
    process.signal(Signal::SIGTERM);
    process.wait();
    assert!(process.log.iter().all(|line| !line.contains("auto-assigned")), "{:?}", process.log);
}

#[tokio::test]
async fn a_repair_logs_what_it_changed_and_one_that_changed_nothing_is_not_logged() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(&mut serve(folder.path(), &database.server));
    let mut provisioning = process.provisioning().await;
    let client = provisioning.clone();
    let repair = async |tenant_id: &str| {
        let request = RepairTenantRequest { tenant_id: tenant_id.to_owned() };
        client.clone().repair_tenant(request).await.map(drop)
    };
    let signed_up = provisioning.create_from_signup(signup_with_request_id()).await.unwrap().into_inner();
    let tenant_id = signed_up.tenant.unwrap().id;
    repair(&tenant_id).await.unwrap();
    for (damage, field, count) in [
        ("DELETE FROM segments", "segments_created", 1),
        ("DELETE FROM packages", "packages_created", 3),
        ("UPDATE packages SET segment_id = '99999999-9999-7999-8999-999999999999'", "packages_moved", 3),
        ("UPDATE tenant_usage SET package_count = 9", "usage_counts_corrected", 1),
        ("UPDATE owners SET email = 'ömer@example.com'", "emails_corrected", 1),
        ("DELETE FROM owners", "signups_cleared", 1),
        ("UPDATE idempotency_records SET key_id = 'x'", "idempotency_records_deleted", 1),
        ("DELETE FROM api_keys", "api_keys_created", 1),
    ] {
        database.execute_without_triggers(damage).await;
        repair(&tenant_id).await.unwrap();
        repair(&tenant_id).await.unwrap();
        let line = process.wait_for_json("Repaired tenant");
        assert_eq!((&line["level"], &line["tenant_id"]), (&"INFO".into(), &tenant_id.as_str().into()));
        assert_eq!(line[field], count, "{line}");
    }
    database.execute_without_triggers("DELETE FROM tenants").await;
    repair(&tenant_id).await.unwrap();
    repair(&tenant_id).await.unwrap_err();
    let line = process.wait_for_json("Deleted rows of a missing tenant");
    // A segment, three packages, a key and the counters.
    assert_eq!((&line["level"], &line["rows_deleted"]), (&"INFO".into(), &6.into()));
    process.signal(Signal::SIGTERM);
    process.wait();
    let count = |message: &str| process.log.iter().filter(|line| line.contains(message)).count();
    assert_eq!((count("Repaired tenant"), count("Deleted rows of a missing tenant")), (8, 1));
}

#[tokio::test]
async fn a_refused_call_is_logged_once_a_second_with_its_caller_rpc_and_reason() {
    let database = Cluster::get().migrated().await;
    let tokens = Tokens::new();
    let token = tokens.create("booking", &["catalog"]);
    let mut command = serve(tokens.folder(), &database.server);
    let mut process = Process::start(command.args(["--tokens-file", "tokens.toml"]));
    let address = process.address();
    let mut provisioning = TenantProvisioningClient::new(channel(&address).await);
    for _ in 0..3 {
        provisioning.create_fully_provisioned(with_bearer(bella(), Some(&token))).await.unwrap_err();
    }
    provisioning.create_fully_provisioned(bella()).await.unwrap_err();
    let line = process.wait_for_json("Refused call");
    assert_eq!((&line["level"], &line["caller"]), (&"INFO".into(), &"booking".into()));
    let rpc = "turnkey.v1.TenantProvisioning/CreateFullyProvisioned";
    assert_eq!((&line["rpc"], &line["reason"]), (&rpc.into(), &"PERMISSION_DENIED".into()));
    assert_eq!(line["count"], 1);
    // The next line is that of another caller, unless a second has passed.
    let line = process.wait_for_json(r#""unauthenticated""#);
    assert_eq!((&line["message"], &line["reason"]), (&"Refused call".into(), &"UNAUTHENTICATED".into()));
}
