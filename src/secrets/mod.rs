//! Creates keys and tokens, derives the secrets of replays, and hashes and verifies keys and passwords.
//!
//! The module stores and sends nothing. Secrets leave it only in types that redact themselves. The formats of keys and
//! tokens are in `domain`.

mod argon2id;
mod derivation;
mod hasher;
mod hashing_pool;
mod key_minting;
mod owner_token;
mod password_strength;
mod service_token;

pub use derivation::derive_secret;
pub use hasher::{Hasher, HashingSettings, PasswordUse};
pub use key_minting::{KeyEntropy, MintedKey, assemble_secret_key, mint_key, random_secret};
pub use owner_token::mint_owner_token;
pub use service_token::mint_token;
