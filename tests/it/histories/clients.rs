//! Clients that make random calls for one tenant, over gRPC and HTTP, and record what they called and received.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost_types::Duration as ProtoDuration;
use rand::{Rng as _, RngExt as _, rngs::StdRng};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use turnkey::grpc::pb::{
    ApiKey, BatchCreateFullyProvisionedRequest, BatchUpsertPackagesRequest, CreateApiKeyRequest,
    CreateFromSignupRequest, CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, DeletePackageRequest,
    DeleteSegmentRequest, DeleteTenantRequest, GetTenantRequest, ListApiKeysRequest, ListPackagesRequest,
    ListSegmentsRequest, Package, PackageUpsert, ReactivateTenantRequest, RevokeApiKeyRequest, RotateApiKeyRequest,
    Segment, SetOwnerRequest, SuspendTenantRequest, Tenant, UndeleteTenantRequest, UpdateTenantRequest, UpsertAction,
    UpsertPackageRequest, UpsertSegmentRequest, VerifyApiKeyRequest,
    batch_create_fully_provisioned_result::Result as BatchResult, get_tenant_request::Identifier,
    package_catalog_client::PackageCatalogClient, tenant_provisioning_client::TenantProvisioningClient,
};
use uuid::Builder;

use super::{
    history::{Call, History, ItemView, KeyView, Outcome, Response, TenantView, tick},
    model::Origin,
};
use crate::support::{
    connect::Transport,
    load::is_expected_during_faults,
    requests::{named, signup},
};

/// A call without a response within this time never gets one.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
const PACKAGE_SLUGS: [&str; 4] = ["basic-package", "gold", "silver", "bronze"];
/// How many packages every tenant begins with; clients leave them.
const SEGMENT_SLUGS: [&str; 2] = ["winter", "summer"];

/// The transports of the servers that run, replaced when a server is.
#[derive(Clone, Default)]
pub struct Servers(Arc<RwLock<Vec<Vec<Transport>>>>);

impl Servers {
    pub fn replace(&self, number: usize, transports: Vec<Transport>) {
        let mut servers = self.0.write().unwrap();
        if servers.len() <= number {
            servers.resize(number + 1, Vec::new());
        }
        servers[number] = transports;
    }

    pub fn clear(&self) {
        self.0.write().unwrap().clear();
    }

    /// Any transport of any server.
    pub fn pick(&self, random: &mut StdRng) -> Transport {
        let servers = self.0.read().unwrap();
        let transports: Vec<&Transport> = servers.iter().flatten().collect();
        transports[random.random_range(0..transports.len())].clone()
    }

    /// The first transport of a server, which is gRPC.
    pub fn grpc(&self, random: &mut StdRng) -> Transport {
        let servers = self.0.read().unwrap();
        servers[random.random_range(0..servers.len())][0].clone()
    }
}

/// What a client learned from its responses.
#[derive(Default)]
struct Known {
    tenant_id: String,
    etag: Option<String>,
    keys: BTreeMap<String, String>,
    packages: BTreeMap<String, ItemView>,
    segments: BTreeMap<String, ItemView>,
}

pub struct Client {
    random: StdRng,
    servers: Servers,
    origin: Origin,
    request_id: String,
    history: History,
    known: Known,
}

/// A number that no other call has.
fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn new_request_id(random: &mut StdRng) -> String {
    let mut bytes = [0; 16];
    random.fill_bytes(&mut bytes);
    Builder::from_random_bytes(bytes).into_uuid().to_string()
}

impl Client {
    pub fn new(random: StdRng, servers: Servers, origin: Origin, request_id: String, history: History) -> Self {
        Self { random, servers, origin, request_id, history, known: Known::default() }
    }

    /// Creates the tenant, as the other clients do, and then makes this many random calls.
    pub async fn run(&mut self, calls: u32, on_call: impl Fn()) {
        self.call_until_answered(Call::Create).await;
        if self.known.tenant_id.is_empty() {
            // The owner was replaced before this client received a response.
            return;
        }
        for _ in 0..calls {
            match self.random_call() {
                call @ (Call::CreateKey { .. } | Call::Rotate { .. }) => self.call_until_answered(call).await,
                call => {
                    self.call(call).await;
                }
            }
            on_call();
        }
    }

    /// Reads everything.
    pub async fn read_all(&mut self) {
        for call in [Call::GetTenant, Call::ListKeys, Call::ListPackages, Call::ListSegments] {
            self.call_until_answered(call).await;
        }
        for public_key in self.known.keys.keys().cloned().collect::<Vec<_>>() {
            self.call_until_answered(Call::Verify { public_key }).await;
        }
    }

    /// Lets the client know what another one has learned.
    pub fn learn_from(&mut self, other: &Self) {
        if self.known.tenant_id.is_empty() {
            self.known.tenant_id.clone_from(&other.known.tenant_id);
        }
        self.known.keys.extend(other.known.keys.clone());
    }

    async fn call_until_answered(&mut self, call: Call) {
        while self.call(call.clone()).await == Outcome::Unknown {
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn call(&mut self, call: Call) -> Outcome {
        let invoked = tick();
        let transport = self.servers.pick(&mut self.random);
        let result = timeout(CALL_TIMEOUT, self.send(&call, transport)).await;
        let outcome = result
            .unwrap_or_else(|_elapsed| Err(Status::cancelled("no response")))
            .unwrap_or_else(|status| refusal(&status));
        self.learn(&call, &outcome);
        self.history.record(call, outcome.clone(), invoked);
        outcome
    }

    fn random_call(&mut self) -> Call {
        let random = &mut self.random;
        let with_etag = random.random_bool(0.5);
        let etag = |etag: Option<&String>| etag.filter(|_| with_etag).cloned();
        let package = PACKAGE_SLUGS[random.random_range(0..PACKAGE_SLUGS.len())];
        let segment = SEGMENT_SLUGS[random.random_range(0..SEGMENT_SLUGS.len())];
        let key = self.known.keys.keys().nth(random.random_range(0..self.known.keys.len().max(1))).cloned();
        let price = || i64::try_from(fresh()).unwrap();
        match (random.random_range(0..28), key) {
            (0..3, _) => Call::Rename { name: format!("Name {}", fresh()), etag: etag(self.known.etag.as_ref()) },
            (3, _) => Call::SetActive(false),
            (4, _) => Call::SetActive(true),
            (5, _) => Call::Delete { etag: etag(self.known.etag.as_ref()) },
            (6..8, _) => Call::Undelete,
            (8, _) => Call::SetOwner { email: format!("owner-{}@example.com", fresh()) },
            (9, _) => Call::CreateKey { request_id: new_request_id(random) },
            (10, _) => Call::Rotate { request_id: new_request_id(random), at_once: random.random() },
            (11, Some(public_key)) => Call::Revoke { public_key },
            (12..16, _) => {
                let etag = etag(self.known.packages.get(package).map(|known| &known.etag));
                Call::UpsertPackages { items: vec![(package.to_owned(), price())], etag }
            }
            (16, _) => {
                let items = PACKAGE_SLUGS.iter().map(|slug| ((*slug).to_owned(), price())).collect();
                Call::UpsertPackages { items, etag: None }
            }
            (17..19, _) => match self.known.packages.get(package) {
                Some(known) if known.slug != PACKAGE_SLUGS[0] => {
                    Call::DeletePackage { id: known.id.clone(), etag: etag(Some(&known.etag)) }
                }
                _ => Call::ListPackages,
            },
            (19..21, _) => {
                let etag = etag(self.known.segments.get(segment).map(|known| &known.etag));
                Call::UpsertSegment { slug: segment.to_owned(), name: format!("Segment {}", fresh()), etag }
            }
            (21, _) => match self.known.segments.get(segment) {
                Some(known) => Call::DeleteSegment { id: known.id.clone(), etag: etag(Some(&known.etag)) },
                None => Call::ListSegments,
            },
            (22, _) => Call::ListKeys,
            (23, Some(public_key)) => Call::Verify { public_key },
            (24, _) => Call::ListSegments,
            (25, _) => Call::ListPackages,
            _ => Call::GetTenant,
        }
    }

    fn learn(&mut self, call: &Call, outcome: &Outcome) {
        let Outcome::Ok(response) = outcome else { return };
        match response {
            Response::Tenant(tenant) => self.known.etag = Some(tenant.etag.clone()),
            Response::Created { tenant, .. } => {
                self.known.tenant_id.clone_from(&tenant.id);
                self.known.etag = Some(tenant.etag.clone());
            }
            Response::Upserted(results) => {
                let is_segment = matches!(call, Call::UpsertSegment { .. });
                let known = if is_segment { &mut self.known.segments } else { &mut self.known.packages };
                known.extend(results.iter().map(|(_, item)| (item.slug.clone(), item.clone())));
            }
            Response::Items(items) => {
                let known =
                    if *call == Call::ListSegments { &mut self.known.segments } else { &mut self.known.packages };
                *known = items.iter().map(|item| (item.slug.clone(), item.clone())).collect();
            }
            Response::Key { public_key, secret: Some(secret), .. } => {
                self.known.keys.insert(public_key.clone(), secret.clone());
            }
            _ => {}
        }
    }

    async fn send(&mut self, call: &Call, transport: Transport) -> Result<Outcome, Status> {
        match call {
            Call::Create => self.create(transport).await,
            Call::UpsertPackages { .. }
            | Call::DeletePackage { .. }
            | Call::UpsertSegment { .. }
            | Call::DeleteSegment { .. }
            | Call::ListPackages
            | Call::ListSegments => self.send_to_catalog(call, transport).await,
            Call::CreateKey { .. }
            | Call::Rotate { .. }
            | Call::Revoke { .. }
            | Call::ListKeys
            | Call::Verify { .. } => self.send_about_keys(call, transport).await,
            _ => self.send_about_tenant(call, transport).await,
        }
    }

    async fn create(&mut self, transport: Transport) -> Result<Outcome, Status> {
        let mut client = TenantProvisioningClient::new(transport);
        let Origin { slug, name, owner } = &self.origin;
        let request_id = Some(self.request_id.clone());
        if let Some(email) = owner {
            let request = CreateFromSignupRequest { slug: Some(slug.clone()), request_id, ..signup(name, email) };
            let created = client.create_from_signup(request).await?.into_inner();
            let first = self.learn_first_key(created.tenant.as_ref(), &created.secret_key);
            return Ok(created_outcome(created.tenant, first, created.replayed));
        }
        let request = CreateFullyProvisionedRequest { name: name.clone(), request_id, ..named(slug) };
        let created = if self.random.random() {
            client.create_fully_provisioned(request).await?.into_inner()
        } else {
            // The other item is refused, which does not concern this one.
            let requests = vec![named("admin"), request];
            let batch = client.batch_create_fully_provisioned(BatchCreateFullyProvisionedRequest { requests }).await?;
            match batch.into_inner().results.pop().and_then(|result| result.result) {
                Some(BatchResult::Provisioned(created)) => created,
                Some(BatchResult::Error(error))
                    if ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"].contains(&&*error.code) =>
                {
                    return Ok(Outcome::Unknown);
                }
                other => panic!("unexpected: {other:?}"),
            }
        };
        let CreateFullyProvisionedResponse { tenant, secret_key, replayed, .. } = created;
        let first = self.learn_first_key(tenant.as_ref(), &secret_key);
        Ok(created_outcome(tenant, first, replayed))
    }

    /// Notes the tenant's key, whose public half is in the secret.
    fn learn_first_key(&mut self, tenant: Option<&Tenant>, secret_key: &str) -> Option<String> {
        let secret = Some(secret_key.to_owned()).filter(|secret| !secret.is_empty())?;
        let public_key = secret.rsplit_once('_').unwrap().0.replacen("sk_", "pk_", 1);
        assert!(tenant.is_some());
        self.known.keys.insert(public_key, secret.clone());
        Some(secret)
    }

    async fn send_about_tenant(&self, call: &Call, transport: Transport) -> Result<Outcome, Status> {
        let mut client = TenantProvisioningClient::new(transport);
        let tenant_id = self.known.tenant_id.clone();
        let tenant = match call.clone() {
            Call::Rename { name, etag } => {
                let request = UpdateTenantRequest { tenant_id, name: Some(name), etag, ..Default::default() };
                client.update_tenant(request).await?.into_inner().tenant
            }
            Call::SetActive(false) => {
                client.suspend_tenant(SuspendTenantRequest { tenant_id }).await?.into_inner().tenant
            }
            Call::SetActive(true) => {
                client.reactivate_tenant(ReactivateTenantRequest { tenant_id }).await?.into_inner().tenant
            }
            Call::Delete { etag } => {
                client.delete_tenant(DeleteTenantRequest { tenant_id, etag }).await?.into_inner().tenant
            }
            Call::Undelete => client.undelete_tenant(UndeleteTenantRequest { tenant_id }).await?.into_inner().tenant,
            Call::SetOwner { email } => {
                let request = SetOwnerRequest { tenant_id, email, password: None };
                client.set_owner(request).await?.into_inner().tenant
            }
            _ => {
                let identifier = Some(Identifier::TenantId(tenant_id));
                client.get_tenant(GetTenantRequest { identifier }).await?.into_inner().tenant
            }
        };
        Ok(Outcome::Ok(Response::Tenant(tenant_view(tenant.unwrap()))))
    }

    async fn send_about_keys(&self, call: &Call, transport: Transport) -> Result<Outcome, Status> {
        let mut client = TenantProvisioningClient::new(transport);
        let tenant_id = self.known.tenant_id.clone();
        let added = |key: Option<ApiKey>, secret: String, replayed| {
            let secret = Some(secret).filter(|secret| !secret.is_empty());
            Response::Key { public_key: key.unwrap().public_key, secret, replayed }
        };
        Ok(Outcome::Ok(match call.clone() {
            Call::CreateKey { request_id } => {
                let request = CreateApiKeyRequest { tenant_id, request_id: Some(request_id), ..Default::default() };
                let response = client.create_api_key(request).await?.into_inner();
                added(response.api_key, response.secret_key, response.replayed)
            }
            Call::Rotate { request_id, at_once } => {
                let overlap = at_once.then(ProtoDuration::default);
                let request =
                    RotateApiKeyRequest { tenant_id, overlap, request_id: Some(request_id), ..Default::default() };
                let response = client.rotate_api_key(request).await?.into_inner();
                added(response.api_key, response.secret_key, response.replayed)
            }
            Call::Revoke { public_key } => {
                let request = RevokeApiKeyRequest { tenant_id, public_key };
                Response::Revoked(key_view(client.revoke_api_key(request).await?.into_inner().api_key.unwrap()))
            }
            Call::Verify { public_key } => {
                let secret_key = self.known.keys[&public_key].clone();
                let response = client.verify_api_key(VerifyApiKeyRequest { secret_key }).await?.into_inner();
                Response::Verdict(response.verdict().as_str_name())
            }
            _ => {
                let request = ListApiKeysRequest { tenant_id, page_size: 500, ..Default::default() };
                let keys = client.list_api_keys(request).await?.into_inner().api_keys;
                Response::Keys(keys.into_iter().map(key_view).collect())
            }
        }))
    }

    async fn send_to_catalog(&self, call: &Call, transport: Transport) -> Result<Outcome, Status> {
        let mut client = PackageCatalogClient::new(transport);
        let tenant_id = self.known.tenant_id.clone();
        Ok(Outcome::Ok(match call.clone() {
            Call::UpsertPackages { items, etag } if items.len() == 1 => {
                let (slug, price) = items[0].clone();
                let (slug, name, base_price) = (Some(slug), Some("Package".to_owned()), Some(price));
                let request = UpsertPackageRequest { tenant_id, slug, name, base_price, etag, ..Default::default() };
                let response = client.upsert_package(request).await?.into_inner();
                let is_created = response.action() == UpsertAction::Created;
                Response::Upserted(vec![(is_created, package_view(response.package.unwrap()))])
            }
            Call::UpsertPackages { items, .. } => {
                let package = |(slug, price)| PackageUpsert {
                    slug: Some(slug),
                    name: Some("Package".to_owned()),
                    base_price: Some(price),
                    ..Default::default()
                };
                let request =
                    BatchUpsertPackagesRequest { tenant_id, packages: items.into_iter().map(package).collect() };
                let results = client.batch_upsert_packages(request).await?.into_inner().results;
                let view = |result: turnkey::grpc::pb::BatchUpsertPackagesResult| {
                    (result.action() == UpsertAction::Created, package_view(result.package.unwrap()))
                };
                Response::Upserted(results.into_iter().map(view).collect())
            }
            Call::DeletePackage { id: package_id, etag } => {
                let request = DeletePackageRequest { tenant_id, package_id, etag, ..Default::default() };
                client.delete_package(request).await.map(|_empty| Response::Empty)?
            }
            Call::UpsertSegment { slug, name, etag } => {
                let (slug, name) = (Some(slug), Some(name));
                let request = UpsertSegmentRequest { tenant_id, slug, name, etag, ..Default::default() };
                let response = client.upsert_segment(request).await?.into_inner();
                let is_created = response.action() == UpsertAction::Created;
                Response::Upserted(vec![(is_created, segment_view(response.segment.unwrap()))])
            }
            Call::DeleteSegment { id: segment_id, etag } => {
                let request = DeleteSegmentRequest { tenant_id, segment_id, etag, ..Default::default() };
                client.delete_segment(request).await.map(|_empty| Response::Empty)?
            }
            Call::ListSegments => {
                let request = ListSegmentsRequest { tenant_id, page_size: 500, ..Default::default() };
                let segments = client.list_segments(request).await?.into_inner().segments;
                Response::Items(segments.into_iter().map(segment_view).collect())
            }
            _ => {
                let request = ListPackagesRequest { tenant_id, page_size: 500, ..Default::default() };
                let packages = client.list_packages(request).await?.into_inner().packages;
                Response::Items(packages.into_iter().map(package_view).collect())
            }
        }))
    }
}

/// The outcome of a call that failed.
fn refusal(status: &Status) -> Outcome {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    let is_definite = matches!(status.code(), Code::AlreadyExists | Code::NotFound | Code::FailedPrecondition);
    if is_definite || reason == "ETAG_MISMATCH" {
        return Outcome::Refused(reason);
    }
    assert!(is_expected_during_faults(status), "{status:?}");
    Outcome::Unknown
}

fn created_outcome(tenant: Option<Tenant>, secret: Option<String>, replayed: bool) -> Outcome {
    Outcome::Ok(Response::Created { tenant: tenant_view(tenant.unwrap()), secret, replayed })
}

fn tenant_view(tenant: Tenant) -> TenantView {
    TenantView {
        id: tenant.id,
        name: tenant.name,
        is_active: tenant.is_active,
        is_deleted: tenant.deleted_at.is_some(),
        owner: tenant.owner_email,
        etag: tenant.etag,
    }
}

fn key_view(key: ApiKey) -> KeyView {
    KeyView { public_key: key.public_key, is_revoked: key.revoked_at.is_some(), has_expiry: key.expires_at.is_some() }
}

fn package_view(package: Package) -> ItemView {
    let value = package.base_price.unwrap_or_default().to_string();
    ItemView { id: package.id, slug: package.slug, value, etag: package.etag }
}

fn segment_view(segment: Segment) -> ItemView {
    ItemView { id: segment.id, slug: segment.slug, value: segment.name, etag: segment.etag }
}
