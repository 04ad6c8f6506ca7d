//! The names of a setting, and the collected errors of invalid ones.

use std::{
    fmt::{self, Display},
    net::{SocketAddr, ToSocketAddrs as _},
    str::FromStr,
};

const ADDRESS_FORMAT: &str = "must be an address and a port, such as 127.0.0.1:50051 or localhost:50051";
pub(super) const BOOL_FORMAT: &str = "true or false";
pub(super) const POSITIVE_FORMAT: &str = "a positive integer";

/// The flag of a setting, without its dashes, and its environment variable, if it has one. Both the arguments and the
/// error messages take the names from here.
#[derive(Clone, Copy)]
pub(super) struct Setting {
    pub flag: &'static str,
    pub variable: Option<&'static str>,
}

impl Setting {
    pub const fn new(flag: &'static str, variable: &'static str) -> Self {
        Self { flag, variable: Some(variable) }
    }

    pub const fn flag(flag: &'static str) -> Self {
        Self { flag, variable: None }
    }
}

impl Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{}", self.flag)?;
        self.variable.map_or(Ok(()), |variable| write!(f, " / {variable}"))
    }
}

/// Every invalid setting of a command, with what it must be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    /// Joins the errors of several groups of settings.
    pub fn join(parts: impl IntoIterator<Item = Self>) -> Self {
        Self(parts.into_iter().flat_map(|part| part.0).collect())
    }

    pub(super) fn add(&mut self, setting: impl Display, message: impl Display) {
        self.0.push(format!("{setting}: {message}"));
    }

    pub(super) fn check<T>(&mut self, setting: impl Display, parsed: Result<T, impl Display>) -> Option<T> {
        parsed.map_err(|error| self.add(setting, error)).ok()
    }

    /// Returns the default if there is no text. `expected` completes "must be …".
    pub(super) fn parse<T: FromStr>(
        &mut self,
        setting: Setting,
        text: Option<&str>,
        default: T,
        expected: &str,
    ) -> Option<T> {
        self.parse_with(setting, text, default, expected, |text| text.parse().ok())
    }

    pub(super) fn parse_with<T>(
        &mut self,
        setting: Setting,
        text: Option<&str>,
        default: T,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(text) = text else { return Some(default) };
        self.check(setting, parse(text).ok_or_else(|| format!("must be {expected}")))
    }

    /// Returns `None` without an error if there is no text.
    pub(super) fn parse_optional<T: FromStr>(
        &mut self,
        setting: Setting,
        text: Option<&str>,
        expected: &str,
    ) -> Option<T> {
        self.check(setting, text?.parse().map_err(|_invalid| format!("must be {expected}")))
    }

    /// Builds the settings if none was invalid.
    pub(super) fn into_result<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Self> {
        match build() {
            Some(settings) if self.0.is_empty() => Ok(settings),
            _ => {
                debug_assert!(!self.0.is_empty(), "a setting is missing without an error");
                Err(self)
            }
        }
    }
}

/// Returns the address to listen on. A host name is looked up; of its addresses, the first IPv4 address is chosen, else
/// the first one.
pub(super) fn resolve(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or(ADDRESS_FORMAT)?;
    let port: u16 = port.parse().map_err(|_invalid| ADDRESS_FORMAT)?;
    if !is_host_name(host) {
        return Err(ADDRESS_FORMAT.to_owned());
    }
    let found = (host, port).to_socket_addrs().map_err(|error| format!("cannot look {host} up: {error}"))?;
    let found: Vec<SocketAddr> = found.collect();
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
    address.copied().ok_or_else(|| format!("{host} has no address"))
}

pub(super) fn is_host_name(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

impl Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid settings:")?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_an_ip_address_or_a_host_name_and_a_port() {
        for (text, expected) in [
            ("127.0.0.1:50051", "127.0.0.1:50051"),
            ("[::]:0", "[::]:0"),
            ("localhost:0", "127.0.0.1:0"),
            ("LOCALHOST:1", "127.0.0.1:1"),
        ] {
            assert_eq!(resolve(text), Ok(expected.parse().unwrap()), "{text}");
        }
        for invalid in [
            "",
            "localhost",
            ":0",
            "localhost:",
            "localhost:65536",
            "127.0.0:1",
            "http://localhost:1",
            "::1:1",
            "a b:1",
        ] {
            assert_eq!(resolve(invalid), Err(ADDRESS_FORMAT.to_owned()), "{invalid:?}");
        }
    }
}
