//! The URL of a Postgres, of one host or, as in libpq, of several. The driver parses URLs of one host, so a URL of
//! several is parsed as one for each.

use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;

const SESSION_ATTRIBUTE: &str = "target_session_attrs=";

/// Returns the options of each host.
///
/// # Errors
/// The reason, which reveals no password: the driver's errors, too, name the invalid part and not its text.
pub(super) fn parse(url: &str) -> Result<Vec<PgConnectOptions>, String> {
    const SCHEMES: [&str; 2] = ["postgres", "postgresql"];
    let is_known = |scheme: &str| SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let Some((scheme, url)) = url.split_once("://").filter(|(scheme, _)| is_known(scheme)) else {
        return Err("must begin with postgres://".to_owned());
    };
    let (authority, rest) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
    let (login, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let rest = without_session_attribute(rest)?;
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.len() > 1 && hosts.contains(&"") {
        return Err("must have a name between the commas that separate its hosts".to_owned());
    }
    hosts.into_iter().map(|host| parse_one(&format!("{scheme}://{login}{host}{rest}"))).collect()
}

fn parse_one(url: &str) -> Result<PgConnectOptions, String> {
    let options = PgConnectOptions::from_str(url).map_err(|error| error.to_string())?;
    if options.get_host().contains(',') {
        return Err("must have several hosts before its path, as in postgres://db-1:5432,db-2:5432/turnkey".to_owned());
    }
    Ok(options)
}

/// Removes `target_session_attrs` from the parameters: a service that writes can have only one value of it.
fn without_session_attribute(rest: &str) -> Result<String, String> {
    let Some((path, parameters)) = rest.split_once('?') else { return Ok(rest.to_owned()) };
    let (attributes, parameters): (Vec<&str>, Vec<&str>) =
        parameters.split('&').partition(|parameter| parameter.starts_with(SESSION_ATTRIBUTE));
    let is_known = |attribute: &&str| matches!(&attribute[SESSION_ATTRIBUTE.len()..], "read-write" | "primary");
    if !attributes.iter().all(is_known) {
        return Err("target_session_attrs must be read-write".to_owned());
    }
    Ok(format!("{path}?{}", parameters.join("&")))
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

    use super::*;

    fn addresses(url: &str) -> Vec<(String, u16)> {
        let hosts = parse(url).unwrap();
        hosts.iter().map(|host| (host.get_host().to_owned(), host.get_port())).collect()
    }

    #[test]
    fn each_host_has_its_port_and_shares_the_rest() {
        let url = "postgresql://booking:p%2Cw@db-1:6432,[::1],10.0.0.3:5433/turnkey?sslmode=verify-full&\
                   target_session_attrs=read-write&application_name=x";
        let hosts = [("db-1", 6432), ("[::1]", 5432), ("10.0.0.3", 5433)].map(|(host, port)| (host.to_owned(), port));
        assert_eq!(addresses(url), hosts);
        for host in parse(url).unwrap() {
            assert_eq!((host.get_username(), host.get_database()), ("booking", Some("turnkey")));
            assert!(matches!(host.get_ssl_mode(), PgSslMode::VerifyFull));
            assert_eq!(host.get_application_name(), Some("x"));
        }
    }

    #[test]
    fn one_host_may_name_the_attribute_or_have_none_of_the_parts() {
        assert_eq!(addresses("postgres://db?target_session_attrs=primary"), [("db".to_owned(), 5432)]);
        assert_eq!(addresses("POSTGRES://u@db:1/x"), [("db".to_owned(), 1)]);
        let sockets = parse("postgres://u@%2Frun%2Fa:1,%2Frun%2Fb:2/x").unwrap();
        let sockets: Vec<_> = sockets.iter().map(|host| host.get_socket().unwrap().to_str().unwrap()).collect();
        assert_eq!(sockets, ["/run/a", "/run/b"]);
    }

    #[test]
    fn urls_that_cannot_be_used_are_refused_without_their_password() {
        for (url, reason) in [
            ("mysql://u:hunter2@db/x", "must begin with postgres://"),
            ("u:hunter2@db/x", "must begin with postgres://"),
            ("postgres://u:hunter2@a,,b/x", "must have a name between the commas"),
            ("postgres://u:hunter2@a,/x", "must have a name between the commas"),
            ("postgres://u:hunter2@a,b:hunter2/x", "invalid port"),
            ("postgres://u:hunter2@db/x?host=a,b", "must have several hosts before its path"),
            ("postgres://u:hunter2@a,b/x?target_session_attrs=any", "target_session_attrs must be read-write"),
            ("postgres://u:hunter2@a,b/x?target_session_attrs=", "target_session_attrs must be read-write"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{url}: {error}");
        }
    }
}
