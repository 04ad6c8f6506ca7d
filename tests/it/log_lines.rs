//! Log lines that others rely on.

use nix::sys::signal::Signal;
use tempfile::tempdir_in;
use turnkey::grpc::pb::{
    RepairTenantRequest, UpsertAction, UpsertPackageRequest, package_catalog_client::PackageCatalogClient,
    tenant_provisioning_client::TenantProvisioningClient,
};

use crate::{
    cluster::{Cluster, execute},
    create_from_signup::signup,
    fixture::{bella, channel, named},
    process::{Program, serving},
};

#[tokio::test]
async fn the_log_says_who_was_made_and_where_packages_went() {
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut program = Program::start(serving(folder.path(), &database.server).env("RUST_LOG", "turnkey=debug"));
    let address = program.address();
    let mut provisioning = TenantProvisioningClient::new(channel(&address).await);
    let made = provisioning.create_fully_provisioned(bella()).await.unwrap().into_inner();
    let (tenant_id, segment_id) = (made.tenant.unwrap().id, made.segment.unwrap().id);
    let line = next_line(&mut program, "Fully provisioned new tenant");
    assert_eq!(line["level"], "INFO");
    assert_eq!((&line["tenant_id"], &line["segment_id"]), (&tenant_id.as_str().into(), &segment_id.as_str().into()));
    assert_eq!((&line["slug"], &line["flow"]), (&"bella-weddings".into(), &"admin".into()));
    assert_eq!(line["packages_created"], 3);

    provisioning.create_from_signup(signup("Omer", "omer@example.com")).await.unwrap();
    let line = next_line(&mut program, "Fully provisioned new tenant");
    assert_eq!((&line["slug"], &line["flow"]), (&"omer".into(), &"signup".into()));

    let mut catalog = PackageCatalogClient::new(channel(&address).await);
    #[expect(deprecated, reason = "its use is what is logged")]
    let request = UpsertPackageRequest {
        tenant_id: tenant_id.clone(),
        title: Some("Gold".to_owned()),
        base_price: Some(1),
        ..UpsertPackageRequest::default()
    };
    catalog.upsert_package(request.clone()).await.unwrap();
    assert_eq!(next_line(&mut program, "A deprecated field was used")["field"], "title");
    let line = next_line(&mut program, "Package auto-assigned to General segment");
    assert_eq!(line["level"], "DEBUG");
    assert_eq!((&line["tenant_id"], &line["segment_id"]), (&tenant_id.as_str().into(), &segment_id.as_str().into()));

    let damage = "SET session_replication_role = replica; DELETE FROM packages; DELETE FROM segments";
    execute(&database.superuser, damage.to_owned()).await;
    catalog.upsert_package(request).await.unwrap();
    let line = next_line(&mut program, "General segment was missing and has been created again");
    assert_eq!((&line["level"], &line["tenant_id"]), (&"WARN".into(), &tenant_id.as_str().into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_was_given_a_segment_or_has_one_is_not_said_to_have_got_it() {
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut program = Program::start(serving(folder.path(), &database.server).env("RUST_LOG", "turnkey=debug"));
    let address = program.address();
    let mut provisioning = TenantProvisioningClient::new(channel(&address).await);
    let made = provisioning.create_fully_provisioned(bella()).await.unwrap().into_inner();
    let mut catalog = PackageCatalogClient::new(channel(&address).await);
    let given = UpsertPackageRequest {
        tenant_id: made.tenant.unwrap().id,
        slug: Some("gold".to_owned()),
        name: Some("Gold".to_owned()),
        base_price: Some(1),
        segment_id: Some(made.segment.unwrap().id),
        ..UpsertPackageRequest::default()
    };
    let changed = UpsertPackageRequest { segment_id: None, base_price: Some(2), ..given.clone() };
    assert_eq!(catalog.upsert_package(given).await.unwrap().into_inner().action(), UpsertAction::Created);
    assert_eq!(catalog.upsert_package(changed).await.unwrap().into_inner().action(), UpsertAction::Updated);
    program.signal(Signal::SIGTERM);
    program.wait();
    assert!(program.log.iter().all(|line| !line.contains("auto-assigned")), "{:?}", program.log);
}

#[tokio::test]
async fn a_repair_is_said_where_it_made_something() {
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut program = Program::start(&mut serving(folder.path(), &database.server));
    let mut provisioning = program.provisioning().await;
    let slugs = ["whole", "no-segment", "no-package", "no-key"];
    let mut ids = Vec::new();
    for slug in slugs {
        ids.push(provisioning.create_fully_provisioned(named(slug)).await.unwrap().into_inner().tenant.unwrap().id);
    }
    let damage = format!(
        "SET session_replication_role = replica; DELETE FROM segments WHERE tenant_id = '{}';
         DELETE FROM packages WHERE tenant_id = '{}'; DELETE FROM api_keys WHERE tenant_id = '{}'",
        ids[1], ids[2], ids[3]
    );
    execute(&database.superuser, damage).await;
    for tenant_id in ids {
        provisioning.repair_tenant(RepairTenantRequest { tenant_id }).await.unwrap();
    }
    for (slug, segment, packages, key) in
        [("no-segment", true, 0, false), ("no-package", false, 3, false), ("no-key", false, 0, true)]
    {
        let line = next_line(&mut program, "Repaired a damaged tenant");
        assert_eq!((&line["level"], &line["slug"]), (&"WARN".into(), &slug.into()));
        let made = (&line["created_segment"], &line["packages_created"], &line["created_api_key"]);
        assert_eq!(made, (&segment.into(), &packages.into(), &key.into()), "{slug}");
    }
}

fn next_line(program: &mut Program, message: &str) -> serde_json::Value {
    serde_json::from_str(&program.wait_for(message)).unwrap()
}
