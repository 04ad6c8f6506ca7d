//! The origin of a web page, as a browser sends it in the header `Origin` (RFC 6454, section 7).

use std::str::FromStr;

/// A scheme, a host and a port that differs from the scheme's default, in lower case: `https://admin.example.com:8443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin(String);

/// The text is not the origin of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidWebOrigin;

impl WebOrigin {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WebOrigin {
    type Err = InvalidWebOrigin;

    /// Parses an origin in any case. A path is refused, even `/`: the setting would promise more than it means. So is a
    /// host that is not ASCII, because browsers send its punycode form.
    fn from_str(text: &str) -> Result<Self, InvalidWebOrigin> {
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(InvalidWebOrigin)?;
        let port_at = authority.rfind(':').filter(|_| !authority.ends_with(']'));
        let (host, port) = port_at.map_or((authority, None), |at| (&authority[..at], Some(&authority[at + 1..])));
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let is_ipv6 = host.starts_with('[') && host.ends_with(']');
        let is_host = !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c) || (is_ipv6 && "[]:".contains(c)));
        let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number.to_string() == port));
        if !(is_scheme && is_host && is_port) {
            return Err(InvalidWebOrigin);
        }
        let default_port = match scheme {
            "http" => Some("80"),
            "https" => Some("443"),
            _ => None,
        };
        Ok(Self(match port.filter(|port| Some(*port) != default_port) {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_normalized_as_browsers_send_it() {
        for (text, expected) in [
            ("https://admin.example.com", "https://admin.example.com"),
            ("HTTPS://Admin.Example.com:443", "https://admin.example.com"),
            ("http://localhost:80", "http://localhost"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("https://xn--bcher-kva.example:8443", "https://xn--bcher-kva.example:8443"),
            ("http://[::1]", "http://[::1]"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(text.parse::<WebOrigin>().unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_refused() {
        for invalid in [
            "",
            "*",
            "null",
            "example.com",
            "https://",
            "https://example.com/",
            "https://example.com/path",
            "https://user@example.com",
            "https://*.example.com",
            "https://example.com:",
            "https://example.com:65536",
            "https://example.com:080",
            "https://bücher.example",
            "://example.com",
            "3d://example.com",
            "chrome_extension://abcdef",
            "http://[::1",
            "http://a[b",
            "http://[a b]",
        ] {
            assert_eq!(invalid.parse::<WebOrigin>(), Err(InvalidWebOrigin), "{invalid}");
        }
    }
}
