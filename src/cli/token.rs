//! `turnkey token create`

use std::{
    io::{self, Write as _},
    path::Path,
};

use rand::rngs::SysRng;
use secrecy::ExposeSecret as _;

use super::{Error, keys_file::open_private};
use crate::{
    config::{TokenSettings, service_credentials},
    domain::service_credentials::{ServiceToken, hash_token},
    secrets::mint_token,
};

/// The token goes to standard output, alone and this once; its entry to the file, or to standard error to be pasted.
pub async fn create(settings: TokenSettings) -> Result<(), Error> {
    let TokenSettings { name, roles, tokens_file } = settings;
    let token = mint_token(&name, &mut SysRng)?;
    let entry = service_credentials::entry(&ServiceToken { name, roles, sha256: hash_token(&token) });
    match tokens_file {
        Some(path) => append(&path, &entry)?,
        None => eprint!("{entry}"),
    }
    writeln!(io::stdout(), "{}", token.expose_secret())?;
    Ok(())
}

/// In one write, so that a server which reads the file meanwhile finds the entry whole or not at all.
fn append(path: &Path, entry: &str) -> Result<(), Error> {
    if path.exists() {
        // A token in a broken file would be good for nothing.
        service_credentials::read(path)?;
    }
    let mut file = open_private(path)?;
    let separator = if file.metadata()?.len() == 0 { "" } else { "\n" };
    file.write_all(format!("{separator}{entry}").as_bytes())?;
    file.sync_all()?;
    Ok(())
}
