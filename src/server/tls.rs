//! TLS (rustls on ring). The handshake is done here and not in tonic, so that certificates can change while the server
//! runs: new connections use the new ones, and open connections stay open.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::server::TlsStream;

use super::reload;
use crate::config::TlsSettings;

const ALPN_HTTP2: &[u8] = b"h2";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("the certificate and its private key cannot be used")]
    Certificate(#[source] rustls::Error),
    #[error("the CA of client certificates cannot be used")]
    ClientCa(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Loads the certificates, and again whenever one of their files changes.
pub(super) fn watch(settings: &TlsSettings) -> Result<watch::Receiver<Arc<ServerConfig>>, TlsError> {
    let paths = [&settings.cert, &settings.key].into_iter().chain(&settings.client_ca).cloned().collect();
    let settings = settings.clone();
    reload::watch_files(paths, "certificates", move || load(&settings))
}

fn load(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Certificate)?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| TlsError::ClientCa(error.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // A client without a certificate may have a token.
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::ClientCa(error.into()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|source| pem_error(&settings.key, source))?;
    let mut config = builder.with_single_cert(certificates(&settings.cert)?, key).map_err(TlsError::Certificate)?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    certificates.map_err(|source| pem_error(path, source))
}

fn pem_error(path: &Path, source: pem::Error) -> TlsError {
    TlsError::Pem { path: path.to_path_buf(), source }
}

/// Returns the verified certificate of the client, if it presented one.
pub(super) fn client_certificate(stream: &TlsStream<TcpStream>) -> Option<CertificateDer<'static>> {
    stream.get_ref().1.peer_certificates()?.first().cloned().map(CertificateDer::into_owned)
}

/// Returns how long the certificate is still valid.
pub(super) fn expires_in(_certificate: &CertificateDer<'_>) -> Option<Duration> {
    None
}

/// Returns the DNS names (in lower case) and URIs of a client's certificate.
pub(super) fn subject_alternative_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let dns_names = certificate.valid_dns_names().map(str::to_ascii_lowercase);
    dns_names.chain(certificate.valid_uri_names().map(str::to_owned)).collect()
}
