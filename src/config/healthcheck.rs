//! The settings of `turnkey healthcheck`: an address, in plaintext or over TLS.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use clap::Args;

use super::{
    Alternatives, ConfigErrors, DEFAULT_LISTEN, HEALTH_LISTEN, LISTEN, ServerUrl,
    client::{TLS_CA, TLS_SERVER_NAME, check_server_name, read_ca},
};

const TARGET_FORMAT: &str =
    "must be a host and a port, such as 127.0.0.1:50051 or localhost:50051, or a URL such as https://localhost:50051";

#[derive(Clone, Args)]
pub struct HealthcheckArgs {
    /// Health address of the server, if it has one; plaintext unless it begins with `https://`
    #[arg(long = HEALTH_LISTEN.flag, env = HEALTH_LISTEN.variable, value_name = "ADDRESS")]
    health_listen: Option<String>,
    /// Address of the server, as `host:port`, `http://host:port` or `https://host:port` [default: 127.0.0.1:50051]
    #[arg(long = LISTEN.flag, env = LISTEN.variable, value_name = "ADDRESS")]
    listen: Option<String>,
    /// CA of the server's certificate, PEM; a `--listen` address without a scheme is then checked over TLS [default:
    /// the system's CAs]
    #[arg(long = TLS_CA.flag, env = TLS_CA.variable, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Name in the server's certificate; a `--listen` address without a scheme is then checked over TLS [default: the
    /// host of the address]
    #[arg(long = TLS_SERVER_NAME.flag, env = TLS_SERVER_NAME.variable, value_name = "NAME")]
    tls_server_name: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct HealthcheckSettings {
    /// `host:port`
    pub address: String,
    /// `None` for plaintext.
    pub tls: Option<HealthcheckTls>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct HealthcheckTls {
    /// The CAs to trust, PEM; `None` for those of the system.
    pub ca: Option<Vec<u8>>,
    /// The name or IP address that the server's certificate must have.
    pub server_name: String,
}

struct Target {
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// `None` if the address has no scheme.
    is_tls: Option<bool>,
}

impl Alternatives for HealthcheckArgs {
    const FLAG_OVERRIDES: &[(&str, &str)] = &[("listen", "health_listen")];
}

impl HealthcheckArgs {
    /// For a server that listens on all addresses, the loopback address is checked.
    pub fn settings(&self) -> Result<HealthcheckSettings, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let (setting, text) = match (&self.health_listen, &self.listen) {
            (Some(text), _) => (HEALTH_LISTEN, text.clone()),
            (None, Some(text)) => (LISTEN, text.clone()),
            (None, None) => (LISTEN, DEFAULT_LISTEN.to_string()),
        };
        let target = errors.check(setting, Target::parse(&text).ok_or(TARGET_FORMAT));
        let ca = self.tls_ca.as_deref().and_then(|path| errors.check(TLS_CA, read_ca(path)));
        let server_name = self.tls_server_name.as_deref().and_then(|name| check_server_name(name, &mut errors));
        let has_tls_setting = self.tls_ca.is_some() || self.tls_server_name.is_some();
        errors.into_result(|| {
            let Target { host, port, is_tls } = target?;
            // `serve` has no TLS on its health address.
            let is_tls = is_tls.unwrap_or(has_tls_setting && self.health_listen.is_none());
            let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            let tls = is_tls.then(|| HealthcheckTls { ca, server_name: server_name.unwrap_or(host) });
            Some(HealthcheckSettings { address: authority, tls })
        })
    }
}

impl Target {
    fn parse(text: &str) -> Option<Self> {
        let has_scheme = text.contains("://");
        let url = if has_scheme { text.parse() } else { format!("http://{text}").parse() };
        let url: ServerUrl = url.ok()?;
        let is_unspecified = url.host().parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        let host = if is_unspecified { Ipv4Addr::LOCALHOST.to_string() } else { url.host().to_owned() };
        Some(Self { host, port: url.port()?, is_tls: has_scheme.then(|| url.is_tls()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(listen: &str) -> HealthcheckArgs {
        HealthcheckArgs { health_listen: None, listen: Some(listen.to_owned()), tls_ca: None, tls_server_name: None }
    }

    fn settings(args: &HealthcheckArgs) -> (String, Option<String>) {
        let settings = args.settings().unwrap();
        (settings.address, settings.tls.map(|tls| tls.server_name))
    }

    #[test]
    fn an_address_may_have_a_scheme_a_host_name_or_all_addresses() {
        for (text, address, server_name) in [
            ("10.0.0.1:50051", "10.0.0.1:50051", None),
            ("0.0.0.0:50051", "127.0.0.1:50051", None),
            ("[::]:50051", "127.0.0.1:50051", None),
            ("localhost:50051", "localhost:50051", None),
            ("http://localhost:50051", "localhost:50051", None),
            ("https://localhost:50051", "localhost:50051", Some("localhost")),
            ("HTTPS://[::1]:50051/", "[::1]:50051", Some("::1")),
        ] {
            assert_eq!(settings(&args(text)), (address.to_owned(), server_name.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn a_tls_setting_implies_tls_except_on_a_health_address_and_over_http() {
        let named = |args| HealthcheckArgs { tls_server_name: Some("booking.internal".to_owned()), ..args };
        let expected = ("127.0.0.1:50051".to_owned(), Some("booking.internal".to_owned()));
        assert_eq!(settings(&named(args("127.0.0.1:50051"))), expected);
        assert_eq!(settings(&named(args("https://127.0.0.1:50051"))), expected);
        assert_eq!(settings(&named(args("http://127.0.0.1:50051"))).1, None);
        let health = HealthcheckArgs { health_listen: Some("127.0.0.1:50052".to_owned()), ..args("127.0.0.1:50051") };
        assert_eq!(settings(&named(health)), ("127.0.0.1:50052".to_owned(), None));
    }

    #[test]
    fn everything_invalid_is_reported_together_by_the_names_of_its_setting() {
        for text in ["here", "localhost", "ftp://localhost:1", "https://localhost:1/path", "https://me@localhost:1", ""]
        {
            let args = HealthcheckArgs {
                health_listen: Some(text.to_owned()),
                listen: None,
                tls_ca: Some("/missing".into()),
                tls_server_name: Some("not a name".to_owned()),
            };
            let errors = args.settings().unwrap_err().to_string();
            for expected in [
                "--health-listen / TURNKEY_HEALTH_LISTEN: must be a host and a port",
                "--tls-ca / TURNKEY_TLS_CA: cannot read /missing",
                "--tls-server-name / TURNKEY_TLS_SERVER_NAME: must be a DNS name",
            ] {
                assert!(errors.contains(expected), "{text:?}: {errors}");
            }
        }
    }
}
