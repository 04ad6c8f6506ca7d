//! Which web pages may call. A browser lets any page send requests to any address that it can reach, so a page on the
//! internet could call a server that listens on the loopback address or in a private network.
//!
//! A request with an `Origin` comes from a page and is refused unless the setting names that origin. A page can hide
//! where it comes from if its host name is made to resolve to 127.0.0.1 (DNS rebinding): it is then of the same origin
//! as the server. Its `Host` shows it, so a server on a loopback address refuses every other host.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority};
use tonic::body::Body;

use super::refusal::Refusal;
use crate::domain::WebOrigin;

/// What a page may send, beside what it may send without asking.
const ALLOWED_HEADERS: &str = "authorization, content-type, connect-protocol-version, connect-timeout-ms, idempotency-key, \
                               mcp-method, mcp-name, mcp-protocol-version, traceparent, tracestate";
const ALLOWED_METHODS: &str = "GET, POST";
/// What a page may read, beside the body.
const EXPOSED_HEADERS: &str = "grpc-retry-pushback-ms, idempotent-replayed, retry-after, www-authenticate";
/// How long a browser may remember the response to a preflight. Chromium limits it to two hours.
const PREFLIGHT_MAX_AGE_SECONDS: &str = "7200";

#[derive(Debug)]
pub struct Browsers {
    allowed: Vec<WebOrigin>,
    on_loopback: bool,
}

impl Browsers {
    /// `listen` is the address that the requests arrive at.
    pub fn new(allowed: Vec<WebOrigin>, listen: SocketAddr) -> Self {
        Self { allowed, on_loopback: listen.ip().is_loopback() }
    }

    /// Returns the origin of the page that sent the request; `None` if no page did.
    pub(super) fn check<'a>(&self, request: &'a Request<Body>) -> Result<Option<&'a HeaderValue>, Refusal> {
        // RFC 9112, section 3.2, requires it: a proxy could read another one of several hosts than the server.
        if request.version() == Version::HTTP_11 && request.headers().get_all(header::HOST).iter().count() != 1 {
            return Err(Refusal::invalid_host());
        }
        if self.on_loopback && !hosts(request).all(is_loopback) {
            return Err(Refusal::foreign_host());
        }
        let mut origins = request.headers().get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(None),
            (Some(origin), None) if self.allowed.iter().any(|allowed| origin == allowed.as_str()) => Ok(Some(origin)),
            _ => Err(Refusal::foreign_origin()),
        }
    }

    /// Returns the response to a browser that asks whether a page may send a request. The page's origin is allowed.
    pub(super) fn preflight(request: &Request<Body>) -> Option<Response<Body>> {
        let headers = request.headers();
        let is_preflight = request.method() == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        is_preflight.then(|| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            insert(
                response.headers_mut(),
                &[
                    (header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
                    (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
                    (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE_SECONDS),
                ],
            );
            response
        })
    }

    /// Lets the page read the response.
    pub(super) fn expose(&self, response: &mut Response<Body>, origin: Option<HeaderValue>) {
        if !self.allowed.is_empty() {
            insert(response.headers_mut(), &[(header::VARY, "origin")]);
        }
        if let Some(origin) = origin {
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            insert(response.headers_mut(), &[(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS)]);
        }
    }
}

fn insert(headers: &mut HeaderMap, values: &[(header::HeaderName, &'static str)]) {
    headers.extend(values.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))));
}

/// The hosts that the request names: in the header, and in HTTP/2 in the pseudo-header. Text that is not a host is
/// `None`. HTTP/1.0 needs neither; browsers always send one.
fn hosts(request: &Request<Body>) -> impl Iterator<Item = Option<Authority>> {
    let headers = request.headers().get_all(header::HOST).iter();
    let parse = |value: &HeaderValue| Authority::try_from(value.as_bytes()).ok();
    headers.map(parse).chain(request.uri().authority().cloned().map(Some))
}

fn is_loopback(host: Option<Authority>) -> bool {
    let Some(authority) = host else { return false };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listen: &str, uri: &str, headers: &[(header::HeaderName, &str)]) -> StatusCode {
        let allowed = vec!["https://admin.example.com".parse().unwrap()];
        let browsers = Browsers::new(allowed, listen.parse().unwrap());
        let has_host = headers.iter().any(|(name, _)| name == header::HOST);
        let version = if has_host { Version::HTTP_11 } else { Version::HTTP_2 };
        let mut request = Request::builder().version(version).uri(uri).body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        match browsers.check(&request) {
            Ok(_) => StatusCode::OK,
            Err(refusal) => refusal.into_response(super::super::Dialect::Connect).status(),
        }
    }

    #[test]
    fn only_loopback_hosts_reach_a_server_on_a_loopback_address() {
        for host in ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080", "127.1.2.3"] {
            assert_eq!(check("127.0.0.1:8080", "/", &[(header::HOST, host)]), StatusCode::OK, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:8080",
            "192.0.2.1:8080",
            "127.0.0.1.evil.example",
            "",
            "[::2]",
            "a b",
        ] {
            let refused = check("[::1]:8080", "/", &[(header::HOST, host)]);
            assert_eq!(refused, StatusCode::FORBIDDEN, "{host}");
            assert_eq!(check("192.0.2.1:8080", "/", &[(header::HOST, host)]), StatusCode::OK, "{host}");
        }
        // HTTP/2, and one of each.
        assert_eq!(check("127.0.0.1:1", "http://evil.example/", &[]), StatusCode::FORBIDDEN);
        assert_eq!(check("127.0.0.1:1", "http://localhost/", &[(header::HOST, "evil.example")]), StatusCode::FORBIDDEN);
        assert_eq!(check("127.0.0.1:1", "http://localhost:1/", &[]), StatusCode::OK);
        assert_eq!(check("127.0.0.1:1", "/", &[]), StatusCode::OK);
    }

    #[test]
    fn a_request_by_http_1_1_has_one_host() {
        let hosts = [(header::HOST, "localhost"), (header::HOST, "localhost")];
        assert_eq!(check("192.0.2.1:8080", "/", &hosts[..1]), StatusCode::OK);
        assert_eq!(check("192.0.2.1:8080", "/", &hosts), StatusCode::BAD_REQUEST);
        let browsers = Browsers::new(Vec::new(), "192.0.2.1:8080".parse().unwrap());
        let without_host = |version| Request::builder().version(version).body(Body::empty()).unwrap();
        assert!(browsers.check(&without_host(Version::HTTP_11)).is_err());
        assert!(browsers.check(&without_host(Version::HTTP_10)).is_ok());
    }

    #[test]
    fn only_pages_of_a_named_origin_may_call() {
        let with_origin = |origin: &str| check("0.0.0.0:8080", "/", &[(header::ORIGIN, origin)]);
        assert_eq!(with_origin("https://admin.example.com"), StatusCode::OK);
        for foreign in
            ["https://evil.example", "http://admin.example.com", "https://admin.example.com:8443", "null", ""]
        {
            assert_eq!(with_origin(foreign), StatusCode::FORBIDDEN, "{foreign}");
        }
        let twice = [(header::ORIGIN, "https://admin.example.com"), (header::ORIGIN, "https://evil.example")];
        assert_eq!(check("0.0.0.0:8080", "/", &twice), StatusCode::FORBIDDEN);
    }

    #[test]
    fn a_preflight_is_an_options_request_of_a_page_that_names_the_method_it_will_use() {
        let is_preflight = |method: Method, headers: &[header::HeaderName]| {
            let mut request = Request::builder().method(method).body(Body::empty()).unwrap();
            request.headers_mut().extend(headers.iter().map(|name| (name.clone(), HeaderValue::from_static("x"))));
            Browsers::preflight(&request).is_some()
        };
        let both = [header::ORIGIN, header::ACCESS_CONTROL_REQUEST_METHOD];
        assert!(is_preflight(Method::OPTIONS, &both));
        assert!(!is_preflight(Method::POST, &both));
        assert!(!is_preflight(Method::OPTIONS, &both[..1]) && !is_preflight(Method::OPTIONS, &both[1..]));
    }
}
