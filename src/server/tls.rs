//! TLS (rustls on ring). Hands are shaken here and not in tonic, so that certificates can change under a running server:
//! new connections get the new ones, old connections go on.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{Accept, TlsAcceptor};

use crate::config::TlsSettings;

const ALPN_HTTP2: &[u8] = b"h2";
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Pem { path: String, source: pem::Error },
    #[error("the certificate and its key are of no use")]
    Certificate(#[source] rustls::Error),
    #[error("the client CA is of no use")]
    ClientCa(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// # Errors
/// Where a file cannot be read, or does not fit the others.
pub fn read(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Certificate)?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|why| TlsError::ClientCa(why.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // A caller without a certificate may have a token.
                .allow_unauthenticated()
                .build()
                .map_err(|why| TlsError::ClientCa(why.into()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|source| unreadable(&settings.key, source))?;
    let mut config = builder.with_single_cert(certificates(&settings.cert)?, key).map_err(TlsError::Certificate)?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    Ok(config)
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    found.map_err(|source| unreadable(path, source))
}

fn unreadable(path: &std::path::Path, source: pem::Error) -> TlsError {
    TlsError::Pem { path: path.display().to_string(), source }
}

/// Shakes hands with the certificates that are in force at that moment.
pub(super) fn handshake(
    config: watch::Receiver<Arc<ServerConfig>>,
) -> impl Fn(TcpStream) -> Accept<TcpStream> + Send + 'static {
    move |connection| TlsAcceptor::from(Arc::clone(&config.borrow())).accept(connection)
}
