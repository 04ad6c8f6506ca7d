//! The secret of a key whose call named itself by a request id: made again from that, for as long as the salt is kept.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::key_format::KeyEntropy;
use crate::{
    domain::{RequestId, idempotency::Bytes32},
    error::{Error, Result},
};

/// What the derived bytes are for (RFC 5869, 3.2), so that they serve nothing else.
const INFO: &[u8] = b"turnkey API key secret, version 1";

/// 256 bits: HKDF-SHA-256 over the 122 random bits of the request id, with a random salt.
///
/// # Errors
/// None that can happen: the output is shorter than HKDF's limit.
pub fn derive_secret(request_id: &RequestId, salt: &Bytes32) -> Result<KeyEntropy> {
    let mut number = Zeroizing::new([0_u8; 32]);
    Hkdf::<Sha256>::new(Some(salt), request_id.expose()).expand(INFO, number.as_mut()).map_err(Error::internal)?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

    #[test]
    fn the_same_id_and_salt_give_the_same_secret_and_no_others_do() {
        let id = RequestId::parse(ID).unwrap();
        let other = RequestId::parse("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12").unwrap();
        let secret = derive_secret(&id, &[7; 32]).unwrap();
        assert_eq!(secret, derive_secret(&RequestId::parse(&ID.to_uppercase()).unwrap(), &[7; 32]).unwrap());
        assert_ne!(secret, derive_secret(&id, &[8; 32]).unwrap());
        assert_ne!(secret, derive_secret(&other, &[7; 32]).unwrap());
    }
}
