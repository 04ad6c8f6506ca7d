//! The spans and metrics that a collector receives. Dashboards and alerts depend on their names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::metric::Data,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use serde_json::json;
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use turnkey::grpc::pb::{
    CheckIntegrityRequest, CreateFullyProvisionedRequest, GetTenantRequest, GetTenantResponse, ListTenantsRequest,
    UpsertPackageRequest, get_tenant_request::Identifier, package_catalog_client::PackageCatalogClient,
    tenant_provisioning_client::TenantProvisioningClient,
};

use crate::support::{
    database::Cluster,
    fixture::channel,
    process::{Process, database_url, serve, temp_folder, turnkey},
    requests::{bella, signup},
};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT_ID: &str = "00f067aa0ba902b7";

/// An OTLP receiver that keeps everything.
#[derive(Clone, Default)]
pub struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    scopes: Arc<Mutex<BTreeSet<String>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    /// The compressions of the exports, empty for none.
    encodings: Arc<Mutex<BTreeSet<String>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.record_encoding(&request);
        for scope in request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans) {
            self.scopes.lock().unwrap().insert(scope.scope.unwrap().name);
            self.spans.lock().unwrap().extend(scope.spans);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.record_encoding(&request);
        self.metrics.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Collector {
    /// Starts the receiver and returns its endpoint. It ends with the test's runtime.
    pub async fn start(&self) -> String {
        format!("http://{}", self.serve(Server::builder()).await)
    }

    /// Starts the receiver with a certificate for `localhost`, and returns its endpoint.
    async fn start_with_tls(&self, identity: Identity) -> String {
        let tls = ServerTlsConfig::new().identity(identity);
        let address = self.serve(Server::builder().tls_config(tls).unwrap()).await;
        format!("https://localhost:{}", address.port())
    }

    async fn serve(&self, mut server: Server) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = server
            .add_service(TraceServiceServer::new(self.clone()).accept_compressed(CompressionEncoding::Gzip))
            .add_service(MetricsServiceServer::new(self.clone()).accept_compressed(CompressionEncoding::Gzip));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        address
    }

    fn record_encoding<Message>(&self, request: &Request<Message>) {
        let encoding = request.metadata().get("grpc-encoding").map(|encoding| encoding.to_str().unwrap().to_owned());
        self.encodings.lock().unwrap().insert(encoding.unwrap_or_default());
    }

    fn span(&self, name: &str, predicate: impl Fn(&Span) -> bool) -> Span {
        let spans = self.spans.lock().unwrap();
        let found = spans.iter().find(|span| span.name == name && predicate(span));
        found.unwrap_or_else(|| panic!("no span {name} among {:?}", spans.iter().map(|span| &span.name))).clone()
    }

    /// The metric names after the translation by Prometheus: <https://prometheus.io/docs/guides/opentelemetry/>.
    fn prometheus_names(&self) -> BTreeSet<String> {
        let exported = self.metrics.lock().unwrap();
        let all = exported.iter().flat_map(|request| &request.resource_metrics);
        let all = all.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
        all.flat_map(|metric| {
            let unit = if metric.unit == "s" { "_seconds" } else { "" };
            let name = format!("{}{unit}", metric.name.replace('.', "_"));
            match metric.data.as_ref().unwrap() {
                Data::Histogram(_) => {
                    ["_bucket", "_sum", "_count"].iter().map(|part| format!("{name}{part}")).collect()
                }
                Data::Sum(_) => vec![format!("{name}_total")],
                _ => vec![name],
            }
        })
        .collect()
    }

    /// Everything that was exported, as text.
    pub fn text(&self) -> String {
        format!("{:?} {:?}", self.spans.lock().unwrap(), self.metrics.lock().unwrap())
    }

    /// The unit of each metric, and the attributes of its last data points.
    pub fn metrics(&self) -> BTreeMap<String, (String, Vec<BTreeMap<String, String>>)> {
        let exported = self.metrics.lock().unwrap();
        let all = exported.iter().flat_map(|request| &request.resource_metrics);
        let all = all.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
        all.map(|metric| {
            let points: Vec<_> = match metric.data.as_ref().unwrap() {
                Data::Histogram(data) => data.data_points.iter().map(|point| attributes(&point.attributes)).collect(),
                Data::Sum(data) => data.data_points.iter().map(|point| attributes(&point.attributes)).collect(),
                Data::Gauge(data) => data.data_points.iter().map(|point| attributes(&point.attributes)).collect(),
                other => panic!("{other:?}"),
            };
            (metric.name.clone(), (metric.unit.clone(), points))
        })
        .collect()
    }
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes
        .iter()
        .map(|attribute| match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
            any_value::Value::StringValue(text) => (attribute.key.clone(), text.clone()),
            other => (attribute.key.clone(), format!("{other:?}")),
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}

/// Calls that make the server record every metric.
pub async fn call(address: &str) {
    let mut provisioning = TenantProvisioningClient::new(channel(address).await);
    let mut catalog = PackageCatalogClient::new(channel(address).await);
    let create = CreateFullyProvisionedRequest { request_id: Some(uuid::Uuid::new_v4().to_string()), ..bella() };
    let mut request = Request::new(create.clone());
    let traceparent = format!("00-{TRACE_ID}-{PARENT_ID}-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let created = provisioning.create_fully_provisioned(request).await.unwrap().into_inner();
    assert!(provisioning.create_fully_provisioned(create).await.unwrap().into_inner().replayed);
    provisioning.create_from_signup(signup("Omer", "omer@example.com")).await.unwrap();
    let unknown = GetTenantRequest { identifier: Some(Identifier::Slug("unknown".to_owned())) };
    provisioning.get_tenant(unknown).await.unwrap_err();
    #[expect(deprecated, reason = "the use of the deprecated field is counted")]
    let upsert = UpsertPackageRequest {
        tenant_id: created.tenant.unwrap().id,
        title: Some("Gold".to_owned()),
        base_price: Some(1),
        ..UpsertPackageRequest::default()
    };
    catalog.upsert_package(upsert).await.unwrap();
    let mut findings =
        provisioning.check_integrity(CheckIntegrityRequest { tenant_id: None }).await.unwrap().into_inner();
    while findings.message().await.unwrap().is_some() {}

    let mut client = tonic::client::Grpc::new(channel(address).await);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<GetTenantRequest, GetTenantResponse>::default();
    let path = "/turnkey.v1.TenantProvisioning/Unknown".parse().unwrap();
    let status = client.unary(Request::new(GetTenantRequest { identifier: None }), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_receives_spans_and_metrics_with_their_documented_names() {
    let collector = Collector::default();
    let database = Cluster::get().migrated().await;
    let incomplete = "INSERT INTO tenants SELECT gen_random_uuid(), 'half', 'x', 10, '{}', true, now(), now()";
    database.execute_without_triggers(incomplete).await;
    let folder = temp_folder();
    let mut process = Process::start(
        serve(folder.path(), &database.server).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.start().await),
    );
    call(&process.address()).await;
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success(), "{:?}", process.log);

    // Everything arrives with the flush at the shutdown. Only spans of the service may be exported: an export that
    // creates spans would cause the next export.
    assert_eq!(*collector.scopes.lock().unwrap(), BTreeSet::from(["turnkey".to_owned()]));
    let create = "turnkey.v1.TenantProvisioning/CreateFullyProvisioned";
    let call = collector.span(create, |span| hex(&span.trace_id) == TRACE_ID);
    assert_eq!((call.kind(), hex(&call.parent_span_id).as_str()), (SpanKind::Server, PARENT_ID));
    let call_attributes = attributes(&call.attributes);
    for (name, value) in [
        ("rpc.system.name", "grpc"),
        ("rpc.method", create),
        ("rpc.response.status_code", "OK"),
        ("turnkey.caller", "anonymous"),
    ] {
        assert_eq!(call_attributes.get(name).map(String::as_str), Some(value), "{call_attributes:?}");
    }
    let statement = collector.span("create_fully_provisioned", |span| span.parent_span_id == call.span_id);
    assert_eq!(statement.kind(), SpanKind::Client);
    assert_eq!(attributes(&statement.attributes)["db.system.name"], "postgresql");
    collector.span("hash", |span| span.parent_span_id == call.span_id);
    let unknown = collector.span("grpc", |_| true);
    assert_eq!(attributes(&unknown.attributes)["rpc.method"], "_OTHER");
    let not_found = collector.span("turnkey.v1.TenantProvisioning/GetTenant", |_| true);
    assert_eq!(attributes(&not_found.attributes)["rpc.response.status_code"], "NOT_FOUND");
    assert_ne!(
        not_found.status.unwrap_or_default().code(),
        StatusCode::Error,
        "a client error is not an error of the service"
    );

    let line = process.log.iter().find(|line| line.contains("Fully provisioned new tenant")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["trace_id"], &line["span_id"]), (&TRACE_ID.into(), &hex(&call.span_id).into()));

    let metrics = collector.metrics();
    let expected = [
        ("rpc.server.call.duration", "s", vec![("rpc.method", create), ("rpc.response.status_code", "OK")]),
        ("rpc.server.call.duration", "s", vec![("rpc.response.status_code", "NOT_FOUND")]),
        ("db.client.operation.duration", "s", vec![("db.operation.name", "create_fully_provisioned")]),
        ("db.client.operation.duration", "s", vec![("db.operation.name", "COMMIT")]),
        ("db.client.connection.count", "{connection}", vec![("db.client.connection.state", "idle")]),
        ("db.client.connection.max", "{connection}", vec![("db.client.connection.pool.name", "turnkey")]),
        ("db.client.connection.pending_requests", "{request}", vec![]),
        ("turnkey.database.ready", "", vec![]),
        ("turnkey.provisioning.queue.length", "{tenant}", vec![]),
        ("turnkey.hashing.queue.length", "{hash}", vec![("turnkey.hashing.pool", "login")]),
        ("turnkey.hashing.queue.length", "{hash}", vec![("turnkey.hashing.pool", "signup")]),
        ("turnkey.hashing.queue.length", "{hash}", vec![("turnkey.hashing.pool", "reset")]),
        ("turnkey.hashing.queue.limit", "{hash}", vec![("turnkey.hashing.pool", "key")]),
        ("turnkey.tenants.provisioned", "{tenant}", vec![("turnkey.flow", "signup")]),
        ("turnkey.requests.replayed", "{request}", vec![("rpc.method", create)]),
        ("turnkey.deprecated_fields.used", "{field}", vec![("turnkey.field", "title")]),
        ("turnkey.integrity.findings", "{finding}", vec![("turnkey.finding.kind", "NO_PACKAGE")]),
    ];
    for (name, unit, expected_attributes) in &expected {
        let (exported_unit, points) = metrics.get(*name).unwrap_or_else(|| panic!("{name} among {:?}", metrics.keys()));
        assert_eq!(exported_unit, unit, "{name}");
        let matches = |point: &BTreeMap<String, String>| {
            expected_attributes.iter().all(|(key, value)| point.get(*key).is_some_and(|exported| exported == value))
        };
        assert!(points.iter().any(matches), "{name} with {expected_attributes:?} among {points:?}");
    }
    assert_eq!(
        metrics.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        expected.iter().map(|(name, ..)| *name).collect()
    );
    assert_eq!(collector.prometheus_names(), listed_names(), "metrics.txt lists exactly the exported metrics");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_span_and_the_metric_of_a_call_name_its_protocol() {
    let collector = Collector::default();
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut command = serve(folder.path(), &database.server);
    command.args(["--http-listen", "127.0.0.1:0"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.start().await);
    let mut process = Process::start(&mut command);
    let mut grpc = process.provisioning().await;
    let http = process.http();
    grpc.list_tenants(ListTenantsRequest::default()).await.unwrap();
    let traceparent = format!("00-{TRACE_ID}-{PARENT_ID}-01");
    let (list, create) =
        ("turnkey.v1.TenantProvisioning/ListTenants", "turnkey.v1.TenantProvisioning/CreateFullyProvisioned");
    let listed = http.post_with(&format!("/{list}"), &json!({}), &[("traceparent", &traceparent)]).await;
    let created = http.post("/api/v1/admin/tenants", &json!({ "slug": "bella", "name": "Bella" })).await;
    assert_eq!((listed.status.as_u16(), created.status.as_u16()), (200, 201));
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success(), "{:?}", process.log);

    let metrics = collector.metrics();
    let (_, calls) = &metrics["rpc.server.call.duration"];
    for (method, system, is_in_trace) in [(list, "grpc", false), (list, "connectrpc", true), (create, "http", false)] {
        let is_protocol = |span: &Span| attributes(&span.attributes)["rpc.system.name"] == system;
        let span = collector.span(method, is_protocol);
        assert_eq!(hex(&span.trace_id) == TRACE_ID, is_in_trace, "{method} {system}");
        let is_call = |point: &BTreeMap<String, String>| {
            point["rpc.method"] == method
                && point["rpc.system.name"] == system
                && point["rpc.response.status_code"] == "OK"
        };
        assert!(calls.iter().any(is_call), "{method} {system} among {calls:?}");
    }
}

/// The metrics that `scripts/check-alerts` lets the dashboard and the alerts use.
pub fn listed_names() -> BTreeSet<String> {
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/observability/metrics.txt");
    let list = std::fs::read_to_string(list).unwrap();
    let names = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    // Prometheus creates this metric itself.
    names.filter(|name| *name != "target_info").map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unresponsive_collector_delays_neither_calls_nor_the_shutdown() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    // The collector accepts the connection and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut process = Process::start(
        serve(folder.path(), &database.server)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"),
    );
    call(&process.address()).await;
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success(), "{:?}", process.log);
    let last = process.log.last().unwrap();
    assert!(
        last.contains("Some traces and metrics could not be sent in time"),
        "the flush has a short timeout: {last}"
    );
}

#[test]
fn an_unsupported_exporter_setting_is_reported_at_start() {
    let folder = temp_folder();
    let mut command = turnkey(folder.path());
    command.args(["token", "create", "--name", "x", "--role", "catalog"]);
    let output = command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/xml").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("OTEL_EXPORTER_OTLP_PROTOCOL: must be grpc"));
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_compressed_if_that_is_set() {
    let collector = Collector::default();
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(
        serve(folder.path(), &database.server)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.start().await)
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    );
    process.address();
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success(), "{:?}", process.log);
    assert_eq!(*collector.encodings.lock().unwrap(), ["gzip".to_owned()].into());
    assert!(collector.metrics().contains_key("turnkey.database.ready"));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_exports_its_findings_before_it_exits_also_over_tls() {
    let collector = Collector::default();
    let database = Cluster::get().migrated().await;
    let incomplete = "INSERT INTO tenants SELECT gen_random_uuid(), 'half', 'x', 10, '{}', true, now(), now()";
    database.execute_without_triggers(incomplete).await;
    let folder = temp_folder();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let identity = Identity::from_pem(certified.cert.pem(), certified.signing_key.serialize_pem());
    fs::write(folder.path().join("system-cas.pem"), certified.cert.pem()).unwrap();
    let endpoint = collector.start_with_tls(identity).await;
    let output = turnkey(folder.path())
        .args(["doctor", "--json"])
        .env("DATABASE_URL", database_url(&database.server))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("SSL_CERT_FILE", "system-cas.pem")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let metrics = collector.metrics();
    let (_, points) = metrics.get("turnkey.integrity.findings").unwrap_or_else(|| panic!("{output:?}"));
    assert!(points.iter().any(|point| point["turnkey.finding.kind"] == "NO_PACKAGE"), "{points:?}");
}

#[test]
fn variables_that_are_not_supported_are_named_at_start() {
    let folder = temp_folder();
    let mut command = turnkey(folder.path());
    command.args(["token", "create", "--name", "x", "--role", "catalog"]);
    command.env("OTEL_PROPAGATORS", "b3").env("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem").env("OTEL_SERVICE_NAME", "x");
    let output = command.output().unwrap();
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    let named =
        "These variables are not supported and have no effect: OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_PROPAGATORS";
    assert_eq!(stderr.lines().filter(|line| line.contains(&format!("{named}\""))).count(), 1, "{stderr}");
}
