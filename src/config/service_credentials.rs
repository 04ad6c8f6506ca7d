//! The file of those who may call, in TOML:
//!
//! ```toml
//! [[token]]
//! name = "booking"
//! roles = ["catalog"]
//! sha256 = "…64 hex digits…"
//!
//! [[certificate]]
//! san = "booking.internal"
//! name = "booking"
//! roles = ["catalog"]
//! ```

use std::{fmt::Write as _, fs, io, path::Path};

use serde::Deserialize;

use crate::domain::{
    Role,
    service_credentials::{ServiceCertificate, ServiceCredentials, ServiceName, ServiceToken},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    #[serde(default)]
    token: Vec<Entry>,
    #[serde(default)]
    certificate: Vec<CertificateEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    roles: Vec<String>,
    sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateEntry {
    san: String,
    name: String,
    roles: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("cannot read {path}")]
    Read { path: String, source: io::Error },
    // The parser would show the lines it means, and no line of this file belongs in a log.
    #[error("{path} is no file of tokens: {why}")]
    Parse { path: String, why: String },
}

/// # Errors
/// What is wrong with the file; an empty one is fine, and lets nobody call.
pub fn read(path: &Path) -> Result<ServiceCredentials, TokensError> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|source| TokensError::Read { path: shown.clone(), source })?;
    parse(&text).map_err(|why| TokensError::Parse { path: shown, why })
}

fn parse(text: &str) -> Result<ServiceCredentials, String> {
    let file: TokensFile = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let tokens = file
        .token
        .into_iter()
        .enumerate()
        .map(|(index, entry)| entry.parse().map_err(|why| format!("token {}: {why}", index + 1)));
    let certificates = file
        .certificate
        .into_iter()
        .enumerate()
        .map(|(index, entry)| entry.parse().map_err(|why| format!("certificate {}: {why}", index + 1)));
    Ok(ServiceCredentials::new(tokens.collect::<Result<_, _>>()?, certificates.collect::<Result<_, String>>()?))
}

impl Entry {
    fn parse(self) -> Result<ServiceToken, String> {
        let (name, roles) = (name(&self.name)?, roles(&self.roles)?);
        let sha256 = bytes_of_hex(&self.sha256).ok_or("its sha256 must be 64 hex digits")?;
        Ok(ServiceToken { name, roles, sha256 })
    }
}

impl CertificateEntry {
    fn parse(self) -> Result<ServiceCertificate, String> {
        if self.san.is_empty() {
            return Err("its san must not be empty".to_owned());
        }
        // A URI is what has a colon. DNS names are compared without regard to case (RFC 4343).
        let san = if self.san.contains(':') { self.san } else { self.san.to_ascii_lowercase() };
        Ok(ServiceCertificate { name: name(&self.name)?, roles: roles(&self.roles)?, san })
    }
}

fn name(text: &str) -> Result<ServiceName, String> {
    ServiceName::parse(text).map_err(|why| format!("its name {}", why.description))
}

fn roles(texts: &[String]) -> Result<Vec<Role>, String> {
    texts.iter().map(|text| text.parse::<Role>().map_err(|why| format!("a role {why}"))).collect()
}

/// The entry of a token, to be put at the end of the file.
pub fn entry(token: &ServiceToken) -> String {
    let roles: Vec<String> = token.roles.iter().map(|role| format!("\"{}\"", role.as_str())).collect();
    let mut entry =
        format!("[[token]]\nname = \"{}\"\nroles = [{}]\nsha256 = \"", token.name.as_str(), roles.join(", "));
    for byte in token.sha256 {
        // Writing to a string cannot fail.
        let _ = write!(entry, "{byte:02x}");
    }
    entry + "\"\n"
}

fn bytes_of_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::domain::service_credentials::hash_token;

    #[test]
    fn an_entry_is_read_as_it_is_written() {
        let secret = SecretString::from(format!("svc_booking_{}", "a".repeat(43)));
        let token = ServiceToken {
            name: ServiceName::parse("booking").unwrap(),
            roles: vec![Role::Catalog, Role::Verifier],
            sha256: hash_token(&secret),
        };
        let caller = parse(&(entry(&token) + "\n" + &entry(&token))).unwrap().by_token(&secret).unwrap();
        assert!(caller.has_any(&[Role::Verifier]) && !caller.has_any(&[Role::Provisioner]));
        assert!(parse("").unwrap().by_token(&secret).is_none());
        assert!(parse("# nobody\n").is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_without_a_line_of_the_file() {
        let sha256 = "ab".repeat(32);
        for (text, said) in [
            ("[[token]]\nname = 'x'\nsha256 = ''\n".to_owned(), "roles"),
            (format!("[[token]]\nname = 'A'\nroles = []\nsha256 = '{sha256}'\n"), "token 1: its name"),
            (format!("[[token]]\nname = 'x'\nroles = ['king']\nsha256 = '{sha256}'\n"), "a role must be"),
            ("[[token]]\nname = 'x'\nroles = []\nsha256 = 'ab'\n".to_owned(), "64 hex digits"),
            ("[[tokens]]\n".to_owned(), "unknown field"),
            ("not toml".to_owned(), ""),
        ] {
            let why = parse(&text).unwrap_err();
            assert!(why.contains(said) && !why.contains(&sha256), "{why}");
        }
    }
}
