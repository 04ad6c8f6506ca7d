//! Derives the secret of a key from the request id of the call that creates it, so that a repeated call returns the
//! same secret for as long as the salt is stored.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::key_minting::KeyEntropy;
use crate::{
    domain::RequestId,
    error::{Error, Result},
};

/// Binds the derived bytes to their purpose (RFC 5869, 3.2).
const INFO: &[u8] = b"turnkey API key secret, version 1";

/// Derives 256 bits with HKDF-SHA-256 from the 122 random bits of the request id and a random salt.
///
/// # Errors
/// In theory only: the output is shorter than HKDF's limit.
pub fn derive_secret(request_id: &RequestId, salt: &[u8; 32]) -> Result<KeyEntropy> {
    let mut secret = Zeroizing::new([0_u8; 32]);
    Hkdf::<Sha256>::new(Some(salt), request_id.expose()).expand(INFO, secret.as_mut()).map_err(Error::internal)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

    #[test]
    fn a_derived_secret_depends_on_request_id_and_salt_only() {
        let id = RequestId::parse(ID).unwrap();
        let other = RequestId::parse("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12").unwrap();
        let secret = derive_secret(&id, &[7; 32]).unwrap();
        assert_eq!(secret, derive_secret(&RequestId::parse(&ID.to_uppercase()).unwrap(), &[7; 32]).unwrap());
        assert_ne!(secret, derive_secret(&id, &[8; 32]).unwrap());
        assert_ne!(secret, derive_secret(&other, &[7; 32]).unwrap());
    }
}
