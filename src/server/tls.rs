//! TLS (rustls on ring). Hands are shaken here and not in tonic, so that certificates can change under a running server:
//! new connections get the new ones, old connections go on.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;

use crate::config::TlsSettings;

const ALPN_HTTP2: &[u8] = b"h2";
/// Whoever takes longer is not going to call.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// At once; the others wait in the listener's queue.
const MAX_HANDSHAKES: usize = 256;
/// Connections that wait to be served.
const AHEAD: usize = 64;
/// After a failure to accept, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

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

/// Connections whose hands were shaken. Nobody's slowness keeps another waiting. Ends when the stream is dropped.
pub(super) fn incoming(
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            // Never closed, so there is always one to wait for.
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let Ok((connection, _)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (acceptor, sender) = (TlsAcceptor::from(Arc::clone(&config.borrow())), sender.clone());
            tokio::spawn(async move {
                let _held = permit;
                let shaken = async {
                    connection.set_nodelay(true)?;
                    acceptor.accept(connection).await
                };
                match timeout(HANDSHAKE_LIMIT, shaken).await {
                    // A server that has stopped takes no more.
                    Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                    Ok(Err(error)) => tracing::debug!(%error, "No hands were shaken"),
                    Err(_elapsed) => tracing::debug!("A connection took too long to shake hands"),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}
