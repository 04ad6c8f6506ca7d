//! A certificate that is its own authority, for tests that need TLS and are not about certificates.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;

/// The only name of the servers that the tests start.
pub const SERVER_NAME: &str = "localhost";

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct SelfSigned {
    pub certificate: String,
    pub key: String,
}

impl SelfSigned {
    pub fn new(dns_name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([dns_name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A client that trusts this certificate and speaks HTTP/2. It presents `identity` to a server that requests one.
    pub fn connector(&self, identity: Option<&Self>) -> TlsConnector {
        self.connector_of(&[b"h2"], identity)
    }

    /// The same for other protocols.
    pub fn connector_of(&self, protocols: &[&[u8]], identity: Option<&Self>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![identity.der()], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}
