//! What is counted and measured: every instrument, with the names of OpenTelemetry's semantic conventions where there are
//! any. Without a collector they cost next to nothing.
//!
//! <https://opentelemetry.io/docs/specs/semconv/rpc/rpc-metrics/>,
//! <https://opentelemetry.io/docs/specs/semconv/database/database-metrics/>

use std::{sync::LazyLock, time::Duration};

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram, Meter},
};

/// Seconds, as the conventions have it for both.
const BOUNDARIES: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0];

struct Instruments {
    call_duration: Histogram<f64>,
    statement_duration: Histogram<f64>,
    tenants_provisioned: Counter<u64>,
    requests_replayed: Counter<u64>,
    deprecated_fields_used: Counter<u64>,
    integrity_findings: Counter<u64>,
}

/// Made at first use, when the exporter is there, if there is one.
static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = meter();
    let duration = |name: &'static str, description: &'static str| {
        let boundaries = BOUNDARIES.to_vec();
        meter.f64_histogram(name).with_unit("s").with_description(description).with_boundaries(boundaries).build()
    };
    let counter = |name: &'static str, unit: &'static str, description: &'static str| {
        meter.u64_counter(name).with_unit(unit).with_description(description).build()
    };
    Instruments {
        call_duration: duration(
            "rpc.server.call.duration",
            "CallTasks, from their first byte to the end of their answer.",
        ),
        statement_duration: duration("db.client.operation.duration", "Statements, from sending to their answer."),
        tenants_provisioned: counter("turnkey.tenants.provisioned", "{tenant}", "Tenants made, whole."),
        requests_replayed: counter(
            "turnkey.requests.replayed",
            "{request}",
            "CallTasks answered with what an earlier one made.",
        ),
        deprecated_fields_used: counter("turnkey.deprecated_fields.used", "{field}", "Old names used by callers."),
        integrity_findings: counter("turnkey.integrity.findings", "{finding}", "Damage found, each time it is found."),
    }
});

fn meter() -> Meter {
    global::meter("turnkey")
}

/// `status` is the code's name, such as `OK`; `is_failure` where the service is to blame.
pub fn call_ended(method: &'static str, status: &'static str, is_failure: bool, duration: Duration) {
    let mut attributes = vec![
        KeyValue::new("rpc.system.name", "grpc"),
        KeyValue::new("rpc.method", method),
        KeyValue::new("rpc.response.status_code", status),
    ];
    attributes.extend(is_failure.then(|| KeyValue::new("error.type", status)));
    INSTRUMENTS.call_duration.record(duration.as_secs_f64(), &attributes);
}

/// `failure` is a SQLSTATE, or what kept the answer from coming.
pub fn statement_ended(operation: &'static str, failure: Option<String>, duration: Duration) {
    let mut attributes =
        vec![KeyValue::new("db.system.name", "postgresql"), KeyValue::new("db.operation.name", operation)];
    attributes.extend(failure.map(|failure| KeyValue::new("error.type", failure)));
    INSTRUMENTS.statement_duration.record(duration.as_secs_f64(), &attributes);
}

pub fn tenant_provisioned(flow: &'static str) {
    INSTRUMENTS.tenants_provisioned.add(1, &[KeyValue::new("turnkey.flow", flow)]);
}

pub fn request_replayed(rpc: &'static str) {
    INSTRUMENTS
        .requests_replayed
        .add(1, &[KeyValue::new("rpc.method", format!("turnkey.v1.TenantProvisioning/{rpc}"))]);
}

pub fn deprecated_field_used(field: &'static str) {
    INSTRUMENTS.deprecated_fields_used.add(1, &[KeyValue::new("turnkey.field", field)]);
}

pub fn integrity_finding(kind: &'static str) {
    INSTRUMENTS.integrity_findings.add(1, &[KeyValue::new("turnkey.finding.kind", kind)]);
}

/// How full a pool of connections is.
#[derive(Debug, Clone, Copy)]
pub struct PoolStats {
    pub used: u64,
    pub idle: u64,
    pub max: u64,
    /// Callers that wait for one.
    pub pending: u64,
}

/// How full a queue for hashing is.
#[derive(Debug, Clone, Copy)]
pub struct QueueStats {
    pub pool: &'static str,
    pub waiting: u64,
    pub capacity: u64,
}

/// Asks for these whenever metrics are sent, from now to the end of the process.
pub fn register_gauges(
    ready: impl Fn() -> bool + Send + Sync + 'static,
    pool: impl Fn() -> PoolStats + Clone + Send + Sync + 'static,
    queues: impl Fn() -> Vec<QueueStats> + Clone + Send + Sync + 'static,
) {
    let meter = meter();
    let gauge = |name: &'static str, unit: &'static str, description: &'static str| {
        meter.u64_observable_gauge(name).with_unit(unit).with_description(description)
    };
    gauge("turnkey.database.ready", "", "1 where the database can serve, as health tells it.")
        .with_callback(move |observer| observer.observe(ready().into(), &[]))
        .build();

    let of_pool = |more: &[KeyValue]| [&[KeyValue::new("db.client.connection.pool.name", "turnkey")], more].concat();
    let (used, idle) = (state("used"), state("idle"));
    let (used, idle, all) = (of_pool(&[used]), of_pool(&[idle]), of_pool(&[]));
    let now = pool.clone();
    gauge("db.client.connection.count", "{connection}", "Connections to the database.")
        .with_callback(move |observer| {
            observer.observe(now().used, &used);
            observer.observe(now().idle, &idle);
        })
        .build();
    let (now, attributes) = (pool.clone(), all.clone());
    gauge("db.client.connection.max", "{connection}", "Connections that there may be.")
        .with_callback(move |observer| observer.observe(now().max, &attributes))
        .build();
    gauge("db.client.connection.pending_requests", "{request}", "Callers that wait for a connection.")
        .with_callback(move |observer| observer.observe(pool().pending, &all))
        .build();

    let now = queues.clone();
    gauge("turnkey.hashing.queue.length", "{hash}", "Hashes that wait for a core.")
        .with_callback(move |observer| {
            for queue in now() {
                observer.observe(queue.waiting, &[KeyValue::new("turnkey.hashing.pool", queue.pool)]);
            }
        })
        .build();
    gauge("turnkey.hashing.queue.limit", "{hash}", "Hashes that may wait before callers are refused.")
        .with_callback(move |observer| {
            for queue in queues() {
                observer.observe(queue.capacity, &[KeyValue::new("turnkey.hashing.pool", queue.pool)]);
            }
        })
        .build();
}

fn state(name: &'static str) -> KeyValue {
    KeyValue::new("db.client.connection.state", name)
}
