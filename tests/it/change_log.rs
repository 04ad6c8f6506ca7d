//! One INFO line for each change, with its ids, its caller and its RPC, and nothing that is personal or secret.

use std::{collections::BTreeSet, process::Output};

use nix::sys::signal::Signal;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::Value;
use sqlx::ConnectOptions as _;
use tonic::transport::Channel;
use turnkey::grpc::pb::{
    BatchCreateFullyProvisionedRequest, BatchUpsertPackagesRequest, ChangePasswordRequest, CreateApiKeyRequest,
    CreateOwnerTokenRequest, DESCRIPTORS, DeletePackageRequest, DeleteSegmentRequest, DeleteTenantRequest,
    OwnerTokenPurpose, PackageUpsert, PurgeTenantRequest, ReactivateTenantRequest, RepairTenantRequest,
    ResetPasswordRequest, RevokeApiKeyRequest, RotateApiKeyRequest, SetOwnerRequest, SuspendTenantRequest,
    UndeleteTenantRequest, UpdateTenantRequest, UpsertPackageRequest, UpsertSegmentRequest, VerifyEmailRequest,
    package_catalog_client::PackageCatalogClient, tenant_provisioning_client::TenantProvisioningClient,
};

use crate::support::{
    damage::{UNKNOWN_TENANT, damage_of_every_kind},
    database::{Cluster, TestDatabase},
    fixture::{Fixture, channel},
    process::{Process, database_url, serve, temp_folder, turnkey},
    requests::{PASSWORD, REQUEST_ID, bella_with_request_id, named, signup_with_request_id},
};

/// The RPCs that change nothing an operator looks for in the log.
const READING_RPCS: [&str; 12] = [
    "GetTenant",
    "ListTenants",
    "ListApiKeys",
    "VerifyApiKey",
    "VerifyPassword",
    "CheckIntegrity",
    "ListEvents",
    "WatchEvents",
    "GetPackage",
    "ListPackages",
    "GetSegment",
    "ListSegments",
];

/// The fields of a line besides those of the log itself. All are ids, numbers or words of this program.
const PERMITTED_FIELDS: [&str; 22] = [
    "api_keys_created",
    "api_keys_revoked",
    "emails_corrected",
    "flow",
    "idempotency_records_deleted",
    "is_email_verified",
    "packages_created",
    "packages_moved",
    "package_id",
    "public_key",
    "purpose",
    "rows_deleted",
    "rpc.method",
    "rpc.system.name",
    "segment_id",
    "segments_created",
    "signups_cleared",
    "slug",
    "span_id",
    "tenant_id",
    "trace_id",
    "usage_counts_corrected",
];

/// The RPC, the message, and the id of what changed.
type Line = (String, String, String);

/// Calls every changing RPC, each change twice where the second call is a replay or changes nothing.
struct Calls {
    database: TestDatabase,
    provisioning: TenantProvisioningClient<Channel>,
    catalog: PackageCatalogClient<Channel>,
    tenant_id: String,
    expected: Vec<Line>,
}

impl Calls {
    fn expect(&mut self, rpc: &str, message: &str, id: impl Into<String>) {
        self.expected.push((rpc.to_owned(), message.to_owned(), id.into()));
    }

    fn tenant_id(&self) -> String {
        self.tenant_id.clone()
    }

    async fn create_tenants(&mut self) {
        let created = "Fully provisioned new tenant";
        for _ in 0..2 {
            let response = self.provisioning.create_fully_provisioned(bella_with_request_id()).await.unwrap();
            self.tenant_id = response.into_inner().tenant.unwrap().id;
        }
        self.expect("TenantProvisioning/CreateFullyProvisioned", created, self.tenant_id());
        let mut id = String::new();
        for _ in 0..2 {
            let response = self.provisioning.create_from_signup(signup_with_request_id()).await.unwrap();
            id = response.into_inner().tenant.unwrap().id;
        }
        self.expect("TenantProvisioning/CreateFromSignup", created, id);
        let requests = vec![named("one"), named("two"), named("one")];
        let batch = BatchCreateFullyProvisionedRequest { requests };
        self.provisioning.batch_create_fully_provisioned(batch).await.unwrap();
        for _ in 0..2 {
            self.expect("TenantProvisioning/BatchCreateFullyProvisioned", created, "");
        }
    }

    async fn change_tenant(&mut self) {
        for _ in 0..2 {
            let tenant_id = self.tenant_id();
            let update = UpdateTenantRequest { tenant_id, name: Some("Bea".to_owned()), ..Default::default() };
            self.provisioning.update_tenant(update).await.unwrap();
        }
        self.expect("TenantProvisioning/UpdateTenant", "Updated tenant", self.tenant_id());
        for _ in 0..2 {
            let request = SuspendTenantRequest { tenant_id: self.tenant_id() };
            self.provisioning.suspend_tenant(request).await.unwrap();
        }
        self.expect("TenantProvisioning/SuspendTenant", "Suspended tenant", self.tenant_id());
        for _ in 0..2 {
            let request = ReactivateTenantRequest { tenant_id: self.tenant_id() };
            self.provisioning.reactivate_tenant(request).await.unwrap();
        }
        self.expect("TenantProvisioning/ReactivateTenant", "Reactivated tenant", self.tenant_id());
        for _ in 0..2 {
            let request = DeleteTenantRequest { tenant_id: self.tenant_id(), ..Default::default() };
            self.provisioning.delete_tenant(request).await.unwrap();
        }
        self.expect("TenantProvisioning/DeleteTenant", "Deleted tenant", self.tenant_id());
        for _ in 0..2 {
            let request = UndeleteTenantRequest { tenant_id: self.tenant_id() };
            self.provisioning.undelete_tenant(request).await.unwrap();
        }
        self.expect("TenantProvisioning/UndeleteTenant", "Undeleted tenant", self.tenant_id());
    }

    async fn change_keys(&mut self) {
        let mut public_key = String::new();
        for _ in 0..2 {
            let request_id = Some(REQUEST_ID.to_owned());
            let rotation = RotateApiKeyRequest { tenant_id: self.tenant_id(), request_id, ..Default::default() };
            let response = self.provisioning.rotate_api_key(rotation).await.unwrap();
            public_key = response.into_inner().api_key.unwrap().public_key;
        }
        self.expect("TenantProvisioning/RotateApiKey", "Rotated API key", &public_key);
        for _ in 0..2 {
            let request_id = Some(REQUEST_ID.to_owned());
            // The name is not in the log: it is text of the tenant's.
            let name = Some("Confidential".to_owned());
            let creation = CreateApiKeyRequest { tenant_id: self.tenant_id(), name, request_id, ..Default::default() };
            let response = self.provisioning.create_api_key(creation).await.unwrap();
            public_key = response.into_inner().api_key.unwrap().public_key;
        }
        self.expect("TenantProvisioning/CreateApiKey", "Created API key", &public_key);
        for _ in 0..2 {
            let revocation = RevokeApiKeyRequest { tenant_id: self.tenant_id(), public_key: public_key.clone() };
            self.provisioning.revoke_api_key(revocation).await.unwrap();
        }
        self.expect("TenantProvisioning/RevokeApiKey", "Revoked API key", &public_key);
    }

    async fn change_owners(&mut self) {
        let email = "owner@example.com".to_owned();
        let set = SetOwnerRequest { tenant_id: self.tenant_id(), email: email.clone(), password: None };
        for _ in 0..2 {
            self.provisioning.set_owner(set.clone()).await.unwrap();
        }
        self.expect("TenantProvisioning/SetOwner", "Set owner", self.tenant_id());
        let mut tokens = Vec::new();
        for (purpose, address) in [
            (OwnerTokenPurpose::VerifyEmail, email.as_str()),
            (OwnerTokenPurpose::ResetPassword, email.as_str()),
            (OwnerTokenPurpose::ResetPassword, "unknown@example.com"),
        ] {
            let request =
                CreateOwnerTokenRequest { email: address.to_owned(), purpose: purpose.into(), ..Default::default() };
            tokens.push(self.provisioning.create_owner_token(request).await.unwrap().into_inner().token);
        }
        self.expect("TenantProvisioning/CreateOwnerToken", "Created owner token", self.tenant_id());
        self.expect("TenantProvisioning/CreateOwnerToken", "Created owner token", self.tenant_id());
        for token in [&tokens[0], &tokens[0], &tokens[1]] {
            self.provisioning.verify_email(VerifyEmailRequest { token: token.clone() }).await.unwrap();
        }
        self.expect("TenantProvisioning/VerifyEmail", "Verified e-mail address", self.tenant_id());
        for token in [&tokens[1], &tokens[1], &tokens[0]] {
            let request = ResetPasswordRequest { token: token.clone(), new_password: PASSWORD.to_owned() };
            self.provisioning.reset_password(request).await.unwrap();
        }
        self.expect("TenantProvisioning/ResetPassword", "Reset password", self.tenant_id());
        for current in [PASSWORD, "a wrong password"] {
            let request = ChangePasswordRequest {
                email: email.clone(),
                current_password: current.to_owned(),
                new_password: PASSWORD.to_owned(),
                client_address: None,
            };
            self.provisioning.change_password(request).await.unwrap();
        }
        self.expect("TenantProvisioning/ChangePassword", "Changed password", self.tenant_id());
    }

    async fn change_packages(&mut self) {
        let tenant_id = self.tenant_id();
        let (slug, name) = (Some("gold".to_owned()), Some("Gold".to_owned()));
        let gold = UpsertPackageRequest { tenant_id, slug, name, base_price: Some(1), ..Default::default() };
        let mut id = String::new();
        let dry_run = UpsertPackageRequest { base_price: Some(3), validate_only: Some(true), ..gold.clone() };
        let change = UpsertPackageRequest { base_price: Some(2), ..gold.clone() };
        for request in [gold.clone(), gold, dry_run, change] {
            let response = self.catalog.upsert_package(request).await.unwrap();
            id = response.into_inner().package.unwrap().id;
        }
        self.expect("PackageCatalog/UpsertPackage", "Created package", &id);
        self.expect("PackageCatalog/UpsertPackage", "Updated package", &id);
        let item = |slug: &str, price| PackageUpsert {
            slug: Some(slug.to_owned()),
            name: Some("Gold".to_owned()),
            base_price: Some(price),
            ..Default::default()
        };
        let packages = vec![item("gold", 2), item("silver", 1), item("bronze", 1)];
        let batch = BatchUpsertPackagesRequest { tenant_id: self.tenant_id(), packages };
        let results = self.catalog.batch_upsert_packages(batch).await.unwrap().into_inner().results;
        for result in &results[1..] {
            let id = &result.package.as_ref().unwrap().id;
            self.expect("PackageCatalog/BatchUpsertPackages", "Created package", id);
        }
        let deletion =
            DeletePackageRequest { tenant_id: self.tenant_id(), package_id: id.clone(), ..Default::default() };
        self.catalog.delete_package(deletion).await.unwrap();
        self.expect("PackageCatalog/DeletePackage", "Deleted package", id);
    }

    async fn change_segments(&mut self) {
        let tenant_id = self.tenant_id();
        let (slug, name) = (Some("extras".to_owned()), Some("Extras".to_owned()));
        let extras = UpsertSegmentRequest { tenant_id, slug, name, ..Default::default() };
        let mut id = String::new();
        for request in [extras.clone(), extras.clone(), UpsertSegmentRequest { active: Some(false), ..extras }] {
            let response = self.catalog.upsert_segment(request).await.unwrap();
            id = response.into_inner().segment.unwrap().id;
        }
        self.expect("PackageCatalog/UpsertSegment", "Created segment", &id);
        self.expect("PackageCatalog/UpsertSegment", "Updated segment", &id);
        let deletion =
            DeleteSegmentRequest { tenant_id: self.tenant_id(), segment_id: id.clone(), ..Default::default() };
        self.catalog.delete_segment(deletion).await.unwrap();
        self.expect("PackageCatalog/DeleteSegment", "Deleted segment", id);
    }

    async fn repair(&mut self) {
        self.database.execute_without_triggers("DELETE FROM packages").await;
        for _ in 0..2 {
            let request = RepairTenantRequest { tenant_id: self.tenant_id() };
            self.provisioning.repair_tenant(request).await.unwrap();
        }
        self.expect("TenantProvisioning/RepairTenant", "Repaired tenant", self.tenant_id());
        let stray = format!("INSERT INTO tenant_usage VALUES ('{UNKNOWN_TENANT}', 3, 1)");
        self.database.execute_without_triggers(&stray).await;
        let request = RepairTenantRequest { tenant_id: UNKNOWN_TENANT.to_owned() };
        self.provisioning.repair_tenant(request).await.unwrap();
        self.expect("TenantProvisioning/RepairTenant", "Deleted rows of a missing tenant", UNKNOWN_TENANT);
    }

    /// Purges another tenant, whose events are gone then.
    async fn purge(&mut self) {
        let tenant_id = self.provisioning.create_fully_provisioned(named("purged")).await.unwrap();
        let tenant_id = tenant_id.into_inner().tenant.unwrap().id;
        self.expect("TenantProvisioning/CreateFullyProvisioned", "Fully provisioned new tenant", &tenant_id);
        self.provisioning
            .delete_tenant(DeleteTenantRequest { tenant_id: tenant_id.clone(), etag: None })
            .await
            .unwrap();
        self.expect("TenantProvisioning/DeleteTenant", "Deleted tenant", &tenant_id);
        let request = PurgeTenantRequest { tenant_id: tenant_id.clone(), confirm_slug: "purged".to_owned() };
        self.provisioning.purge_tenant(request).await.unwrap();
        self.expect("TenantProvisioning/PurgeTenant", "Purged tenant", tenant_id);
    }
}

/// The INFO lines that a span with a caller contains.
fn lines_of_callers<'a>(log: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    let lines = log.into_iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["level"] == "INFO" && line["turnkey.caller"].is_string()).collect()
}

fn text(line: &Value, field: &str) -> String {
    line[field].as_str().unwrap_or_default().to_owned()
}

/// The id of what changed: the most specific one of the line.
fn changed_id(line: &Value) -> String {
    if line["flow"] == "batch" {
        return String::new();
    }
    let is_tenant = line["flow"].is_string();
    let fields: &[_] =
        if is_tenant { &["tenant_id"] } else { &["package_id", "segment_id", "public_key", "tenant_id"] };
    fields.iter().map(|field| text(line, field)).find(|id| !id.is_empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_logs_a_change_and_leaves_its_event_once_and_no_change_and_no_replay_does() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(&mut serve(folder.path(), &database.server));
    let channel = channel(&process.address()).await;
    let mut calls = Calls {
        database,
        provisioning: TenantProvisioningClient::new(channel.clone()),
        catalog: PackageCatalogClient::new(channel),
        tenant_id: String::new(),
        expected: Vec::new(),
    };
    calls.create_tenants().await;
    calls.change_tenant().await;
    calls.change_keys().await;
    calls.change_owners().await;
    calls.change_packages().await;
    calls.change_segments().await;
    calls.repair().await;
    calls.purge().await;
    let expected = calls.expected;
    process.signal(Signal::SIGTERM);
    process.wait();

    let lines = lines_of_callers(process.log.iter().map(String::as_str));
    let rpc = |line: &Value| text(line, "rpc.method").trim_start_matches("turnkey.v1.").to_owned();
    let logged: Vec<Line> = lines.iter().map(|line| (rpc(line), text(line, "message"), changed_id(line))).collect();
    assert_eq!(logged, expected);
    let purged: Vec<_> =
        lines.iter().filter(|line| line["message"] == "Purged tenant").map(|line| text(line, "tenant_id")).collect();
    let with_event = lines.iter().filter_map(|line| {
        if purged.contains(&text(line, "tenant_id")) && line["message"] != "Purged tenant" {
            return None;
        }
        let event = event_type(&text(line, "message"))?;
        Some((event.to_owned(), text(line, "trace_id"), text(line, "turnkey.caller")))
    });
    assert_eq!(events(&calls.database).await, with_event.collect::<Vec<_>>());
    let documented = include_str!("../../docs/operations.md");
    for (_, message, _) in &logged {
        assert!(documented.contains(&format!("`{message}`")), "{message}");
    }
    let own_fields = ["level", "message", "name", "target", "timestamp", "turnkey.caller"];
    for line in &lines {
        assert_eq!(line["turnkey.caller"], "anonymous");
        for field in line.as_object().unwrap().keys() {
            assert!(PERMITTED_FIELDS.iter().chain(&own_fields).any(|known| known == field), "{field}: {line}");
        }
    }

    let changing = expected.iter().map(|(rpc, ..)| rpc.rsplit_once('/').unwrap().1.to_owned());
    assert_eq!(changing.chain(READING_RPCS.map(str::to_owned)).collect::<BTreeSet<_>>(), all_rpcs());
}

/// The type of the event of a change with this line. No event shows that a token was created.
fn event_type(message: &str) -> Option<&'static str> {
    Some(match message {
        "Fully provisioned new tenant" => "tenant.created",
        "Updated tenant" => "tenant.updated",
        "Suspended tenant" => "tenant.suspended",
        "Reactivated tenant" => "tenant.reactivated",
        "Deleted tenant" => "tenant.deleted",
        "Purged tenant" => "tenant.purged",
        "Undeleted tenant" => "tenant.undeleted",
        "Repaired tenant" | "Deleted rows of a missing tenant" => "tenant.repaired",
        "Created API key" => "api_key.created",
        "Rotated API key" => "api_key.rotated",
        "Revoked API key" => "api_key.revoked",
        "Set owner" => "owner.set",
        "Verified e-mail address" => "owner.email_verified",
        "Reset password" | "Changed password" => "owner.password_changed",
        "Created package" => "package.created",
        "Updated package" => "package.updated",
        "Deleted package" => "package.deleted",
        "Created segment" => "segment.created",
        "Updated segment" => "segment.updated",
        "Deleted segment" => "segment.deleted",
        "Created owner token" => return None,
        _ => panic!("{message} has no type of event"),
    })
}

/// The type, trace and caller of every event, in order.
async fn events(database: &TestDatabase) -> Vec<(String, String, String)> {
    let mut connection = database.superuser.connect().await.unwrap();
    sqlx::query_as("SELECT type, coalesce(trace_id, ''), caller FROM events ORDER BY history, xid, id")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

fn all_rpcs() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file.into_iter();
    let services = files.filter(|file| file.package() == "turnkey.v1").flat_map(|file| file.service);
    services.flat_map(|service| service.method).map(|method| method.name().to_owned()).collect()
}

/// The caller, the message and the number of its lines, in the order of their first lines.
fn summary(output: &Output) -> Vec<(String, String, usize)> {
    let mut summary: Vec<(String, String, usize)> = Vec::new();
    for line in lines_of_callers(String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.starts_with('{'))) {
        let (caller, message) = (text(&line, "turnkey.caller"), text(&line, "message"));
        assert!(line["tenant_id"].is_string(), "{line}");
        match summary.iter_mut().find(|(_, known, _)| *known == message) {
            Some((.., count)) => *count += 1,
            None => summary.push((caller, message, 1)),
        }
    }
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_log_their_changes_with_a_caller_of_their_own_and_leave_events_of_the_command_line() {
    let fixture = Fixture::start().await;
    damage_of_every_kind(&fixture).await;
    let folder = temp_folder();
    let run = |arguments: &[&str]| {
        let mut command = turnkey(folder.path());
        summary(&command.args(arguments).env("DATABASE_URL", database_url(&fixture.database.server)).output().unwrap())
    };
    let line = |caller: &str, message: &str, count| (caller.to_owned(), message.to_owned(), count);
    let doctor = run(&["doctor", "--repair", "--out", "repaired.csv"]);
    assert!(doctor.iter().all(|(caller, ..)| caller == "cli"), "{doctor:?}");
    let messages: BTreeSet<_> = doctor.iter().map(|(_, message, _)| message.as_str()).collect();
    assert_eq!(messages, ["Deleted rows of a missing tenant", "Repaired tenant"].into());
    assert_eq!(run(&["doctor", "--repair", "--out", "repaired.csv"]), []);

    std::fs::write(folder.path().join("tenants.csv"), "slug,name\nnew-one,One\nnew-two,Two\n").unwrap();
    let import = run(&["import", "tenants.csv", "--out", "keys.csv"]);
    assert_eq!(import, [line("import", "Fully provisioned new tenant", 2)]);
    assert_eq!(run(&["import", "tenants.csv", "--out", "keys.csv"]), []);

    fixture.database.execute("UPDATE tenants SET deleted_at = '2020-01-01' WHERE slug LIKE 'new-%'").await;
    assert_eq!(run(&["purge", "--older-than", "30d"]), []);
    assert_eq!(run(&["purge", "--older-than", "30d", "--yes"]), [line("cli", "Purged tenant", 2)]);

    let events = events(&fixture.database).await;
    let of_commands: Vec<_> = events.iter().filter(|(.., caller)| caller == "cli").collect();
    assert!(of_commands.iter().all(|(_, trace_id, _)| trace_id.is_empty()), "{of_commands:?}");
    let types: BTreeSet<_> = of_commands.iter().map(|(kind, ..)| kind.as_str()).collect();
    assert_eq!(types, ["tenant.purged", "tenant.repaired"].into(), "the events of the import were purged");
}
