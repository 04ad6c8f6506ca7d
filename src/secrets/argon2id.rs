//! Argon2id (RFC 9106): computes hashes in reused memory, and reads and writes them in PHC format.
//!
//! All functions run on the calling thread; the pools are in [`super::hasher`].

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    domain::Argon2Params,
    error::{Error, Result},
};

pub const SALT_BYTES: usize = 16;

/// A stored hash with the parameters that it was computed with.
pub struct ParsedHash {
    pub params: Params,
    pub salt: Salt,
    pub output: Output,
}

impl ParsedHash {
    /// Returns `None`, and logs a warning, if the text is not an Argon2id hash within the limits of [`Argon2Params`].
    pub fn parse(phc: &str) -> Option<Self> {
        let parsed = PasswordHash::new(phc).ok().and_then(|hash| {
            let is_supported = hash.algorithm == Algorithm::Argon2id.ident()
                && hash.version.is_none_or(|version| version == u32::from(Version::V0x13));
            let params = Params::try_from(&hash)
                .ok()
                .filter(|params| is_supported && to_domain_params(params).is_within_limits())?;
            Some(Self { params, salt: hash.salt?, output: hash.hash? })
        });
        if parsed.is_none() {
            tracing::warn!("Ignoring a stored hash with an unsupported format");
        }
        parsed
    }
}

/// Returns the hash of the secret in PHC format.
pub fn hash(
    params: &Params,
    secret: &SecretString,
    salt: &[u8; SALT_BYTES],
    memory: &mut Vec<Block>,
) -> Result<String> {
    let phc = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).map_err(Error::internal)?,
        salt: Some(Salt::new(salt).map_err(Error::internal)?),
        hash: Some(compute(params, secret, salt, memory)?),
    };
    Ok(phc.to_string())
}

/// Returns the cost of a hash: KiB times passes.
pub const fn cost(params: &Params) -> u32 {
    params.m_cost().saturating_mul(params.t_cost())
}

/// Returns the parameters of the extra work for a hash stored with cheaper parameters than the current ones, so that a
/// wrong guess takes as long as one against a nonexistent hash and timing reveals nothing.
///
/// Returns `None` if the stored hash costs at least as much, or if the difference is below Argon2's minimum.
pub fn equalizing_params(stored: &Params, current: &Params) -> Result<Option<Params>> {
    let memory_kib = cost(current).saturating_sub(cost(stored)) / current.t_cost();
    if memory_kib < Params::MIN_M_COST * current.p_cost() {
        return Ok(None);
    }
    Params::new(memory_kib, current.t_cost(), current.p_cost(), None).map(Some).map_err(Error::internal)
}

/// Computes a raw hash. Grows `memory` if it is too small; its contents do not matter.
pub fn compute(params: &Params, secret: &SecretString, salt: &[u8], memory: &mut Vec<Block>) -> Result<Output> {
    let blocks = params.block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::default());
    }
    let length = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let mut result = Ok(());
    let output = Output::init_with(length, |output| {
        result = argon2.hash_password_into_with_memory(secret.expose_secret().as_bytes(), salt, output, &mut *memory);
        Ok(())
    });
    result.map_err(Error::internal)?;
    output.map_err(Error::internal)
}

pub fn to_crate_params(params: Argon2Params) -> Result<Params> {
    Params::new(params.memory_kib, params.passes, params.lanes, None).map_err(Error::internal)
}

pub const fn to_domain_params(params: &Params) -> Argon2Params {
    Argon2Params { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equalizing_work_makes_up_for_cheaper_stored_parameters() {
        let params = |memory_kib, passes| to_crate_params(Argon2Params { memory_kib, passes, lanes: 1 }).unwrap();
        let extra_cost = |stored, current| equalizing_params(&stored, &current).unwrap().map(|extra| cost(&extra));
        assert_eq!(extra_cost(params(19_456, 2), params(65_536, 3)), Some(65_536 * 3 - 19_456 * 2 - 1));
        assert_eq!(extra_cost(params(64, 1), params(64, 1)), None);
        assert_eq!(extra_cost(params(256, 2), params(64, 1)), None);
    }

    #[test]
    fn equalizing_work_below_the_minimum_of_argon2_is_skipped() {
        let params = |memory_kib| to_crate_params(Argon2Params { memory_kib, passes: 1, lanes: 2 }).unwrap();
        let extra_cost = |stored, current| equalizing_params(&stored, &current).unwrap().map(|extra| cost(&extra));
        assert_eq!(extra_cost(params(32), params(47)), None);
        assert_eq!(extra_cost(params(32), params(48)), Some(16));
    }
}
