//! TLS: certificates, their renewal in operation, and client certificates in place of tokens.

use std::{fs, path::PathBuf, sync::Arc};

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Error, Identity},
};
use turnkey::{
    grpc::pb::{
        ListPackagesRequest, VerifyApiKeyRequest, package_catalog_client::PackageCatalogClient,
        tenant_provisioning_client::TenantProvisioningClient,
    },
    service::Clock,
};

use crate::support::{
    database::Cluster,
    fixture::channel,
    process::{Process, database_url, temp_folder, turnkey},
    reflection::list_services,
};

/// A certificate authority.
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

    /// Returns a certificate for these names, and its key.
    fn sign(&self, names: Vec<SanType>) -> (String, String) {
        self.sign_until(names, CertificateParams::default().not_after)
    }

    fn sign_until(&self, names: Vec<SanType>, not_after: OffsetDateTime) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.not_after = not_after;
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
        let files = Self { folder: temp_folder() };
        files.renew(authority);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn renew(&self, authority: &Authority) {
        let (cert, key) = authority.sign(dns("localhost"));
        // A kubelet replaces both files at once. Here the server may read the new key with the old certificate, and
        // must reject the pair.
        fs::write(self.path("key.pem"), key).unwrap();
        fs::write(self.path("cert.pem"), cert).unwrap();
    }

    async fn serve(&self, more: &[&str]) -> Process {
        let database = Cluster::get().migrated().await;
        let mut command = turnkey(self.folder.path());
        command.args(["serve", "--listen", "127.0.0.1:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]).args(more);
        Process::start(command.env("DATABASE_URL", database_url(&database.server)))
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
    let response = TenantProvisioningClient::new(channel.clone()).verify_api_key(request).await;
    response.map(drop).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_only_tls_is_served_except_on_the_health_address() {
    let authority = Authority::new();
    let files = Files::new(&authority);
    let mut process = files.serve(&["--health-listen", "127.0.0.1:0"]).await;
    let line = process.wait_for_json("Turnkey listens on");
    let address = line["address"].as_str().unwrap().to_owned();
    let line = process.wait_for_json("Health is served on");
    process.wait_for(r#""Serving""#);
    assert_eq!(verify(&connect(&address, &authority, None).await.unwrap()).await, Ok(()));
    assert!(connect(&address, &Authority::new(), None).await.is_err(), "signed by another authority");
    assert!(verify(&channel(&address).await).await.is_err(), "plaintext");
    let healthcheck = turnkey(files.folder.path())
        .args(["healthcheck", "--health-listen", line["address"].as_str().unwrap()])
        .output();
    assert!(healthcheck.unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_verifies_a_server_with_tls() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = Files::new(&authority);
    fs::write(files.path("ca.pem"), &authority.pem).unwrap();
    fs::write(files.path("other.pem"), &other.pem).unwrap();
    let mut process = files.serve(&[]).await;
    let address = process.address();
    let https = format!("https://{address}");
    let on_localhost = https.replace("127.0.0.1", "localhost");
    let healthcheck = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = turnkey(files.folder.path());
        let output = command.arg("healthcheck").args(arguments).envs(variables.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, expected) in [
        (&["--listen", &on_localhost, "--tls-ca", "ca.pem"][..], 0),
        (&["--listen", &https, "--tls-ca", "ca.pem", "--tls-server-name", "localhost"], 0),
        (&["--listen", &address, "--tls-ca", "ca.pem", "--tls-server-name", "localhost"], 0),
        (&["--health-listen", &on_localhost, "--tls-ca", "ca.pem"], 0),
        // The certificate is not for 127.0.0.1.
        (&["--listen", &https, "--tls-ca", "ca.pem"], 1),
        (&["--listen", &on_localhost, "--tls-ca", "other.pem"], 1),
        // The system does not trust this CA.
        (&["--listen", &on_localhost], 1),
        (&["--listen", &address], 1),
        (&["--listen", &on_localhost, "--tls-ca", "key.pem"], 2),
    ] {
        let (code, stderr) = healthcheck(arguments, &[]);
        assert_eq!(code, Some(expected), "{arguments:?}: {stderr}");
    }
    let variables =
        [("TURNKEY_LISTEN", &*https), ("TURNKEY_TLS_CA", "ca.pem"), ("TURNKEY_TLS_SERVER_NAME", "localhost")];
    assert_eq!(healthcheck(&[], &variables).0, Some(0));
    let health_address = [("TURNKEY_HEALTH_LISTEN", "127.0.0.1:1"), ("TURNKEY_TLS_CA", "ca.pem")];
    assert_eq!(healthcheck(&[], &health_address).0, Some(1));
    assert_eq!(healthcheck(&["--listen", &on_localhost], &health_address).0, Some(0), "a flag overrides the variable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_loaded_without_closing_connections_and_an_invalid_one_is_ignored() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new(&old);
    let mut process = files.serve(&[]).await;
    let address = process.address();
    let first = connect(&address, &old, None).await.unwrap();
    assert_eq!(verify(&first).await, Ok(()));

    fs::write(files.path("cert.pem"), "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    process.wait_for("Cannot reload the certificates");
    assert_eq!(verify(&connect(&address, &old, None).await.unwrap()).await, Ok(()));

    files.renew(&new);
    process.wait_for("Reloaded the certificates");
    assert_eq!(verify(&connect(&address, &new, None).await.unwrap()).await, Ok(()));
    assert!(connect(&address, &old, None).await.is_err());
    assert_eq!(verify(&first).await, Ok(()), "an open connection needs no new handshake");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_a_credential_with_the_roles_of_its_names() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&authority);
    fs::write(files.path("ca.pem"), &clients.pem).unwrap();
    let known = r#"
        [[certificate]]
        san = "booking.internal"
        name = "booking"
        roles = ["catalog"]

        [[certificate]]
        san = "URI:spiffe://platform/gateway"
        name = "gateway"
        roles = ["verifier"]

        [[certificate]]
        san = "DNS:admin.internal"
        name = "admin-ui"
        roles = ["verifier"]
    "#;
    fs::write(files.path("tokens.toml"), known).unwrap();
    let arguments = ["--tls-client-ca", "ca.pem", "--tokens-file", "tokens.toml", "--reflection=false"];
    let mut process = files.serve(&arguments).await;
    let address = process.address();
    let list = async |channel: &Channel| {
        let request =
            ListPackagesRequest { tenant_id: uuid::Uuid::new_v4().to_string(), ..ListPackagesRequest::default() };
        PackageCatalogClient::new(channel.clone()).list_packages(request).await.unwrap_err().code()
    };

    let booking = connect(&address, &authority, Some(clients.sign(dns("Booking.Internal")))).await.unwrap();
    assert_eq!((list(&booking).await, verify(&booking).await), (Code::NotFound, Err(Code::PermissionDenied)));
    assert!(list_services(&booking, None).await.is_ok(), "a certificate permits reflection where it is off for others");
    let spiffe = vec![SanType::URI("spiffe://platform/gateway".try_into().unwrap())];
    let gateway = connect(&address, &authority, Some(clients.sign(spiffe))).await.unwrap();
    assert_eq!((list(&gateway).await, verify(&gateway).await), (Code::PermissionDenied, Ok(())));
    let admin = connect(&address, &authority, Some(clients.sign(dns("admin.internal")))).await.unwrap();
    assert_eq!(verify(&admin).await, Ok(()));
    let uri_like_dns = vec![SanType::URI("admin.internal".try_into().unwrap())];
    let other_kind = connect(&address, &authority, Some(clients.sign(uri_like_dns))).await.unwrap();
    assert_eq!(verify(&other_kind).await, Err(Code::Unauthenticated), "a URI is not a DNS name");
    let unknown = connect(&address, &authority, Some(clients.sign(dns("unknown.internal")))).await.unwrap();
    assert_eq!(verify(&unknown).await, Err(Code::Unauthenticated));
    let without_certificate = connect(&address, &authority, None).await.unwrap();
    assert_eq!(verify(&without_certificate).await, Err(Code::Unauthenticated));
    assert_eq!(list_services(&without_certificate, None).await.unwrap_err().code(), Code::Unauthenticated);
    let forged = connect(&address, &authority, Some(Authority::new().sign(dns("booking.internal")))).await;
    assert!(match forged {
        Err(_) => true,
        // With TLS 1.3 the client learns of the rejection at its first read.
        Ok(channel) => verify(&channel).await.is_err(),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn turnkey_call_verifies_the_server_and_presents_its_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&authority);
    let (chain, key) = clients.sign(dns("booking.internal"));
    for (name, text) in [
        ("server-ca.pem", &authority.pem),
        ("client-ca.pem", &clients.pem),
        ("client.pem", &chain),
        ("client-key.pem", &key),
        (
            "tokens.toml",
            &"[[certificate]]\nsan = \"booking.internal\"\nname = \"booking\"\nroles = [\"reader\"]\n".to_owned(),
        ),
    ] {
        fs::write(files.path(name), text).unwrap();
    }
    let mut process = files.serve(&["--tls-client-ca", "client-ca.pem", "--tokens-file", "tokens.toml"]).await;
    let address = process.address();
    let server = format!("https://{address}");
    let call = |arguments: &[&str]| {
        let mut command = turnkey(files.folder.path());
        command.args(["call", "ListTenants", "--server", &server]).args(arguments);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let trusted = ["--tls-ca", "server-ca.pem", "--tls-server-name", "localhost"];
    let certificate = ["--tls-client-cert", "client.pem", "--tls-client-key", "client-key.pem"];
    assert_eq!(call(&[trusted, certificate].concat()), (Some(0), String::new()));
    let (code, stderr) = call(&trusted);
    assert!(code == Some(1) && stderr.contains("UNAUTHENTICATED"), "{stderr}");
    // The system does not trust this CA, and the certificate is not for 127.0.0.1.
    for arguments in [certificate.as_slice(), &[&certificate[..], &trusted[..2]].concat()] {
        let (code, stderr) = call(arguments);
        assert!(code == Some(2) && stderr.contains("cannot reach the server"), "{stderr}");
    }
    let (code, stderr) = call(&["--tls-client-cert", "client.pem", "--tls-client-key", "key.pem"]);
    assert!(code == Some(2) && stderr.contains("TURNKEY_TLS_CLIENT_CERT: "), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_the_certificate_of_its_client() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&authority);
    fs::write(files.path("ca.pem"), &clients.pem).unwrap();
    let known = "[[certificate]]\nsan = \"gateway.internal\"\nname = \"gateway\"\nroles = [\"verifier\"]\n";
    fs::write(files.path("tokens.toml"), known).unwrap();
    let mut process = files.serve(&["--tls-client-ca", "ca.pem", "--tokens-file", "tokens.toml"]).await;
    let address = process.address();
    let in_three_seconds = Clock::system().now() + time::Duration::seconds(3);
    let identity = clients.sign_until(dns("gateway.internal"), in_three_seconds);
    let channel = connect(&address, &authority, Some(identity)).await.unwrap();
    assert_eq!(verify(&channel).await, Ok(()));
    // The client connects again, with the certificate that has expired.
    while verify(&channel).await.is_ok() {}
    assert!(Clock::system().now() >= in_three_seconds - time::Duration::seconds(1), "a certificate has whole seconds");
}

/// Connects with these settings, which keep the sessions that the server offers, until the server's first response has
/// arrived: with TLS 1.3 the offers precede it.
async fn handshake_kind(address: &str, config: &Arc<ClientConfig>) -> HandshakeKind {
    let socket = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    let mut connection = connector.connect("localhost".try_into().unwrap(), socket).await.unwrap();
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    connection.read_u8().await.unwrap();
    connection.get_ref().1.handshake_kind().unwrap()
}

fn resuming_client(
    version: &'static SupportedProtocolVersion,
    trusted: &Authority,
    identity: &(String, String),
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap()).unwrap();
    let certificate = CertificateDer::from_pem_slice(identity.0.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.1.as_bytes()).unwrap();
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
    let builder = builder.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots);
    let mut config = builder.with_client_auth_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_only_where_no_client_certificates_are_verified() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&authority);
    fs::write(files.path("ca.pem"), &clients.pem).unwrap();
    fs::write(files.path("tokens.toml"), "").unwrap();
    let mut without_ca = files.serve(&[]).await;
    let mut with_ca = files.serve(&["--tls-client-ca", "ca.pem", "--tokens-file", "tokens.toml"]).await;
    let servers = [(without_ca.address(), HandshakeKind::Resumed), (with_ca.address(), HandshakeKind::Full)];
    let identity = clients.sign(dns("booking.internal"));
    for version in [&TLS12, &TLS13] {
        for (address, second) in &servers {
            let client = resuming_client(version, &authority, &identity);
            assert_eq!(handshake_kind(address, &client).await, HandshakeKind::Full);
            assert_eq!(handshake_kind(address, &client).await, *second, "{version:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_authorization_header_is_unauthenticated_although_the_client_has_a_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&authority);
    fs::write(files.path("ca.pem"), &clients.pem).unwrap();
    let known = "[[certificate]]\nsan = 'gateway.internal'\nname = 'gateway'\nroles = ['verifier']\n";
    fs::write(files.path("tokens.toml"), known).unwrap();
    let mut process = files.serve(&["--tls-client-ca", "ca.pem", "--tokens-file", "tokens.toml"]).await;
    let identity = clients.sign(dns("gateway.internal"));
    let channel = connect(&process.address(), &authority, Some(identity)).await.unwrap();
    assert_eq!(verify(&channel).await, Ok(()));
    let unknown = format!("Bearer svc_gateway_{}", "0".repeat(43));
    for headers in [
        &[""][..],
        &["Bearer"],
        &["Bearer "],
        &["Basic Z2F0ZXdheTo="],
        &["svc_gateway"],
        &["Bearer sk_live_bella"],
        &[&unknown],
        &[&unknown, &unknown],
    ] {
        let mut request = Request::new(VerifyApiKeyRequest { secret_key: String::new() });
        for header in headers {
            request.metadata_mut().append("authorization", header.parse().unwrap());
        }
        let error = TenantProvisioningClient::new(channel.clone()).verify_api_key(request).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_tls_sockets_delay_neither_other_clients_nor_the_shutdown() {
    let authority = Authority::new();
    let files = Files::new(&authority);
    let mut process = files.serve(&[]).await;
    let address = process.address();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    assert_eq!(verify(&connect(&address, &authority, None).await.unwrap()).await, Ok(()));
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_tls_settings_and_unusable_tls_files_are_reported_at_start() {
    let authority = Authority::new();
    let files = Files::new(&authority);
    let database = Cluster::get().migrated().await;
    let serve = |arguments: &[&str]| {
        let mut command = turnkey(files.folder.path());
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env("DATABASE_URL", database_url(&database.server));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stderr) = serve(&["--tls-cert", "cert.pem", "--tls-client-ca", "ca.pem"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("TURNKEY_TLS_CERT") && stderr.contains("TURNKEY_TLS_CLIENT_CA"), "{stderr}");
    let (_, other_key) = authority.sign(dns("localhost"));
    fs::write(files.path("other.pem"), other_key).unwrap();
    for (key, expected) in [
        ("missing.pem", "TURNKEY_TLS_KEY: cannot read missing.pem"),
        ("other.pem", "TURNKEY_TLS_CERT: the certificate and its private key cannot be used"),
        ("cert.pem", "TURNKEY_TLS_KEY: cannot read cert.pem"),
    ] {
        let (code, stderr) = serve(&["--tls-cert", "cert.pem", "--tls-key", key]);
        assert_eq!(code, Some(2), "{key}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}
