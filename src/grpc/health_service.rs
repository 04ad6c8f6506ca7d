//! The service `grpc.health.v1.Health` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>). `health`
//! has its client, and `server::health` decides the readiness.
//!
//! tonic-health's service is not used: it ends a watch of an unknown name with an error, where the protocol requires
//! `SERVICE_UNKNOWN` and an open stream.

use futures_util::{
    StreamExt as _, future,
    stream::{self, BoxStream},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus::{self, NotServing, ServiceUnknown, Serving},
    health_server::Health,
};

/// The names that stand for readiness: the whole server, and each of its services.
const READINESS: [&str; 3] = ["", "turnkey.v1.TenantProvisioning", "turnkey.v1.PackageCatalog"];
/// The name that is SERVING as long as the process runs.
const LIVENESS: &str = "live";

#[derive(Debug, Clone)]
pub struct HealthService {
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl HealthService {
    /// Reports `ready`. `stop` ends the streams of watchers, which would otherwise delay a shutdown.
    pub const fn new(ready: watch::Receiver<bool>, stop: CancellationToken) -> Self {
        Self { ready, stop }
    }

    /// The status of a name and every change of it, until the server stops.
    fn statuses(&self, name: &str) -> BoxStream<'static, ServingStatus> {
        let stop = self.stop.clone();
        if !READINESS.contains(&name) {
            let constant = if name == LIVENESS { Serving } else { ServiceUnknown };
            let stopped = stream::once(stop.cancelled_owned()).filter_map(|()| future::ready(None));
            return stream::iter([constant]).chain(stopped).boxed();
        }
        let mut ready = self.ready.clone();
        ready.mark_changed();
        let changes = stream::unfold((ready, stop), |(mut ready, stop)| async {
            tokio::select! {
                // In this order, so that a watcher receives the last change before its stream ends.
                biased;
                changed = ready.changed() => changed.ok()?,
                () = stop.cancelled() => return None,
            }
            let is_ready = *ready.borrow_and_update();
            Some((readiness(is_ready), (ready, stop)))
        });
        changes.boxed()
    }
}

const fn readiness(is_ready: bool) -> ServingStatus {
    if is_ready { Serving } else { NotServing }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let name = request.into_inner().service;
        if READINESS.contains(&name.as_str()) {
            Ok(Response::new(response(readiness(*self.ready.borrow()))))
        } else if name == LIVENESS {
            Ok(Response::new(response(Serving)))
        } else {
            Err(Status::not_found("unknown service"))
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let statuses = self.statuses(&request.get_ref().service).map(|status| Ok(response(status)));
        Ok(Response::new(statuses.boxed()))
    }
}
