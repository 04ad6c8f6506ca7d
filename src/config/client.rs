//! The settings of commands that call a server: the credential and TLS.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use rustls::pki_types::ServerName;
use secrecy::SecretString;

use super::{
    Alternatives, ConfigErrors,
    setting::Setting,
    tls::{check_identity, read_certificates},
};
use crate::error::ErrorChain;

const TOKEN: Setting = Setting::new("token", "TURNKEY_TOKEN");
const TOKEN_FILE: Setting = Setting::new("token-file", "TURNKEY_TOKEN_FILE");
pub(super) const TLS_CA: Setting = Setting::new("tls-ca", "TURNKEY_TLS_CA");
pub(super) const TLS_SERVER_NAME: Setting = Setting::new("tls-server-name", "TURNKEY_TLS_SERVER_NAME");
const TLS_CLIENT_CERT: Setting = Setting::new("tls-client-cert", "TURNKEY_TLS_CLIENT_CERT");
const TLS_CLIENT_KEY: Setting = Setting::new("tls-client-key", "TURNKEY_TLS_CLIENT_KEY");

#[derive(Clone, Default, Args)]
pub struct ClientArgs {
    /// Service token for the server, or a tenant's secret key
    #[arg(long = TOKEN.flag, env = TOKEN.variable, hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// File with the token, instead of the token itself
    #[arg(long = TOKEN_FILE.flag, env = TOKEN_FILE.variable, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// CA of the server's certificate, PEM [default: the system's CAs]
    #[arg(long = TLS_CA.flag, env = TLS_CA.variable, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Name in the server's certificate [default: the host of the URL]
    #[arg(long = TLS_SERVER_NAME.flag, env = TLS_SERVER_NAME.variable, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// Certificate chain of this client, PEM, as its credential
    #[arg(long = TLS_CLIENT_CERT.flag, env = TLS_CLIENT_CERT.variable, value_name = "FILE")]
    tls_client_cert: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(long = TLS_CLIENT_KEY.flag, env = TLS_CLIENT_KEY.variable, value_name = "FILE")]
    tls_client_key: Option<PathBuf>,
}

/// What a client needs besides the URL of the server. It has no `Debug`, because it contains a private key.
pub struct ClientSettings {
    pub token: Option<SecretString>,
    /// The CAs to trust, PEM; `None` for those of the system.
    pub ca: Option<Vec<u8>>,
    pub server_name: Option<String>,
    pub identity: Option<ClientIdentity>,
}

/// PEM.
pub struct ClientIdentity {
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
}

impl Alternatives for ClientArgs {
    const FLAG_OVERRIDES: &[(&str, &str)] = &[("token", "token_file"), ("token_file", "token")];
}

impl ClientArgs {
    /// Reports each file and name that cannot be used.
    pub(super) fn check(&self, errors: &mut ConfigErrors) -> ClientSettings {
        let token = match (&self.token, &self.token_file) {
            (Some(_), Some(_)) => {
                errors.add(TOKEN_FILE, "set only one of TURNKEY_TOKEN and TURNKEY_TOKEN_FILE");
                None
            }
            (Some(token), None) => Some(token.clone()),
            (None, Some(path)) => errors.check(TOKEN_FILE, read_token(path)),
            (None, None) => None,
        };
        let ca = self.tls_ca.as_deref().and_then(|path| errors.check(TLS_CA, read_ca(path)));
        let server_name = self.tls_server_name.as_deref().and_then(|name| check_server_name(name, errors));
        let identity = self.identity(errors);
        ClientSettings { token: token.map(Into::into), ca, server_name, identity }
    }

    /// Reports the flags. Their variables may be set for other runs.
    pub(super) fn refuse_flags(&self, errors: &mut ConfigErrors) {
        let given = [
            (TOKEN, self.token.is_some()),
            (TOKEN_FILE, self.token_file.is_some()),
            (TLS_CA, self.tls_ca.is_some()),
            (TLS_SERVER_NAME, self.tls_server_name.is_some()),
            (TLS_CLIENT_CERT, self.tls_client_cert.is_some()),
            (TLS_CLIENT_KEY, self.tls_client_key.is_some()),
        ];
        for (setting, is_given) in given {
            if is_given && setting.variable.is_some_and(|name| std::env::var_os(name).is_none()) {
                errors.add(setting, "needs --server");
            }
        }
    }

    fn identity(&self, errors: &mut ConfigErrors) -> Option<ClientIdentity> {
        match (&self.tls_client_cert, &self.tls_client_key) {
            (Some(chain), Some(key)) => {
                let checked = check_identity(chain, key).map_err(|error| ErrorChain(&error).to_string());
                errors.check(TLS_CLIENT_CERT, checked)?;
                let chain = errors.check(TLS_CLIENT_CERT, read(chain))?;
                Some(ClientIdentity { chain, key: errors.check(TLS_CLIENT_KEY, read(key))? })
            }
            (None, None) => None,
            (Some(_), None) => {
                errors.add(TLS_CLIENT_CERT, format!("needs --{}", TLS_CLIENT_KEY.flag));
                None
            }
            (None, Some(_)) => {
                errors.add(TLS_CLIENT_KEY, format!("needs --{}", TLS_CLIENT_CERT.flag));
                None
            }
        }
    }
}

pub(super) fn check_server_name(name: &str, errors: &mut ConfigErrors) -> Option<String> {
    let is_valid = ServerName::try_from(name).is_ok();
    errors.check(TLS_SERVER_NAME, is_valid.then(|| name.to_owned()).ok_or("must be a DNS name or an IP address"))
}

pub(super) fn read_ca(path: &Path) -> Result<Vec<u8>, String> {
    read_certificates(path).map_err(|error| ErrorChain(&error).to_string())?;
    read(path)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn read_token(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(read(path)?).map_err(|_invalid| format!("{} is not text", path.display()))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(format!("{} must contain one token", path.display()));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(args: &ClientArgs) -> String {
        let mut errors = ConfigErrors::default();
        args.check(&mut errors);
        errors.to_string()
    }

    #[test]
    fn everything_invalid_is_reported_together() {
        let args = ClientArgs {
            token_file: Some("/missing/token".into()),
            tls_ca: Some("/missing/ca".into()),
            tls_server_name: Some("not a name".to_owned()),
            tls_client_key: Some("/missing/key".into()),
            ..ClientArgs::default()
        };
        let errors = errors(&args);
        for expected in [
            "--token-file / TURNKEY_TOKEN_FILE: cannot read /missing/token",
            "--tls-ca / TURNKEY_TLS_CA: cannot read /missing/ca",
            "--tls-server-name / TURNKEY_TLS_SERVER_NAME: must be a DNS name",
            "--tls-client-key / TURNKEY_TLS_CLIENT_KEY: needs --tls-client-cert",
        ] {
            assert!(errors.contains(expected), "{errors}");
        }
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let args = ClientArgs { tls_client_cert: Some("/missing/chain".into()), ..ClientArgs::default() };
        assert!(errors(&args).contains("TURNKEY_TLS_CLIENT_CERT: needs --tls-client-key"));
    }

    #[test]
    fn a_token_file_has_one_token_and_may_end_with_a_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, token) in [("svc_x\n", Some("svc_x")), ("svc_x\nsvc_y\n", None), ("svc_x svc_y", None), ("\n", None)]
        {
            fs::write(file.path(), text).unwrap();
            assert_eq!(read_token(file.path()).ok().as_deref(), token, "{text:?}");
        }
    }

    #[test]
    fn a_token_and_a_file_with_one_exclude_each_other() {
        let args =
            ClientArgs { token: Some("svc_x".to_owned()), token_file: Some("token".into()), ..ClientArgs::default() };
        assert!(errors(&args).contains("set only one of TURNKEY_TOKEN and TURNKEY_TOKEN_FILE"));
    }
}
