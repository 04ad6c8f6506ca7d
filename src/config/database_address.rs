//! The address of a further database server, whose other settings are those of `DATABASE_URL`.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::setting::is_host_name;

/// A host, or the directory of a Unix socket, and the port unless it is that of `DATABASE_URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseAddress {
    host: String,
    port: Option<u16>,
}

impl DatabaseAddress {
    /// Returns the options with this address.
    pub fn replace_in(&self, options: PgConnectOptions) -> PgConnectOptions {
        let options = self.port.into_iter().fold(options, PgConnectOptions::port);
        if self.host.starts_with('/') { options.socket(&self.host) } else { options.host(&self.host) }
    }
}

impl FromStr for DatabaseAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_invalid| ())?)),
            None => (text, None),
        };
        let is_ip_address = host.parse::<std::net::Ipv4Addr>().is_ok();
        if host.starts_with('/') || is_ip_address || is_host_name(host) {
            Ok(Self { host: host.to_owned(), port })
        } else {
            Err(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_or_a_directory_with_or_without_a_port() {
        for (text, host, port) in [
            ("worker-1", "worker-1", None),
            ("10.0.0.7:5433", "10.0.0.7", Some(5433)),
            ("/run/postgresql", "/run/postgresql", None),
        ] {
            assert_eq!(text.parse(), Ok(DatabaseAddress { host: host.to_owned(), port }), "{text}");
        }
        for invalid in ["", ":5432", "worker:port", "postgres://worker"] {
            assert_eq!(invalid.parse::<DatabaseAddress>(), Err(()), "{invalid}");
        }
    }
}
