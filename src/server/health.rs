//! Health follows the database: one probe decides the readiness that `grpc/health_service.rs` reports.
//!
//! During a shutdown readiness becomes NOT_SERVING at once. After the shutdown delay the streams of health watchers
//! end.

use std::time::Duration;

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_server::HealthServer;

use crate::{
    error::ErrorChain,
    grpc::HealthService,
    store::{DatabaseHosts, Probe, Store},
};

/// The pause after a probe, which itself takes up to 1 s, or 5 s if it has to connect. Half of the time that a call
/// waits for a connection, so that a probe has usually noticed an unreachable database by then.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct Health {
    ready: watch::Sender<bool>,
    stop: CancellationToken,
    probe_task: JoinHandle<()>,
}

impl Health {
    /// `stop` ends the streams of watchers.
    pub fn start(database: DatabaseHosts, store: Store, stop: CancellationToken) -> Self {
        let ready = watch::Sender::new(false);
        store.expect_probe();
        let probe_task = tokio::spawn(run_probe(Probe::new(database), store, ready.clone()));
        Self { ready, stop, probe_task }
    }

    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::new(self.ready.subscribe(), self.stop.clone()))
    }

    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Sets readiness to NOT_SERVING permanently.
    pub async fn stop(&mut self) {
        self.probe_task.abort();
        // Until the task has ended, it could still set SERVING.
        let _ = (&mut self.probe_task).await;
        self.ready.send_replace(false);
    }
}

async fn run_probe(mut probe: Probe, store: Store, ready: watch::Sender<bool>) {
    let mut last_logged = None;
    let mut has_checked_privileges = false;
    loop {
        let result = probe.check().await;
        let is_ready = result.is_ok();
        store.record_probe(&result);
        let reason = result.err().map(|error| ErrorChain(&error).to_string());
        if last_logged.as_ref() != Some(&reason) {
            match &reason {
                None => tracing::info!("Serving"),
                Some(reason) => tracing::warn!("Not serving: {reason}"),
            }
            last_logged = Some(reason);
        }
        // Watchers receive transitions only.
        ready.send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready);
        if is_ready && !has_checked_privileges {
            has_checked_privileges = check_privileges(&probe).await;
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
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
