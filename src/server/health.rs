//! Health that follows the database: one probe drives every name.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::{sync::watch, task::JoinHandle};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{
    error::ErrorChain,
    store::{Probe, Store},
};

/// Half of what a call waits for a connection, so that by then it is known whether the database is away.
const INTERVAL: Duration = Duration::from_millis(500);

/// Readiness, under the name that stands for the server and those of its services.
const READINESS: [&str; 3] = ["", "turnkey.v1.TenantProvisioning", "turnkey.v1.PackageCatalog"];
/// Liveness: SERVING as long as the process is.
const LIVENESS: &str = "live";

pub(super) struct Health {
    reporter: HealthReporter,
    ready: watch::Receiver<bool>,
    probe_task: JoinHandle<()>,
}

impl Health {
    pub async fn start(database: PgConnectOptions, store: Store) -> Self {
        let reporter = HealthReporter::new();
        // Before anyone can ask: tonic-health would call the server as a whole SERVING.
        report(&reporter, false).await;
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

    /// NOT_SERVING from here on.
    pub async fn stop(&mut self) {
        self.probe_task.abort();
        // Or it could still say the opposite, should it be in the middle of that.
        let _ = (&mut self.probe_task).await;
        report(&self.reporter, false).await;
    }

    /// Ends the streams of those who watch; the server would wait for them as long as it may.
    pub async fn end_streams(&mut self) {
        for name in READINESS.into_iter().chain([LIVENESS]) {
            self.reporter.clear_service_status(name).await;
        }
    }
}

async fn run_probe(mut probe: Probe, store: Store, reporter: HealthReporter, ready: watch::Sender<bool>) {
    let mut last_logged = None;
    let mut checked_privilege = false;
    loop {
        let answer = probe.check().await;
        let is_ready = answer.is_ok();
        store.set_reachable(answer.as_ref().err().is_none_or(|why| !why.is_unreachable()));
        // Whoever watches is told of changes alone; and whoever waits for readiness, when all others know.
        let has_changed = *ready.borrow() != is_ready;
        if has_changed {
            report(&reporter, is_ready).await;
        }
        let reason = answer.err().map(|why| ErrorChain(&why).to_string());
        if last_logged.as_ref() != Some(&reason) {
            match &reason {
                None => tracing::info!("Serving"),
                Some(why) => tracing::warn!("Not serving: {why}"),
            }
            last_logged = Some(reason);
        }
        if has_changed {
            ready.send_replace(is_ready);
        }
        if is_ready && !checked_privilege {
            checked_privilege = warn_of_excess_privilege(&probe).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn report(reporter: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in READINESS {
        reporter.set_service_status(name, status).await;
    }
}

/// Whether it could be looked up.
async fn warn_of_excess_privilege(probe: &Probe) -> bool {
    // Over a connection of its own, which must not keep the next look at the database waiting.
    let Ok(excess) = tokio::time::timeout(INTERVAL, probe.excess_privilege()).await else { return false };
    match excess {
        Ok(None) => true,
        Ok(Some(excess)) => {
            tracing::warn!("The database role of this service has more rights than it needs: it {excess}");
            true
        }
        Err(_) => false,
    }
}
