//! TLS (rustls on ring). The handshake is done here and not in tonic, so that certificates can change while the server
//! runs: new connections use the new ones, and open connections stay open.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{VerifierBuilderError, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{Accept, TlsAcceptor};

use super::reload;
use crate::config::{TlsFileError, TlsFiles, TlsSettings};

const ALPN_HTTP2: &[u8] = b"h2";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] TlsFileError),
    #[error("no TLS version can be used")]
    Versions(#[source] rustls::Error),
    #[error("the CA of client certificates cannot be used")]
    ClientCa(#[from] VerifierBuilderError),
}

/// Loads the certificates, and again whenever one of their files changes.
pub(super) fn watch(settings: &TlsSettings) -> Result<watch::Receiver<Arc<ServerConfig>>, TlsError> {
    let paths = [&settings.cert, &settings.key].into_iter().chain(&settings.client_ca).cloned().collect();
    let settings = settings.clone();
    reload::watch_files(paths, "certificates", move || load(&settings))
}

fn load(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let TlsFiles { identity, client_roots } = settings.read()?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?;
    let builder = match client_roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                // A client without a certificate may have a token.
                .allow_unauthenticated()
                .build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    Ok(config)
}

/// Performs the handshake with the certificates that are in force at that moment.
pub(super) fn handshake(
    config: watch::Receiver<Arc<ServerConfig>>,
) -> impl Fn(TcpStream) -> Accept<TcpStream> + Send + 'static {
    move |connection| TlsAcceptor::from(Arc::clone(&config.borrow())).accept(connection)
}
