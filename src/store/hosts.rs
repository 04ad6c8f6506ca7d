//! The hosts of the database. Of several, every connection leads to the one that accepts writes: the primary, wherever
//! it is now. What elects the primary is not part of the service, and must not leave two hosts that accept writes.

use std::{collections::BTreeMap, fmt, io};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};

/// One host, or a primary and its standbys. `Debug` has no passwords.
#[derive(Clone)]
pub struct DatabaseHosts(Vec<PgConnectOptions>);

/// Why there is no connection to any of several hosts.
#[derive(Debug, thiserror::Error)]
#[error("no host accepts writes: {}", .0.join("; "))]
struct NoPrimary(Vec<String>);

impl From<PgConnectOptions> for DatabaseHosts {
    fn from(host: PgConnectOptions) -> Self {
        Self(vec![host])
    }
}

impl From<Vec<PgConnectOptions>> for DatabaseHosts {
    fn from(hosts: Vec<PgConnectOptions>) -> Self {
        Self(hosts)
    }
}

impl fmt::Debug for DatabaseHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(address)).finish()
    }
}

impl DatabaseHosts {
    /// Changes the options of each host.
    #[must_use]
    pub fn map(self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self(self.0.into_iter().map(change).collect())
    }

    /// Returns the first host alone.
    #[must_use]
    pub fn first(mut self) -> Self {
        self.0.truncate(1);
        self
    }

    /// Connects. Of several hosts, returns the first session that can write.
    ///
    /// All hosts are tried at once: a call waits for a connection for only a second, and a host whose machine is lost
    /// does not respond at all.
    ///
    /// # Errors
    /// [`sqlx::Error::Io`] names the error of each host, if there are several.
    pub async fn connect(&self) -> sqlx::Result<PgConnection> {
        // The probe reports a single host that is read-only, and the pool closes its sessions when they cannot write.
        if let [host] = &*self.0 {
            return host.connect().await;
        }
        let hosts = self.0.iter().enumerate();
        let mut attempts: FuturesUnordered<_> =
            hosts.map(async |(number, host)| (number, connect_to_primary(host).await)).collect();
        let mut errors = BTreeMap::new();
        while let Some((number, attempt)) = attempts.next().await {
            match attempt {
                Ok(connection) => return Ok(connection),
                Err(error) => errors.insert(number, format!("{}: {error}", address(&self.0[number]))),
            };
        }
        // In the order of the hosts, not of the errors: the probe logs a text once.
        Err(io::Error::other(NoPrimary(errors.into_values().collect())).into())
    }
}

/// Connects to a host that accepts writes, as libpq does with `target_session_attrs=read-write`.
async fn connect_to_primary(host: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut connection = host.connect().await?;
    // No prepared statement: the probe has not checked yet whether a pooler keeps them.
    let setting = sqlx::raw_sql("SHOW transaction_read_only").fetch_one(&mut connection).await?;
    // It is on in each session of a standby, too.
    if setting.try_get::<&str, _>(0)? == "off" {
        return Ok(connection);
    }
    connection.close().await?;
    Err(io::Error::other("it is read-only").into())
}

fn address(host: &PgConnectOptions) -> String {
    let name = host.get_socket().map_or_else(|| host.get_host().into(), |socket| socket.to_string_lossy());
    format!("{name}:{}", host.get_port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> DatabaseHosts {
        let host = PgConnectOptions::new_without_pgpass().host("127.0.0.1").password("hunter2");
        DatabaseHosts::from(vec![host.clone().port(1), host.socket("/nowhere").port(2)])
    }

    #[test]
    fn debug_output_has_addresses_and_no_passwords() {
        assert_eq!(format!("{:?}", hosts()), r#"["127.0.0.1:1", "/nowhere:2"]"#);
    }

    #[tokio::test]
    async fn the_error_names_every_host_in_their_order() {
        let error = hosts().connect().await.unwrap_err().to_string();
        let (first, second) = error.split_once("; /nowhere:2: ").unwrap();
        assert!(first.contains("no host accepts writes: 127.0.0.1:1: "), "{first}");
        assert!(!second.is_empty() && !error.contains("hunter2"), "{error}");
    }
}
