//! TLS (rustls on ring). The handshake is done here and not in tonic, so that certificates can change while the server
//! runs: new connections use the new ones, and open connections stay open.

use std::{sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, UnixTime},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};
use time::OffsetDateTime;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::server::TlsStream;

use super::{listener::Versions, reload};
use crate::config::{TlsFileError, TlsFiles, TlsSettings};

const ALPN_HTTP1: &[u8] = b"http/1.1";
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
    if settings.client_ca.is_some() {
        // A resumed session takes the client's certificate from the first one and does not verify it again: it would
        // outlive the certificate and a change of the CA.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// Returns the configuration of a listener that serves these versions of HTTP. The copy shares keys and sessions.
pub(super) fn for_versions(config: &Arc<ServerConfig>, versions: Versions) -> Arc<ServerConfig> {
    match versions {
        Versions::Http2 => Arc::clone(config),
        Versions::Http1AndHttp2 => {
            let mut config = ServerConfig::clone(config);
            config.alpn_protocols.push(ALPN_HTTP1.to_vec());
            Arc::new(config)
        }
    }
}

/// Returns the last moment at which the certificate is valid. `None` if it is malformed.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<OffsetDateTime> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    // webpki gives the end of the validity only in this error, and checks it first, before it looks for an issuer.
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let usage = webpki::KeyUsage::client_auth();
    match certificate.verify_for_usage(&[], &[], &[], end_of_time, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            OffsetDateTime::from_unix_timestamp(not_after.as_secs().try_into().ok()?).ok()
        }
        _ => None,
    }
}

/// Returns the verified certificate of the client, if it presented one.
pub(super) fn client_certificate(stream: &TlsStream<TcpStream>) -> Option<CertificateDer<'static>> {
    stream.get_ref().1.peer_certificates()?.first().cloned().map(CertificateDer::into_owned)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms_of_time() {
        // DER writes years from 2050 on in another form (RFC 5280, 4.1.2.5).
        for year in [2031, 2050, 9999] {
            let mut params = CertificateParams::default();
            params.not_after = date_time_ymd(year, 5, 6);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after(certificate.der()), Some(date_time_ymd(year, 5, 6)));
        }
        assert_eq!(not_after(&CertificateDer::from(vec![0x30, 0x00])), None);
    }
}
