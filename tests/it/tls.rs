//! TLS: served, renewed under way, and client certificates instead of tokens.

use std::{fs, path::PathBuf};

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::{TempDir, tempdir_in};
use tokio::net::TcpStream;
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Error, Identity},
};
use turnkey::grpc::pb::{
    ListPackagesRequest, VerifyApiKeyRequest, package_catalog_client::PackageCatalogClient,
    tenant_provisioning_client::TenantProvisioningClient,
};

use crate::{
    cluster::Cluster,
    fixture::channel,
    process::{Program, turnkey, url},
};

/// Somebody who signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for these names, and its key.
    fn sign(&self, names: Vec<SanType>) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn dns(name: &str) -> Vec<SanType> {
    vec![SanType::DnsName(name.try_into().unwrap())]
}

/// A folder with a server's certificate and key.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new(authority: &Authority) -> Self {
        let files = Self { folder: tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        files.renew(authority);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn renew(&self, authority: &Authority) {
        let (cert, key) = authority.sign(dns("localhost"));
        // The key first, as a kubelet's symlink would do both at once: a half pair stays out of force.
        fs::write(self.path("key.pem"), key).unwrap();
        fs::write(self.path("cert.pem"), cert).unwrap();
    }

    async fn serve(&self, more: &[&str]) -> Program {
        let database = Cluster::get().migrated().await;
        let mut command = turnkey(self.folder.path());
        command.args(["serve", "--listen", "127.0.0.1:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]).args(more);
        Program::start(command.env("DATABASE_URL", url(&database.server)))
    }
}

async fn connect(address: &str, trusted: &Authority, identity: Option<(String, String)>) -> Result<Channel, Error> {
    let port = address.rsplit(':').next().unwrap();
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&trusted.pem)).domain_name("localhost");
    if let Some((cert, key)) = identity {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls)?.connect().await
}

async fn verify(channel: &Channel) -> Result<(), Code> {
    let request = VerifyApiKeyRequest { secret_key: String::new() };
    let answer = TenantProvisioningClient::new(channel.clone()).verify_api_key(request).await;
    answer.map(drop).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_nothing_but_tls_is_served_and_health_beside_it_in_plaintext() {
    let authority = Authority::new();
    let files = Files::new(&authority);
    let mut program = files.serve(&["--health-listen", "127.0.0.1:0"]).await;
    let line: serde_json::Value = serde_json::from_str(&program.wait_for("Turnkey listens on")).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    let line: serde_json::Value = serde_json::from_str(&program.wait_for("Health is served on")).unwrap();
    program.wait_for(r#""Serving""#);
    assert_eq!(verify(&connect(&address, &authority, None).await.unwrap()).await, Ok(()));
    assert!(connect(&address, &Authority::new(), None).await.is_err(), "signed by another");
    assert!(verify(&channel(&address).await).await.is_err(), "plaintext");
    let healthcheck = turnkey(files.folder.path())
        .args(["healthcheck", "--health-listen", line["address"].as_str().unwrap()])
        .output();
    assert!(healthcheck.unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_taken_up_without_cutting_a_connection_and_a_broken_one_is_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new(&old);
    let mut program = files.serve(&[]).await;
    let address = program.address();
    let first = connect(&address, &old, None).await.unwrap();
    assert_eq!(verify(&first).await, Ok(()));

    fs::write(files.path("cert.pem"), "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    program.wait_for("Cannot reload the certificates");
    assert_eq!(verify(&connect(&address, &old, None).await.unwrap()).await, Ok(()));

    files.renew(&new);
    program.wait_for("Reloaded the certificates");
    assert_eq!(verify(&connect(&address, &new, None).await.unwrap()).await, Ok(()));
    assert!(connect(&address, &old, None).await.is_err());
    assert_eq!(verify(&first).await, Ok(()), "superuser are shaken once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_a_credential_by_its_names() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&authority);
    fs::write(files.path("ca.pem"), &clients.pem).unwrap();
    let known = r#"
        [[certificate]]
        san = "booking.internal"
        name = "booking"
        roles = ["catalog"]

        [[certificate]]
        san = "spiffe://platform/gateway"
        name = "gateway"
        roles = ["verifier"]
    "#;
    fs::write(files.path("tokens.toml"), known).unwrap();
    let mut program = files.serve(&["--tls-client-ca", "ca.pem", "--tokens-file", "tokens.toml"]).await;
    let address = program.address();
    let list = async |channel: &Channel| {
        let request =
            ListPackagesRequest { tenant_id: uuid::Uuid::new_v4().to_string(), ..ListPackagesRequest::default() };
        PackageCatalogClient::new(channel.clone()).list_packages(request).await.unwrap_err().code()
    };

    let booking = connect(&address, &authority, Some(clients.sign(dns("Booking.Internal")))).await.unwrap();
    assert_eq!((list(&booking).await, verify(&booking).await), (Code::NotFound, Err(Code::PermissionDenied)));
    let spiffe = vec![SanType::URI("spiffe://platform/gateway".try_into().unwrap())];
    let gateway = connect(&address, &authority, Some(clients.sign(spiffe))).await.unwrap();
    assert_eq!((list(&gateway).await, verify(&gateway).await), (Code::PermissionDenied, Ok(())));
    let nobody = connect(&address, &authority, Some(clients.sign(dns("nobody.internal")))).await.unwrap();
    assert_eq!(verify(&nobody).await, Err(Code::Unauthenticated));
    let bare = connect(&address, &authority, None).await.unwrap();
    assert_eq!(verify(&bare).await, Err(Code::Unauthenticated));
    let forger = connect(&address, &authority, Some(Authority::new().sign(dns("booking.internal")))).await;
    assert!(match forger {
        Err(_) => true,
        // With TLS 1.3 the client hears of it when it first reads.
        Ok(channel) => verify(&channel).await.is_err(),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_never_speaks_keeps_nobody_waiting_and_holds_up_no_stop() {
    let authority = Authority::new();
    let files = Files::new(&authority);
    let mut program = files.serve(&[]).await;
    let address = program.address();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    assert_eq!(verify(&connect(&address, &authority, None).await.unwrap()).await, Ok(()));
    program.signal(Signal::SIGTERM);
    assert!(program.wait().success());
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_do_not_go_together_are_named_and_files_that_do_not_fit_stop_the_start() {
    let authority = Authority::new();
    let files = Files::new(&authority);
    let database = Cluster::get().migrated().await;
    let serve = |arguments: &[&str]| {
        let mut command = turnkey(files.folder.path());
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments).env("DATABASE_URL", url(&database.server));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = serve(&["--tls-cert", "cert.pem", "--tls-client-ca", "ca.pem"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("TURNKEY_TLS_CERT") && said.contains("TURNKEY_TLS_CLIENT_CA"), "{said}");
    let (_, other_key) = authority.sign(dns("localhost"));
    fs::write(files.path("other.pem"), other_key).unwrap();
    for key in ["missing.pem", "other.pem", "cert.pem"] {
        let (code, said) = serve(&["--tls-cert", "cert.pem", "--tls-key", key]);
        assert_eq!(code, Some(1), "{key}");
        assert!(said.contains("cannot serve TLS"), "{said}");
    }
}
