//! The URL of a server that a command calls. Its scheme decides whether keys and tokens travel encrypted, so an unknown
//! one is refused.

use std::str::FromStr;

use http::{Uri, uri::Scheme};

const FORMAT: &str = "must be http:// or https:// with a host and a port, such as https://turnkey.example.com:443";

/// A URL with the scheme `http` or `https`, a host, and neither a path nor a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl(Uri);

impl FromStr for ServerUrl {
    type Err = String;

    /// Schemes are compared without regard to case (RFC 3986, 3.1).
    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{FORMAT}: {error}"))?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {}
            Some(scheme) => return Err(format!("{FORMAT}; the scheme {scheme} is unknown")),
            None => return Err(format!("{FORMAT}; it has no scheme")),
        }
        let authority = uri.authority().ok_or(FORMAT)?;
        if authority.as_str().contains('@') {
            return Err("must not contain a user name or a password; pass a token with --token".to_owned());
        }
        if !matches!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), None | Some("/")) {
            return Err(format!("{FORMAT}; it must not have a path"));
        }
        let url = Self(uri);
        if url.host().is_empty() {
            return Err(format!("{FORMAT}; it has no host"));
        }
        Ok(url)
    }
}

impl ServerUrl {
    /// Without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> Option<u16> {
        self.0.port_u16()
    }

    pub fn is_tls(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// Whether others may read what is sent: without TLS to another machine.
    pub fn is_exposed(&self) -> bool {
        let host = self.host();
        let is_loopback = match host.parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        };
        !self.is_tls() && !is_loopback
    }
}

impl From<ServerUrl> for Uri {
    fn from(url: ServerUrl) -> Self {
        url.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_compared_without_case() {
        for (text, scheme) in [
            ("http://127.0.0.1:50051", Scheme::HTTP),
            ("HTTP://127.0.0.1:50051/", Scheme::HTTP),
            ("https://turnkey.example.com", Scheme::HTTPS),
            ("HTTPS://turnkey.example.com:443", Scheme::HTTPS),
            ("hTtPs://[::1]:443", Scheme::HTTPS),
        ] {
            let uri = Uri::from(text.parse::<ServerUrl>().unwrap());
            assert_eq!(uri.scheme(), Some(&scheme), "{text}");
        }
    }

    #[test]
    fn an_unknown_scheme_is_refused_with_advice() {
        for (text, reason) in [
            ("htttps://127.0.0.1:50051", "the scheme htttps is unknown"),
            ("ftp://127.0.0.1:50051", "the scheme ftp is unknown"),
            ("grpc://127.0.0.1:50051", "the scheme grpc is unknown"),
            ("127.0.0.1:50051", "it has no scheme"),
            ("turnkey.example.com", "it has no scheme"),
            ("https:/turnkey.example.com", "must be http:// or https://"),
            ("https://", "must be http:// or https://"),
            ("https://:443", "must be http:// or https://"),
            ("", "must be http:// or https://"),
            ("https://example.com/api", "must not have a path"),
            ("https://example.com/?a=b", "must not have a path"),
            ("https://name:secret@example.com", "must not contain a user name"),
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err();
            assert!(error.contains(reason) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn plaintext_is_exposed_beyond_this_machine() {
        let is_exposed = |text: &str| text.parse::<ServerUrl>().unwrap().is_exposed();
        assert!(is_exposed("http://10.0.0.1:50051") && is_exposed("http://turnkey.example.com"));
        for text in ["https://10.0.0.1:1", "http://127.0.0.2:1", "http://[::1]:1", "http://LOCALHOST:1"] {
            assert!(!is_exposed(text), "{text}");
        }
    }
}
