//! Secrets: how keys are spelled and how their hashes are made and verified.
//!
//! Nothing here stores or sends anything; a secret leaves this module only inside a redacting type.

mod argon2id;
mod base62;
mod derivation;
mod hasher;
mod key_format;
mod lane;
mod strength;
mod token;

pub use derivation::derive_secret;
pub use hasher::{Hasher, HashingSettings};
pub use key_format::{MintedKey, PresentedKey, SecretNumber, mint_key, random_secret, secret_key_again};
pub use token::mint_token;
