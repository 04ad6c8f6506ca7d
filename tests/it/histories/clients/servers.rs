//! Where clients send their calls.

use std::sync::{Arc, RwLock};

use rand::{RngExt as _, rngs::StdRng};
use sqlx::postgres::PgConnectOptions;

use crate::support::connect::Transport;

/// The transports of the servers that run, replaced when a server is, and how a superuser connects to their database.
#[derive(Clone)]
pub struct Servers {
    transports: Arc<RwLock<Vec<Vec<Transport>>>>,
    superuser: Arc<RwLock<PgConnectOptions>>,
}

impl Servers {
    pub fn of_database(superuser: &PgConnectOptions) -> Self {
        Self { transports: Arc::default(), superuser: Arc::new(RwLock::new(superuser.clone())) }
    }

    pub fn superuser(&self) -> PgConnectOptions {
        self.superuser.read().unwrap().clone()
    }

    pub fn set_superuser(&self, superuser: &PgConnectOptions) {
        self.superuser.write().unwrap().clone_from(superuser);
    }

    pub fn replace(&self, number: usize, transports: Vec<Transport>) {
        let mut servers = self.transports.write().unwrap();
        if servers.len() <= number {
            servers.resize(number + 1, Vec::new());
        }
        servers[number] = transports;
    }

    /// Replaces all servers by one. In one step: a watcher may pick a server at any time.
    pub fn replace_all(&self, transports: Vec<Transport>) {
        *self.transports.write().unwrap() = vec![transports];
    }

    /// Any transport of any server.
    pub fn pick(&self, random: &mut StdRng) -> Transport {
        let servers = self.transports.read().unwrap();
        let transports: Vec<&Transport> = servers.iter().flatten().collect();
        transports[random.random_range(0..transports.len())].clone()
    }

    /// The first transport of a server, which is gRPC.
    pub fn grpc(&self, random: &mut StdRng) -> Transport {
        let servers = self.transports.read().unwrap();
        servers[random.random_range(0..servers.len())][0].clone()
    }
}
