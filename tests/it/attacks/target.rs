//! The server under attack: a process whose memory can be measured, with two tenants. One of them is the attacker, the
//! other one and the platform call the server as usual.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use nix::sys::signal::Signal;
use sqlx::ConnectOptions as _;
use tonic::{
    Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use turnkey::grpc::pb::{
    BatchUpsertPackagesRequest, CreateFullyProvisionedRequest, GetPackageRequest, PackageUpsert,
    package_catalog_client::PackageCatalogClient, tenant_provisioning_client::TenantProvisioningClient,
};

use crate::support::{
    certificate::{SERVER_NAME, SelfSigned},
    database::{Cluster, TestDatabase},
    http2::Port,
    process::{Process, raise_open_files_limit, serve},
    process_memory::memory_kib,
    requests::{named, with_bearer},
    tokens::Tokens,
};

/// DNS name in the certificate of [`Setup::client`].
pub const CLIENT_NAME: &str = "operator.internal";
/// Name of the platform's token, which has all roles that the calls of [`super::other_callers`] need.
const PLATFORM: &str = "platform";
/// Address of all callers but the attackers. Linux answers on every address of 127.0.0.0/8.
const OTHER_CALLERS_IP: [u8; 4] = [127, 0, 0, 2];
/// Descriptors of the largest attack.
const OPEN_FILES: u64 = 16_384;
/// With these packages a page of the attacker's catalog has about 2 MB.
const LARGE_PACKAGES: usize = 497;
const LARGE_DESCRIPTION: &str = "é";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Plaintext,
    Tls,
}

pub const PROTOCOLS: [Protocol; 2] = [Protocol::Plaintext, Protocol::Tls];

/// How the server is started.
pub struct Setup<'a> {
    pub protocol: Protocol,
    /// Without tokens every caller is anonymous and may call every RPC.
    pub has_tokens: bool,
    /// A client certificate with the role `provisioner`. Needs TLS and tokens.
    pub client: Option<&'a SelfSigned>,
    pub environment: &'a [(&'a str, &'a str)],
    /// Changes the command, for example to limit its resources.
    pub launcher: &'a dyn Fn(Command) -> Command,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        let protocol = Protocol::Plaintext;
        Self { protocol, has_tokens: true, client: None, environment: &[], launcher: &|command| command }
    }
}

#[derive(Debug, Clone, Default)]
pub struct TenantWithKey {
    pub id: String,
    pub secret_key: String,
    pub public_key: String,
    pub package_id: String,
    pub segment_id: String,
}

pub struct Target {
    pub process: Process,
    pub database: TestDatabase,
    pub tokens: Tokens,
    /// The port of the service, where health is served too.
    pub service: Port,
    /// The port that serves health only, always in plaintext.
    pub health: Port,
    /// `None` without tokens.
    pub platform_token: Option<String>,
    pub attacker: TenantWithKey,
    pub other_tenant: TenantWithKey,
    certificate: Option<SelfSigned>,
    created_tenants: AtomicUsize,
}

impl Target {
    pub async fn start(protocol: Protocol) -> Self {
        Self::start_with(&Setup { protocol, ..Setup::default() }).await
    }

    pub async fn start_with(setup: &Setup<'_>) -> Self {
        raise_open_files_limit(OPEN_FILES);
        let database = Cluster::get().migrated().await;
        let tokens = Tokens::new();
        let mut command = serve(tokens.folder(), &database.server);
        command.args(["--health-listen", "127.0.0.1:0"]).envs(setup.environment.iter().copied());
        let platform_token = setup.has_tokens.then(|| {
            command.args(["--tokens-file", "tokens.toml"]);
            tokens.create(PLATFORM, &["provisioner", "catalog"])
        });
        let certificate = (setup.protocol == Protocol::Tls).then(|| SelfSigned::new(SERVER_NAME));
        if let Some(certificate) = &certificate {
            fs::write(tokens.folder().join("cert.pem"), &certificate.certificate).unwrap();
            fs::write(tokens.folder().join("key.pem"), &certificate.key).unwrap();
            command.args(["--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
        }
        if let Some(client) = setup.client {
            fs::write(tokens.folder().join("client-ca.pem"), &client.certificate).unwrap();
            command.args(["--tls-client-ca", "client-ca.pem"]);
            let known =
                format!("[[certificate]]\nsan = \"{CLIENT_NAME}\"\nname = \"operator\"\nroles = [\"provisioner\"]\n");
            let text = fs::read_to_string(tokens.file()).unwrap();
            fs::write(tokens.file(), format!("{text}\n{known}")).unwrap();
        }
        let mut process = Process::start(&mut (setup.launcher)(command));
        let service = address(&mut process, "Turnkey listens on");
        let health = address(&mut process, "Health is served on");
        process.wait_for(r#""Serving""#);
        let tls = certificate.as_ref().map(|certificate| certificate.connector(None));
        let mut target = Self {
            process,
            database,
            tokens,
            service: Port { address: service, tls },
            health: Port { address: health, tls: None },
            platform_token,
            attacker: TenantWithKey::default(),
            other_tenant: TenantWithKey::default(),
            certificate,
            created_tenants: AtomicUsize::new(0),
        };
        target.attacker = target.create_tenant("attacker").await;
        target.other_tenant = target.create_tenant("other").await;
        target.enlarge_catalog(&target.attacker).await;
        target.use_key(&target.other_tenant).await;
        target
    }

    /// A connection of its own, opened with the first call, from an address that is not the attackers'.
    pub fn channel(&self, port: &Port) -> Channel {
        let scheme = if port.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", port.address)).unwrap();
        let endpoint = endpoint.local_address(Some(OTHER_CALLERS_IP.into()));
        let endpoint = match self.certificate.as_ref().filter(|_| port.tls.is_some()) {
            None => endpoint,
            Some(certificate) => {
                let trusted = Certificate::from_pem(&certificate.certificate);
                endpoint.tls_config(ClientTlsConfig::new().ca_certificate(trusted).domain_name(SERVER_NAME)).unwrap()
            }
        };
        endpoint.connect_lazy()
    }

    /// The port of the service for a client with this certificate.
    pub fn service_for(&self, client: &SelfSigned) -> Port {
        let certificate = self.certificate.as_ref().expect("the server has TLS");
        Port { tls: Some(certificate.connector(Some(client))), ..self.service.clone() }
    }

    /// Runs a query for one number as the superuser.
    pub async fn count(&self, query: &'static str) -> i64 {
        let mut connection = self.database.superuser.connect().await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
    }

    /// The message with the platform's token.
    pub fn as_platform<Message>(&self, message: Message) -> Request<Message> {
        with_bearer(message, self.platform_token.as_deref())
    }

    /// The key of a tenant, or `None` where callers need no credential.
    pub fn key<'a>(&self, tenant: &'a TenantWithKey) -> Option<&'a str> {
        self.platform_token.as_ref().map(|_| tenant.secret_key.as_str())
    }

    /// A tenant that no other call has created.
    pub fn new_tenant(&self) -> CreateFullyProvisionedRequest {
        named(&format!("tenant-{}", self.created_tenants.fetch_add(1, Ordering::Relaxed)))
    }

    /// A value of `/proc/<pid>/status` in KiB.
    pub fn memory_kib(&self, field: &str) -> u64 {
        memory_kib(self.process.pid(), field).expect("the server is alive")
    }

    /// Makes `VmHWM` the peak from now on.
    pub fn reset_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.process.pid()), "5").unwrap();
    }

    /// Stops the server in an orderly way. It must not have panicked.
    pub fn stop(mut self) {
        self.process.signal(Signal::SIGTERM);
        assert!(self.process.wait().success());
        assert!(!self.process.log.iter().any(|line| line.contains("panic")), "{:?}", self.process.log);
    }

    async fn create_tenant(&self, slug: &str) -> TenantWithKey {
        let mut provisioning = TenantProvisioningClient::new(self.channel(&self.service));
        let created = provisioning.create_fully_provisioned(self.as_platform(named(slug))).await.unwrap().into_inner();
        let tenant = created.tenant.unwrap();
        TenantWithKey {
            id: tenant.id,
            secret_key: created.secret_key,
            public_key: tenant.api_key_public,
            package_id: created.packages[0].id.clone(),
            segment_id: created.segment.unwrap().id,
        }
    }

    /// Calls with the tenant's key, so that the server knows it before an attack with unknown keys.
    async fn use_key(&self, tenant: &TenantWithKey) {
        let get = GetPackageRequest {
            tenant_id: tenant.id.clone(),
            package_id: tenant.package_id.clone(),
            ..Default::default()
        };
        let mut catalog = PackageCatalogClient::new(self.channel(&self.service));
        catalog.get_package(with_bearer(get, self.key(tenant))).await.unwrap();
    }

    async fn enlarge_catalog(&self, tenant: &TenantWithKey) {
        let package = |number| PackageUpsert {
            slug: Some(format!("large-{number}")),
            name: Some("Large".to_owned()),
            base_price: Some(1),
            description: Some(LARGE_DESCRIPTION.repeat(2_000)),
            ..PackageUpsert::default()
        };
        let packages = (0..LARGE_PACKAGES).map(package).collect();
        let request = BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages };
        let mut catalog = PackageCatalogClient::new(self.channel(&self.service));
        catalog.batch_upsert_packages(self.as_platform(request)).await.unwrap();
    }
}

fn address(process: &mut Process, text: &str) -> SocketAddr {
    process.wait_for_json(text)["address"].as_str().unwrap().parse().unwrap()
}
