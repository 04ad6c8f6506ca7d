//! The connection of a command to a server.

use secrecy::ExposeSecret as _;
use turnkey_client::{Client, Connector};

use super::Error;
use crate::config::{ClientIdentity, ClientSettings, ServerUrl};

/// Connects now, so that an error of the connection is no error of a call.
pub async fn connect(url: ServerUrl, settings: ClientSettings) -> Result<Client, Error> {
    if url.is_exposed() {
        tracing::warn!("The connection is not encrypted: others can read keys and tokens. Use an https:// URL");
    }
    let ClientSettings { token, ca, server_name, identity } = settings;
    let mut connector = Connector::new(&http::Uri::from(url).to_string())?;
    if let Some(token) = token {
        connector = connector.token(token.expose_secret());
    }
    if let Some(ca) = ca {
        connector = connector.ca_certificates(ca);
    }
    if let Some(server_name) = server_name {
        connector = connector.server_name(server_name);
    }
    if let Some(ClientIdentity { chain, key }) = identity {
        connector = connector.client_certificate(chain, key);
    }
    Ok(connector.connect().await?)
}
