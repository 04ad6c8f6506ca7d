//! Secrets: how keys are spelled and how their hashes are made.
//!
//! Nothing here stores or sends anything; a secret leaves this module only inside a redacting type.

mod base62;
mod hasher;
mod key_format;

pub use hasher::Hasher;
pub use key_format::{MintedKey, mint_key};
