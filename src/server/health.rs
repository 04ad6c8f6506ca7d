//! Health follows the database: one probe sets the status of every health name except `live`.
//!
//! During a shutdown the readiness names become NOT_SERVING. After the shutdown delay all names are unregistered: a
//! check then returns `NOT_FOUND`, until the addresses close.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{
    error::ErrorChain,
    store::{Probe, Store},
};

/// The pause after a probe, which itself takes up to 1 s, or 5 s if it has to connect. Half of the time that a call waits
/// for a connection, so that a probe has usually noticed an unreachable database by then.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// The health names that stand for readiness: the whole server, and each of its services.
const READINESS: [&str; 3] = ["", "turnkey.v1.TenantProvisioning", "turnkey.v1.PackageCatalog"];
/// The health name that is SERVING as long as the process runs.
const LIVENESS: &str = "live";

pub(super) struct Health {
    reporter: HealthReporter,
    ready: watch::Receiver<bool>,
    probe_task: JoinHandle<()>,
}

impl Health {
    pub async fn start(database: PgConnectOptions, store: Store) -> Self {
        let reporter = HealthReporter::new();
        // Before the first client can ask: tonic-health starts with SERVING for the whole server.
        set_readiness(&reporter, false).await;
        reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
        let (sender, ready) = watch::channel(false);
        let probe_task = tokio::spawn(run_probe(Probe::new(database), store, reporter.clone(), sender));
        Self { reporter, ready, probe_task }
    }

    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Sets readiness to NOT_SERVING permanently.
    pub async fn stop(&mut self) {
        self.probe_task.abort();
        // Until the task has ended, it could still set SERVING.
        let _ = (&mut self.probe_task).await;
        set_readiness(&self.reporter, false).await;
    }

    /// Unregisters all health names. This ends the streams of health watchers, which would otherwise delay the
    /// shutdown; later checks return `NOT_FOUND`.
    pub async fn unregister_all(&mut self) {
        for name in READINESS.into_iter().chain([LIVENESS]) {
            self.reporter.clear_service_status(name).await;
        }
    }
}

async fn run_probe(mut probe: Probe, store: Store, reporter: HealthReporter, ready: watch::Sender<bool>) {
    let mut last_logged = None;
    let mut has_checked_privileges = false;
    loop {
        let result = probe.check().await;
        let is_ready = result.is_ok();
        let unreachable = matches!(&result, Err(error) if error.is_unreachable());
        store.set_reachable(!unreachable);
        // Publish only transitions to health watchers, and set readiness last, after every health name is updated.
        let has_changed = *ready.borrow() != is_ready;
        if has_changed {
            set_readiness(&reporter, is_ready).await;
        }
        let reason = result.err().map(|error| ErrorChain(&error).to_string());
        if last_logged.as_ref() != Some(&reason) {
            match &reason {
                None => tracing::info!("Serving"),
                Some(reason) => tracing::warn!("Not serving: {reason}"),
            }
            last_logged = Some(reason);
        }
        if has_changed {
            ready.send_replace(is_ready);
        }
        if is_ready && !has_checked_privileges {
            has_checked_privileges = check_privileges(&probe).await;
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

async fn set_readiness(reporter: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in READINESS {
        reporter.set_service_status(name, status).await;
    }
}

/// Warns if the serving role has more privileges than it needs. Returns false if the check failed.
async fn check_privileges(probe: &Probe) -> bool {
    // The check opens its own connection. The timeout bounds how long a slow check delays the next probe.
    let Ok(Ok(excess)) = timeout(PROBE_INTERVAL, probe.excess_privilege()).await else { return false };
    if let Some(excess) = excess {
        tracing::warn!("The database role of this service has more privileges than it needs: it {excess}");
    }
    true
}
