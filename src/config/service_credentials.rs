//! The tokens file, which lists the credentials of services, in TOML:
//!
//! ```toml
//! [[token]]
//! name = "booking"
//! roles = ["catalog"]
//! sha256 = "…64 hex digits…"
//! tenants = ["0197…"]                # optional: the tenants that the token is limited to
//! expires = "2027-01-31T00:00:00Z"   # optional
//!
//! [[certificate]]
//! san = "DNS:booking.internal"       # or "URI:spiffe://…"
//! name = "booking"
//! roles = ["catalog"]                # and optionally tenants and expires
//! ```
//!
//! `server/reload.rs` watches the file; `turnkey token create` writes to it.

use std::{fmt::Display, fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use hex::FromHex as _;
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::domain::{
    Role, TenantId, TenantLimit,
    service_credentials::{San, ServiceCertificate, ServiceCredentials, ServiceGrant, ServiceName, ServiceToken},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    #[serde(default)]
    token: Vec<TokenEntry>,
    #[serde(default)]
    certificate: Vec<CertificateEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table [[token]]")]
struct TokenEntry {
    name: String,
    roles: Vec<String>,
    sha256: String,
    tenants: Option<Vec<String>>,
    expires: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table [[certificate]]")]
struct CertificateEntry {
    san: String,
    name: String,
    roles: Vec<String>,
    tenants: Option<Vec<String>>,
    expires: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TokensFileError {
    #[error("cannot read {path}")]
    Read { path: String, source: io::Error },
    // Not the parser's error: it quotes the file, which must not appear in a log.
    #[error("{path} is not a valid tokens file: {reason}")]
    Parse { path: String, reason: String },
}

/// Reads the tokens file. An empty file is valid and means that no service may call.
pub fn read(path: &Path) -> Result<ServiceCredentials, TokensFileError> {
    let text = fs::read(path).map_err(|source| TokensFileError::Read { path: path.display().to_string(), source })?;
    parse_file(path, &text)
}

/// Parses the content of the tokens file at `path`, which only errors name.
pub fn parse_file(path: &Path, content: &[u8]) -> Result<ServiceCredentials, TokensFileError> {
    let text = str::from_utf8(content).map_err(|_invalid| "it is not UTF-8".to_owned());
    let parse_error = |reason| TokensFileError::Parse { path: path.display().to_string(), reason };
    text.and_then(parse).map_err(parse_error)
}

/// Returns why other users of the machine could change the file or replace it, and with it who may call. `None` if they
/// cannot.
pub fn writable_by_others(path: &Path) -> Option<String> {
    const GROUP_OR_OTHERS: u32 = 0o022;
    const OTHERS: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let mode = |path: &Path| Some(fs::metadata(path).ok()?.permissions().mode());
    if mode(path)? & GROUP_OR_OTHERS != 0 {
        return Some(format!("other users can write to {0}: run `chmod go-w {0}`", path.display()));
    }
    let absolute = std::path::absolute(path).ok()?;
    let folder = absolute.parent()?;
    // In a folder with the sticky bit, only its owner can replace a file.
    (mode(folder)? & (OTHERS | STICKY) == OTHERS)
        .then(|| format!("every user can replace files in {0}: run `chmod o-w {0}`", folder.display()))
}

/// Returns the entry of a token, to be appended to the file.
///
/// # Errors
/// If the token expires in a year with more than four digits, which RFC 3339 cannot express.
pub fn entry(token: &ServiceToken) -> Result<String, time::error::Format> {
    let ServiceToken { grant: ServiceGrant { name, roles, tenants, expires }, sha256 } = token;
    let mut lines = vec![
        "[[token]]".to_owned(),
        format!("name = \"{}\"", name.as_str()),
        format!("roles = [{}]", quoted(roles)),
        format!("sha256 = \"{}\"", hex::encode(sha256)),
    ];
    lines.extend(tenants.as_ref().map(|tenants| format!("tenants = [{}]", quoted(tenants.iter()))));
    if let Some(expires) = expires {
        lines.push(format!("expires = \"{}\"", expires.format(&Rfc3339)?));
    }
    Ok(lines.join("\n") + "\n")
}

/// None of the values contains a character that has to be escaped.
fn quoted(values: impl IntoIterator<Item = impl Display>) -> String {
    values.into_iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ")
}

fn parse(text: &str) -> Result<ServiceCredentials, String> {
    let file: TokensFile = toml::from_str(text).map_err(|error| describe(&error, text))?;
    let tokens = parse_entries("token", file.token, TokenEntry::parse)?;
    let certificates = parse_entries("certificate", file.certificate, CertificateEntry::parse)?;
    Ok(ServiceCredentials::new(tokens, certificates))
}

/// Returns the line of an error and the parser's message without what was found there, which can be a token in a wrong
/// place.
fn describe(error: &toml::de::Error, text: &str) -> String {
    let message = error.message();
    let message = message.rsplit_once(", expected ").map_or(message.to_owned(), |(found, expected)| {
        let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
        format!("{kind}, expected {expected}")
    });
    let before = error.span().and_then(|span| text.get(..span.start));
    before.map_or(message.clone(), |before| format!("line {}: {message}", before.matches('\n').count() + 1))
}

/// Errors name the entry by its position, as in `token 1: …`.
fn parse_entries<E, T>(table: &str, entries: Vec<E>, parse: fn(E) -> Result<T, String>) -> Result<Vec<T>, String> {
    let numbered = (1..).zip(entries);
    numbered.map(|(number, entry)| parse(entry).map_err(|reason| format!("{table} {number}: {reason}"))).collect()
}

impl TokenEntry {
    fn parse(self) -> Result<ServiceToken, String> {
        let grant = parse_grant(&self.name, &self.roles, self.tenants.as_deref(), self.expires.as_deref())?;
        let sha256 = <[u8; 32]>::from_hex(&self.sha256).map_err(|_| "sha256 must be 64 hex digits")?;
        Ok(ServiceToken { grant, sha256 })
    }
}

impl CertificateEntry {
    fn parse(self) -> Result<ServiceCertificate, String> {
        let san = San::parse(&self.san).map_err(|invalid| format!("san {}", invalid.description))?;
        let grant = parse_grant(&self.name, &self.roles, self.tenants.as_deref(), self.expires.as_deref())?;
        Ok(ServiceCertificate { san, grant })
    }
}

fn parse_grant(
    name: &str,
    roles: &[String],
    tenants: Option<&[String]>,
    expires: Option<&str>,
) -> Result<ServiceGrant, String> {
    Ok(ServiceGrant {
        name: ServiceName::parse(name).map_err(|invalid| format!("name {}", invalid.description))?,
        roles: parse_roles(roles)?,
        tenants: tenants.map(parse_tenants).transpose()?,
        expires: expires.map(parse_time).transpose()?,
    })
}

fn parse_roles(texts: &[String]) -> Result<Vec<Role>, String> {
    texts.iter().map(|text| text.parse::<Role>().map_err(|expected| format!("each role {expected}"))).collect()
}

fn parse_tenants(texts: &[String]) -> Result<TenantLimit, String> {
    let parse =
        |text: &String| TenantId::parse(text).map_err(|invalid| format!("each id in tenants {}", invalid.description));
    let ids: Vec<TenantId> = texts.iter().map(parse).collect::<Result<_, _>>()?;
    TenantLimit::new(ids).map_err(|invalid| format!("tenants {}", invalid.description))
}

fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_invalid| "expires must be a time in RFC 3339, such as 2027-01-31T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use secrecy::SecretString;

    use super::*;
    use crate::domain::service_credentials::hash_token;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn token(secret: &SecretString, tenants: Option<TenantLimit>, expires: Option<OffsetDateTime>) -> ServiceToken {
        let (name, roles) = (ServiceName::parse("booking").unwrap(), vec![Role::Catalog, Role::KeyManager]);
        ServiceToken { grant: ServiceGrant { name, roles, tenants, expires }, sha256: hash_token(secret) }
    }

    #[test]
    fn a_written_token_entry_can_be_read() {
        let secret = SecretString::from(format!("svc_booking_{}", "a".repeat(43)));
        let text = entry(&token(&secret, None, None)).unwrap();
        let caller = parse(&(text.clone() + "\n" + &text)).unwrap().by_token(&secret, NOW).unwrap();
        assert!(caller.has_any(&[Role::KeyManager]) && !caller.has_any(&[Role::Provisioner]));
        assert_eq!(caller.tenant_limit(), None);
        assert!(parse("").unwrap().by_token(&secret, NOW).is_none());
        assert!(parse("# no entries\n").is_ok());
    }

    #[test]
    fn the_entry_of_a_token_has_its_tenants_and_its_expiry() {
        let secret = SecretString::from(format!("svc_booking_{}", "a".repeat(43)));
        let ids = [1, 2].map(|id| TenantId::from_uuid(uuid::Uuid::from_u128(id)));
        let limit = TenantLimit::new(ids).unwrap();
        let text = entry(&token(&secret, Some(limit.clone()), Some(NOW + time::Duration::DAY))).unwrap();
        let expected = "tenants = [\"00000000-0000-0000-0000-000000000001\", \"00000000-0000-0000-0000-000000000002\"]
expires = \"1970-01-02T00:00:00Z\"
";
        assert!(text.ends_with(expected), "{text}");
        let credentials = parse(&text).unwrap();
        assert_eq!(credentials.by_token(&secret, NOW).unwrap().tenant_limit(), Some(limit));
        assert_eq!(credentials.by_token(&secret, NOW + time::Duration::DAY), None);
    }

    #[test]
    fn errors_of_the_tokens_file_do_not_quote_it() {
        let sha256 = "ab".repeat(32);
        for (text, expected) in [
            ("[[token]]\nname = 'x'\nsha256 = ''\n".to_owned(), "roles"),
            (format!("[[token]]\nname = 'A'\nroles = []\nsha256 = '{sha256}'\n"), "token 1: name"),
            (format!("[[token]]\nname = 'x'\nroles = ['king']\nsha256 = '{sha256}'\n"), "each role must be"),
            ("[[token]]\nname = 'x'\nroles = []\nsha256 = 'ab'\n".to_owned(), "64 hex digits"),
            (format!("[[token]]\nname = 'cli'\nroles = []\nsha256 = '{sha256}'\n"), "token 1: name must not be"),
            ("[[certificate]]\nsan = 'x'\nname = 'import'\nroles = []\n".to_owned(), "certificate 1: name must not be"),
            ("[[certificate]]\nsan = 'spiffe://x'\nname = 'x'\nroles = []\n".to_owned(), "certificate 1: san must be"),
            (
                format!("[[token]]\nname = 'x'\nroles = []\nsha256 = '{sha256}'\ntenants = []\n"),
                "token 1: tenants must have at least one id",
            ),
            (
                format!("[[token]]\nname = 'x'\nroles = []\nsha256 = '{sha256}'\ntenants = ['bella']\n"),
                "token 1: each id in tenants must be a UUID",
            ),
            (
                format!("[[token]]\nname = 'x'\nroles = []\nsha256 = '{sha256}'\nexpires = '2027-01-31'\n"),
                "token 1: expires must be a time in RFC 3339",
            ),
            (
                "[[certificate]]\nsan = 'x'\nname = 'x'\nroles = []\ntenants = []\n".to_owned(),
                "certificate 1: tenants must have at least one id",
            ),
            ("[[tokens]]\n".to_owned(), "unknown field"),
            (format!("token = \"x, expected {sha256}\"\n"), "line 1: invalid type: string, expected a sequence"),
            (format!("\n{sha256} = 1\n"), "line 2: unknown field, expected `token` or `certificate`"),
            (format!("token = ['{sha256}']\n"), "line 1: invalid type: string, expected a table [[token]]"),
            (format!("[[certificate]]\nsan = 'x'\nroles = '{sha256}'\n"), "line 3: invalid type: string"),
            ("not toml".to_owned(), ""),
        ] {
            let reason = parse(&text).unwrap_err();
            assert!(reason.contains(expected) && !reason.contains(&sha256), "{reason}");
        }
    }

    #[test]
    fn a_tokens_file_that_others_can_write_or_replace_is_recognized() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        fs::write(&file, "").unwrap();
        let advice = |folder_mode, file_mode| {
            fs::set_permissions(folder.path(), Permissions::from_mode(folder_mode)).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(file_mode)).unwrap();
            writable_by_others(&file).map(|advice| advice.split('`').nth(1).unwrap().to_owned())
        };
        let of_file = Some(format!("chmod go-w {}", file.display()));
        let of_folder = Some(format!("chmod o-w {}", folder.path().display()));
        for (folder_mode, file_mode, expected) in [
            (0o700, 0o600, &None),
            (0o755, 0o644, &None),
            // As the volume of a Secret in Kubernetes.
            (0o1777, 0o440, &None),
            (0o700, 0o620, &of_file),
            (0o700, 0o602, &of_file),
            (0o1777, 0o666, &of_file),
            (0o777, 0o600, &of_folder),
            (0o703, 0o600, &of_folder),
        ] {
            assert_eq!(&advice(folder_mode, file_mode), expected, "{folder_mode:o} {file_mode:o}");
        }
    }
}
