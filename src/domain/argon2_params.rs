//! Work factors of password and key hashes: their defaults, limits and text format.

use std::str::FromStr;

/// Parameters of Argon2id (RFC 9106), written `m=64,t=1,p=1` as in PHC strings. Each PHC string carries its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Params {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Argon2Params {
    /// The default for API keys. Their 256 random bits cannot be guessed at any cost per guess, so the hash only has to
    /// be one-way.
    pub const KEY: Self = Self { memory_kib: 64, passes: 1, lanes: 1 };

    /// The default for passwords: the first choice of OWASP's Password Storage Cheat Sheet below 46 MiB. People choose
    /// from a small space, so every guess has to be expensive.
    pub const PASSWORD: Self = Self { memory_kib: 19_456, passes: 2, lanes: 1 };

    /// 1 GiB for one hash; a larger value is a typing error.
    const MAX_MEMORY_KIB: u32 = 1_048_576;
    const MAX_PASSES: u32 = 64;
    const MAX_LANES: u32 = 16;
    /// RFC 9106, 3.1: at least 8 KiB for each lane.
    const MIN_MEMORY_KIB_PER_LANE: u32 = 8;

    pub fn is_within_limits(self) -> bool {
        (1..=Self::MAX_LANES).contains(&self.lanes)
            && (1..=Self::MAX_PASSES).contains(&self.passes)
            && (Self::MIN_MEMORY_KIB_PER_LANE * self.lanes..=Self::MAX_MEMORY_KIB).contains(&self.memory_kib)
    }
}

/// The text is malformed, or a parameter is out of its limits.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidArgon2Params;

impl FromStr for Argon2Params {
    type Err = InvalidArgon2Params;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(',');
        let mut number = |name: &str| {
            let digits = parts.next().and_then(|part| part.trim().strip_prefix(name)).ok_or(InvalidArgon2Params)?;
            digits.parse().map_err(|_| InvalidArgon2Params)
        };
        let params = Self { memory_kib: number("m=")?, passes: number("t=")?, lanes: number("p=")? };
        if parts.next().is_none() && params.is_within_limits() { Ok(params) } else { Err(InvalidArgon2Params) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argon2_parameters_parse_as_written_in_phc_strings() {
        assert_eq!("m=64,t=1,p=1".parse(), Ok(Argon2Params::KEY));
        assert_eq!("m=19456, t=2, p=1".parse(), Ok(Argon2Params::PASSWORD));
    }

    #[test]
    fn malformed_argon2_parameters_and_those_out_of_limits_are_rejected() {
        for invalid in [
            "",
            "64",
            "t=1,m=64,p=1",
            "m=64,t=1",
            "m=64,t=1,p=1,x=1",
            "m=7,t=1,p=1",
            "m=64,t=0,p=1",
            "m=64,t=1,p=0",
            "m=64,t=1,p=9",
            "m=4294967295,t=1,p=1",
            "m=-1,t=1,p=1",
        ] {
            assert!(invalid.parse::<Argon2Params>().is_err(), "{invalid:?}");
        }
    }
}
