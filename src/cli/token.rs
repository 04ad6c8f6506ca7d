//! `turnkey token create`: creates a service token and its entry for the tokens file.

use std::{
    io::{self, Write as _},
    path::Path,
};

use rand::{rand_core::UnwrapErr, rngs::SysRng};
use secrecy::ExposeSecret as _;

use super::{
    Error,
    output::Stdout,
    owned_file::{AppendableFile, ExistingFile, PRIVATE},
};
use crate::{
    config::{TokenSettings, service_credentials},
    domain::service_credentials::{ServiceGrant, ServiceToken, hash_token},
    secrets::mint_token,
    service::Clock,
};

/// Some hundred thousand entries.
const MAX_TOKENS_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Prints the token, this one time, to standard output, and appends its entry to the file. Without a file it prints the
/// entry to standard error, to be pasted.
pub async fn create(settings: TokenSettings) -> Result<(), Error> {
    let TokenSettings { name, roles, tenants, expires_in, tokens_file } = settings;
    let token = mint_token(&name, &mut UnwrapErr(SysRng));
    let expires = expires_in.map(|expires_in| Clock::system().now().truncate_to_second() + expires_in);
    let grant = ServiceGrant { name, roles, tenants, expires };
    let entry = service_credentials::entry(&ServiceToken { grant, sha256: hash_token(&token) });
    let entry = entry.map_err(|error| format!("cannot express the expiry: {error}"))?;
    match tokens_file {
        Some(path) => append(&path, &entry)?,
        None => write!(io::stderr(), "{entry}").map_err(|error| format!("cannot write to standard error: {error}"))?,
    }
    writeln!(Stdout, "{}", token.expose_secret())?;
    Ok(())
}

/// Appends in a single write, so that a server that reads the file at that moment sees the whole entry or none of it.
fn append(path: &Path, entry: &str) -> Result<(), Error> {
    let Some(mut existing) = ExistingFile::open(path)? else {
        return AppendableFile::create(path, PRIVATE, entry.as_bytes())?.sync();
    };
    let text = existing.read(MAX_TOKENS_FILE_BYTES + 1)?;
    if text.len() as u64 > MAX_TOKENS_FILE_BYTES {
        return Err(format!("{} is too large for a tokens file", path.display()).into());
    }
    // The server would reject an invalid file, and with it the new token.
    service_credentials::parse_file(path, &text)?;
    let separator = match &text[..] {
        [] => "",
        [.., b'\n'] => "\n",
        _ => "\n\n",
    };
    let mut file = existing.into_appendable()?;
    file.append(format!("{separator}{entry}").as_bytes())?;
    file.sync()
}
