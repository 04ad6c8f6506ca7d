//! Argon2id (RFC 9106) itself: hashes in PHC form, made and compared in memory that is used again.

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use rand::{TryRng, rngs::SysRng};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    domain::Argon2Params,
    error::{Error, Result},
};

pub const SALT_BYTES: usize = 16;

/// A hash as it was stored, with the setting it was made with.
pub struct ParsedHash {
    pub params: Params,
    pub salt: Salt,
    pub output: Output,
}

impl ParsedHash {
    /// `None`, and a line in the log, for what this service never made: no secret can be right for it.
    pub fn parse(phc: &str) -> Option<Self> {
        let parsed = PasswordHash::new(phc).ok().and_then(|hash| {
            let is_ours = hash.algorithm == Algorithm::Argon2id.ident()
                && hash.version.is_none_or(|version| version == u32::from(Version::V0x13));
            let params =
                Params::try_from(&hash).ok().filter(|params| is_ours && argon2_params(params).is_within_limits())?;
            Some(Self { params, salt: hash.salt?, output: hash.hash? })
        });
        if parsed.is_none() {
            tracing::warn!("A stored hash is none of this service's and verifies nothing");
        }
        parsed
    }
}

pub fn hash(params: &Params, secret: &SecretString, memory: &mut Vec<Block>) -> Result<String> {
    let mut salt = [0_u8; SALT_BYTES];
    SysRng.try_fill_bytes(&mut salt).map_err(Error::internal)?;
    let phc = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).map_err(Error::internal)?,
        salt: Some(Salt::new(&salt).map_err(Error::internal)?),
        hash: Some(compute(params, secret, &salt, memory)?),
    };
    Ok(phc.to_string())
}

/// KiB times passes.
pub const fn cost(params: &Params) -> u32 {
    params.m_cost().saturating_mul(params.t_cost())
}

/// What has to be done beside a cheaper setting than today's, so that whoever guesses wrong cannot tell by the time it
/// took that there is such a hash: where there is none, today's is what it takes.
pub fn equalizing_params(stored: &Params, current: &Params) -> Result<Option<Params>> {
    let missing = cost(current).saturating_sub(cost(stored)) / current.t_cost();
    if missing < Params::MIN_M_COST * current.p_cost() {
        return Ok(None);
    }
    Params::new(missing, current.t_cost(), current.p_cost(), None).map(Some).map_err(Error::internal)
}

pub fn compute(params: &Params, secret: &SecretString, salt: &[u8], memory: &mut Vec<Block>) -> Result<Output> {
    let blocks = params.block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::default());
    }
    let length = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let mut hashed = Ok(());
    let output = Output::init_with(length, |output| {
        hashed = argon2.hash_password_into_with_memory(secret.expose_secret().as_bytes(), salt, output, &mut *memory);
        Ok(())
    });
    hashed.map_err(Error::internal)?;
    output.map_err(Error::internal)
}

pub fn params(argon2_params: Argon2Params) -> Result<Params> {
    Params::new(argon2_params.memory_kib, argon2_params.passes, argon2_params.lanes, None).map_err(Error::internal)
}

pub const fn argon2_params(params: &Params) -> Argon2Params {
    Argon2Params { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cheaper_hash_is_made_up_for_and_a_dearer_one_cannot_be() {
        let params = |memory_kib, passes| params(Argon2Params { memory_kib, passes, lanes: 1 }).unwrap();
        let missing = |stored, current| equalizing_params(&stored, &current).unwrap().map(|missing| cost(&missing));
        assert_eq!(missing(params(19_456, 2), params(65_536, 3)), Some(65_536 * 3 - 19_456 * 2 - 1));
        assert_eq!(missing(params(64, 1), params(64, 1)), None);
        assert_eq!(missing(params(256, 2), params(64, 1)), None);
    }

    #[test]
    fn what_is_less_than_argon2_can_do_is_not_made_up_for() {
        let params = |memory_kib| params(Argon2Params { memory_kib, passes: 1, lanes: 2 }).unwrap();
        let missing = |stored, current| equalizing_params(&stored, &current).unwrap().map(|missing| cost(&missing));
        assert_eq!(missing(params(32), params(47)), None);
        assert_eq!(missing(params(32), params(48)), Some(16));
    }
}
