//! Secrets: how keys are spelled and how their hashes are made and verified.
//!
//! Nothing here stores or sends anything; a secret leaves this module only inside a redacting type.

mod base62;
mod hasher;
mod key_format;
mod lane;
mod strength;

pub use hasher::{Hasher, HashingSettings};
pub use key_format::{MintedKey, PresentedKey, mint_key};
