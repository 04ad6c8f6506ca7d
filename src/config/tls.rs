//! The TLS files of the server: their paths, and what is read from them. `server/tls.rs` reads them again whenever they
//! change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::{ConfigErrors, TLS_CERT, TLS_CLIENT_CA, TLS_KEY};
use crate::error::ErrorChain;

/// Paths of PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

/// The contents of the files.
pub struct TlsFiles {
    pub identity: Arc<CertifiedKey>,
    /// The CAs of client certificates.
    pub client_roots: Option<Arc<RootCertStore>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    #[error("cannot read {}", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{} contains no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("the certificate and its private key cannot be used")]
    Identity(#[source] rustls::Error),
    #[error("the CA of client certificates cannot be used")]
    ClientCa(#[source] rustls::Error),
}

impl TlsSettings {
    pub fn read(&self) -> Result<TlsFiles, TlsFileError> {
        let identity = identity(read_certificates(&self.cert)?, read_key(&self.key)?)?;
        let client_roots = self.client_ca.as_deref().map(read_client_roots).transpose()?;
        Ok(TlsFiles { identity: Arc::new(identity), client_roots: client_roots.map(Arc::new) })
    }

    /// Reports each file that cannot be used, by its setting.
    pub(super) fn check(&self, errors: &mut ConfigErrors) {
        let chain = |error: TlsFileError| ErrorChain(&error).to_string();
        let certificates = errors.check(TLS_CERT, read_certificates(&self.cert).map_err(chain));
        let key = errors.check(TLS_KEY, read_key(&self.key).map_err(chain));
        if let Some((certificates, key)) = certificates.zip(key) {
            errors.check(TLS_CERT, identity(certificates, key).map_err(chain));
        }
        if let Some(path) = &self.client_ca {
            errors.check(TLS_CLIENT_CA, read_client_roots(path).map_err(chain));
        }
    }
}

/// Reads the certificates of a PEM file; there is at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates = certificates.map_err(|source| pem_error(path, source))?;
    if certificates.is_empty() {
        return Err(TlsFileError::NoCertificate { path: path.to_path_buf() });
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| pem_error(path, source))
}

fn read_client_roots(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for root in read_certificates(path)? {
        roots.add(root).map_err(TlsFileError::ClientCa)?;
    }
    Ok(roots)
}

/// Fails if the files do not contain a certificate and its private key.
pub(super) fn check_identity(certificates: &Path, key: &Path) -> Result<(), TlsFileError> {
    identity(read_certificates(certificates)?, read_key(key)?).map(drop)
}

/// Fails if the key is not that of the first certificate.
fn identity(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsFileError> {
    CertifiedKey::from_der(certificates, key, &ring::default_provider()).map_err(TlsFileError::Identity)
}

fn pem_error(path: &Path, source: pem::Error) -> TlsFileError {
    TlsFileError::Pem { path: path.to_path_buf(), source }
}
