//! Secrets: how keys are spelled and how their hashes are made and verified.
//!
//! Nothing here stores or sends anything; a secret leaves this module only inside a redacting type.

mod argon2id;
mod base62;
mod derivation;
mod hasher;
mod hashing_pool;
mod key_format;
mod password_strength;
mod service_token;

pub use derivation::derive_secret;
pub use hasher::{Hasher, HashingSettings};
pub use key_format::{KeyEntropy, MintedKey, ParsedSecretKey, assemble_secret_key, mint_key, random_secret};
pub use service_token::mint_token;
