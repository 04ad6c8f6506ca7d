//! Every instrument, named by OpenTelemetry's semantic conventions where they apply. Without an exporter, recording
//! costs next to nothing.
//!
//! <https://opentelemetry.io/docs/specs/semconv/rpc/rpc-metrics/>,
//! <https://opentelemetry.io/docs/specs/semconv/database/database-metrics/>

use std::{sync::LazyLock, time::Duration};

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram, Meter},
};

/// Histogram boundaries in seconds, extended from those that both conventions recommend.
const BOUNDARIES: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0];

/// The attribute of `db.client.connection.count`.
const STATE: &str = "db.client.connection.state";

struct Instruments {
    call_duration: Histogram<f64>,
    statement_duration: Histogram<f64>,
    tenants_provisioned: Counter<u64>,
    requests_replayed: Counter<u64>,
    deprecated_fields_used: Counter<u64>,
    integrity_findings: Counter<u64>,
}

/// Created at first use, which is after [`super::init`] has installed the exporter.
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
            "Duration of calls, from the request headers to the end of the response.",
        ),
        statement_duration: duration(
            "db.client.operation.duration",
            "Duration of database statements, from sending to the response.",
        ),
        tenants_provisioned: counter("turnkey.tenants.provisioned", "{tenant}", "Tenants provisioned."),
        requests_replayed: counter(
            "turnkey.requests.replayed",
            "{request}",
            "Requests answered from an idempotency record.",
        ),
        deprecated_fields_used: counter(
            "turnkey.deprecated_fields.used",
            "{field}",
            "Uses of deprecated request fields.",
        ),
        integrity_findings: counter(
            "turnkey.integrity.findings",
            "{finding}",
            "Integrity findings, counted each time they are found.",
        ),
    }
});

fn meter() -> Meter {
    global::meter("turnkey")
}

/// Records the end of a call. `system` is its protocol, such as `grpc`; `status` is the name of its code, such as `OK`,
/// by each protocol; `is_failure` marks a fault of the service.
pub fn record_call(
    system: &'static str,
    method: &'static str,
    status: &'static str,
    is_failure: bool,
    duration: Duration,
) {
    let mut attributes = vec![
        KeyValue::new("rpc.system.name", system),
        KeyValue::new("rpc.method", method),
        KeyValue::new("rpc.response.status_code", status),
    ];
    attributes.extend(is_failure.then(|| KeyValue::new("error.type", status)));
    INSTRUMENTS.call_duration.record(duration.as_secs_f64(), &attributes);
}

/// Records the end of a statement. `error_type` is a SQLSTATE, or names what prevented a response.
pub fn record_statement(operation: &'static str, error_type: Option<String>, duration: Duration) {
    let mut attributes =
        vec![KeyValue::new("db.system.name", "postgresql"), KeyValue::new("db.operation.name", operation)];
    attributes.extend(error_type.map(|error_type| KeyValue::new("error.type", error_type)));
    INSTRUMENTS.statement_duration.record(duration.as_secs_f64(), &attributes);
}

pub fn count_provisioned_tenant(flow: &'static str) {
    INSTRUMENTS.tenants_provisioned.add(1, &[KeyValue::new("turnkey.flow", flow)]);
}

pub fn count_replayed_request(rpc: &'static str) {
    INSTRUMENTS
        .requests_replayed
        .add(1, &[KeyValue::new("rpc.method", format!("turnkey.v1.TenantProvisioning/{rpc}"))]);
}

pub fn count_deprecated_field(field: &'static str) {
    INSTRUMENTS.deprecated_fields_used.add(1, &[KeyValue::new("turnkey.field", field)]);
}

pub fn count_integrity_finding(kind: &'static str) {
    INSTRUMENTS.integrity_findings.add(1, &[KeyValue::new("turnkey.finding.kind", kind)]);
}

/// Usage of the connection pool, in connections.
#[derive(Debug, Clone, Copy)]
pub struct PoolStats {
    pub used: u64,
    pub idle: u64,
    pub max: u64,
    /// Calls that wait for a connection.
    pub pending: u64,
}

/// Usage of the queue of a hashing pool, in hashes.
#[derive(Debug, Clone, Copy)]
pub struct QueueStats {
    pub pool: &'static str,
    pub length: u64,
    pub limit: u64,
}

/// Registers callbacks that observe these values at every export, until the process ends.
pub fn register_gauges(
    ready: impl Fn() -> bool + Send + Sync + 'static,
    pool: impl Fn() -> PoolStats + Clone + Send + Sync + 'static,
    queues: impl Fn() -> Vec<QueueStats> + Clone + Send + Sync + 'static,
    waiting_creations: impl Fn() -> u64 + Send + Sync + 'static,
) {
    let meter = meter();
    let gauge = |name: &'static str, unit: &'static str, description: &'static str| {
        meter.u64_observable_gauge(name).with_unit(unit).with_description(description)
    };
    gauge("turnkey.database.ready", "", "1 if the database can serve calls, else 0; the same as readiness.")
        .with_callback(move |observer| observer.observe(ready().into(), &[]))
        .build();

    let pool_name = KeyValue::new("db.client.connection.pool.name", "turnkey");
    let [used, idle] = ["used", "idle"].map(|state| [pool_name.clone(), KeyValue::new(STATE, state)]);
    let stats = pool.clone();
    gauge("db.client.connection.count", "{connection}", "Open connections to the database.")
        .with_callback(move |observer| {
            observer.observe(stats().used, &used);
            observer.observe(stats().idle, &idle);
        })
        .build();
    let (stats, attributes) = (pool.clone(), [pool_name.clone()]);
    gauge("db.client.connection.max", "{connection}", "Maximum number of connections.")
        .with_callback(move |observer| observer.observe(stats().max, &attributes))
        .build();
    gauge("db.client.connection.pending_requests", "{request}", "Calls that wait for a connection.")
        .with_callback(move |observer| observer.observe(pool().pending, std::slice::from_ref(&pool_name)))
        .build();

    gauge("turnkey.provisioning.queue.length", "{tenant}", "Tenants that wait for the statement that creates them.")
        .with_callback(move |observer| observer.observe(waiting_creations(), &[]))
        .build();

    let stats = queues.clone();
    gauge("turnkey.hashing.queue.length", "{hash}", "Hashes that wait for a core.")
        .with_callback(move |observer| {
            for queue in stats() {
                observer.observe(queue.length, &[KeyValue::new("turnkey.hashing.pool", queue.pool)]);
            }
        })
        .build();
    gauge("turnkey.hashing.queue.limit", "{hash}", "Maximum number of waiting hashes; further calls are rejected.")
        .with_callback(move |observer| {
            for queue in queues() {
                observer.observe(queue.limit, &[KeyValue::new("turnkey.hashing.pool", queue.pool)]);
            }
        })
        .build();
}
