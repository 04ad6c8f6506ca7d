//! The metrics that Prometheus pulls. Dashboard and alerts have to work with them as with those that are pushed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    path::Path,
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use turnkey::grpc::pb::{
    ListPackagesRequest, package_catalog_client::PackageCatalogClient,
    tenant_provisioning_client::TenantProvisioningClient,
};

use crate::{
    support::{
        database::Cluster,
        fixture::channel,
        process::{Process, serve, temp_folder, turnkey},
        requests::{named, with_bearer},
        tokens::Tokens,
    },
    telemetry::{Collector, call, listed_names},
};

const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// What Prometheus does not have by then it never has: it scrapes and evaluates every second.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Lets Prometheus pull from a free port.
fn pulled(command: &mut Command) -> &mut Command {
    command.env("OTEL_METRICS_EXPORTER", "prometheus").env("OTEL_EXPORTER_PROMETHEUS_PORT", "0")
}

/// Waits until the server serves metrics, and returns their address. It logs this one before it is ready.
fn metrics_address(process: &mut Process) -> String {
    process.wait_for_json("Metrics are served on")["address"].as_str().unwrap().to_owned()
}

/// Sends a request with this first line and without a body, and returns the whole response.
async fn request(address: &str, line: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{line}\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

async fn scrape(address: &str) -> String {
    let response = request(address, "GET /metrics HTTP/1.1").await;
    let (head, text) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    text.to_owned()
}

/// The series of a scrape: each with the name of the metric and its labels.
fn series(text: &str) -> BTreeSet<(String, BTreeMap<String, String>)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').unwrap().split_terminator(',');
            let label = |label: &str| {
                let (name, value) = label.split_once('=').unwrap();
                (name.to_owned(), value.trim_matches('"').to_owned())
            };
            (name.to_owned(), labels.map(label).collect())
        })
        .collect()
}

/// The same without Prometheus' suffixes and the label of buckets: what OpenTelemetry calls a data point.
fn data_points(text: &str) -> BTreeSet<(String, BTreeMap<String, String>)> {
    let without_suffix = |name: &str| {
        let suffixes = ["_seconds_bucket", "_seconds_sum", "_seconds_count", "_total"];
        suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned()
    };
    let points = series(text).into_iter().filter(|(name, _)| name != "target_info");
    points
        .map(|(name, mut labels)| {
            labels.remove("le");
            (without_suffix(&name), labels)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pulled_metrics_have_the_names_and_labels_of_pushed_ones_and_both_work_at_once() {
    let collector = Collector::default();
    let database = Cluster::get().migrated().await;
    let incomplete = "INSERT INTO tenants SELECT gen_random_uuid(), 'half', 'x', 10, '{}', true, now(), now()";
    database.execute_without_triggers(incomplete).await;
    let folder = temp_folder();
    let mut command = serve(folder.path(), &database.server);
    pulled(&mut command)
        .env("OTEL_METRICS_EXPORTER", "otlp,prometheus")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.start().await);
    let mut process = Process::start(&mut command);
    let listens = process.wait_for_json("Turnkey listens on");
    let metrics = metrics_address(&mut process);
    process.wait_for(r#""Serving""#);
    call(listens["address"].as_str().unwrap()).await;
    let text = scrape(&metrics).await;
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success(), "{:?}", process.log);

    let names: BTreeSet<String> = series(&text).into_iter().map(|(name, _)| name).collect();
    let mut expected = listed_names();
    expected.insert("target_info".to_owned());
    assert_eq!(names, expected, "metrics.txt lists exactly the metrics");

    let pushed = collector.metrics();
    let pushed: BTreeSet<_> = pushed
        .iter()
        .flat_map(|(name, (_, points))| points.iter().map(move |labels| (name, labels)))
        .map(|(name, labels)| {
            let labels = labels.iter().map(|(name, value)| (name.replace('.', "_"), value.clone())).collect();
            (name.replace('.', "_"), labels)
        })
        .collect();
    let pulled = data_points(&text);
    // Those that began between the scrape and the last push are in neither set only.
    let only_pulled: Vec<_> = pulled.difference(&pushed).collect();
    assert!(only_pulled.is_empty(), "{only_pulled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_label_names_a_tenant_a_slug_or_a_caller() {
    let database = Cluster::get().migrated().await;
    let tokens = Tokens::new();
    let token = tokens.create("canary-caller", &["provisioner", "catalog"]);
    let mut command = serve(tokens.folder(), &database.server);
    let mut process = Process::start(pulled(&mut command).args(["--tokens-file", "tokens.toml"]));
    let listens = process.wait_for_json("Turnkey listens on");
    let metrics = metrics_address(&mut process);
    process.wait_for(r#""Serving""#);
    let channel = channel(listens["address"].as_str().unwrap()).await;
    let mut provisioning = TenantProvisioningClient::new(channel.clone());
    let created = provisioning.create_fully_provisioned(with_bearer(named("canary-slug"), Some(&token))).await;
    let created = created.unwrap().into_inner();
    let tenant = created.tenant.unwrap();
    let list = ListPackagesRequest { tenant_id: tenant.id.clone(), ..ListPackagesRequest::default() };
    let mut catalog = PackageCatalogClient::new(channel);
    catalog.list_packages(with_bearer(list.clone(), Some(&token))).await.unwrap();
    catalog.list_packages(with_bearer(list.clone(), Some(&created.secret_key))).await.unwrap();
    // A refused call and one of an unknown caller.
    provisioning.create_fully_provisioned(with_bearer(named("canary-slug"), Some(&token))).await.unwrap_err();
    catalog.list_packages(with_bearer(list, Some("svc_canary"))).await.unwrap_err();

    let text = scrape(&metrics).await;
    for counted in ["ListPackages", "ALREADY_EXISTS", "UNAUTHENTICATED"] {
        assert!(text.contains(counted), "{counted} is missing in:\n{text}");
    }
    for canary in ["canary", &tenant.id, &tenant.name, &tenant.api_key_public, "127.0.0.1"] {
        assert!(!text.contains(canary), "{canary} is in:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_get_of_the_metrics_is_served() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(pulled(&mut serve(folder.path(), &database.server)));
    let address = metrics_address(&mut process);
    for (method, path, expected) in [
        ("GET", "/metrics", "HTTP/1.1 200 OK"),
        ("GET", "/metrics?name[]=up", "HTTP/1.1 200 OK"),
        ("POST", "/metrics", "HTTP/1.1 405 Method Not Allowed"),
        ("GET", "/", "HTTP/1.1 404 Not Found"),
        ("GET", "/metrics/..", "HTTP/1.1 404 Not Found"),
        ("GET", &format!("/{}", "a".repeat(16 * 1024)), "HTTP/1.1 4"),
    ] {
        let response = request(&address, &format!("{method} {path} HTTP/1.1")).await;
        assert!(response.starts_with(expected), "{method} {path}: {response}");
        assert!(!expected.contains("405") || response.contains("allow: GET\r\n"), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_connections_is_bounded() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(pulled(&mut serve(folder.path(), &database.server)));
    let address = metrics_address(&mut process);
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(TcpStream::connect(&address).await.unwrap());
    }
    let mut refused = TcpStream::connect(&address).await.unwrap();
    assert!(matches!(refused.read(&mut [0]).await, Ok(0) | Err(_)), "the connection is closed without a response");
    process.wait_for("Cannot serve metrics: too many connections");
    drop(open);
    // The server notices soon that they are closed.
    while request_if_accepted(&address).await.is_none() {}
}

/// Returns `None` if the connection is closed without a response.
async fn request_if_accepted(address: &str) -> Option<usize> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.ok()?;
    stream.read(&mut [0]).await.ok().filter(|&count| count > 0)
}

#[test]
fn a_port_in_use_is_reported_before_a_database_is_started() {
    let folder = temp_folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = turnkey(folder.path());
    pulled(&mut command).env("OTEL_EXPORTER_PROMETHEUS_PORT", &port);
    let output = command.args(["serve", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = format!(
        "cannot serve metrics on 127.0.0.1:{port}, which OTEL_EXPORTER_PROMETHEUS_HOST and OTEL_EXPORTER_PROMETHEUS_PORT \
         set: Address already in use"
    );
    assert!(stderr.contains(&expected), "{stderr}");
    assert!(!folder.path().join(".turnkey").exists());

    // Other commands end too soon to be scraped, and run beside a server with the same variables.
    let mut command = turnkey(folder.path());
    pulled(&mut command).env("OTEL_EXPORTER_PROMETHEUS_PORT", &port);
    let output = command.args(["token", "create", "--name", "x", "--role", "catalog"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_beyond_loopback_are_served_with_a_warning() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut command = serve(folder.path(), &database.server);
    let mut process = Process::start(pulled(&mut command).env("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0"));
    let address = metrics_address(&mut process);
    let line = process.wait_for_json("may read the metrics, in plaintext");
    assert_eq!(line["level"], "WARN");
    scrape(&address.replace("0.0.0.0", "127.0.0.1")).await;
}

/// A running Prometheus with the alert rules, which scrapes one address as the job `turnkey`.
struct Prometheus {
    _program: Process,
    address: String,
}

impl Prometheus {
    fn start(folder: &Path, target: &str) -> Self {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/observability/alerts.yaml");
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\n\
             scrape_configs: [{{job_name: turnkey, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(folder.join("prometheus.yaml"), config).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new("prometheus");
        command.current_dir(folder).args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"]);
        let mut program = Process::start(command.arg(format!("--web.listen-address={address}")));
        program.wait_for("Server is ready to receive web requests");
        Self { _program: program, address }
    }

    async fn get(&self, path: &str) -> Value {
        // In HTTP/1.0 the body is not chunked.
        let response = request(&self.address, &format!("GET {path} HTTP/1.0")).await;
        let body = response.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {response}"))
    }

    /// Returns the number of series in the result.
    async fn query(&self, expression: &str) -> usize {
        let encoded = expression.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"));
        let result = self.get(&format!("/api/v1/query?query={encoded}")).await;
        assert_eq!(result["status"], "success", "{expression}: {result}");
        result["data"]["result"].as_array().unwrap().len()
    }

    /// Waits until the result has a series.
    async fn wait_for(&self, expression: &str) {
        let has_series = async {
            while self.query(expression).await == 0 {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        timeout(TIMEOUT, has_series).await.unwrap_or_else(|_elapsed| panic!("no series: {expression}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: make check"]
async fn prometheus_accepts_the_metrics_and_evaluates_the_rules_and_the_dashboard() {
    let database = Cluster::get().migrated().await;
    let incomplete = "INSERT INTO tenants SELECT gen_random_uuid(), 'half', 'x', 10, '{}', true, now(), now()";
    database.execute_without_triggers(incomplete).await;
    let folder = temp_folder();
    let mut process = Process::start(pulled(&mut serve(folder.path(), &database.server)));
    let listens = process.wait_for_json("Turnkey listens on");
    let address = metrics_address(&mut process);
    process.wait_for(r#""Serving""#);
    call(listens["address"].as_str().unwrap()).await;

    fs::write(folder.path().join("scrape"), scrape(&address).await).unwrap();
    let scraped = fs::File::open(folder.path().join("scrape")).unwrap();
    let checked = Command::new("promtool").args(["check", "metrics"]).stdin(scraped).output().unwrap();
    let problems = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
    // The name is that of OpenTelemetry's conventions.
    let known = "db_client_connection_count non-histogram and non-summary metrics should not have \"_count\" suffix";
    let problems: Vec<_> = problems.lines().filter(|line| *line != known).collect();
    assert!(problems.is_empty(), "{problems:?}");

    let prometheus = Prometheus::start(folder.path(), &address);
    for name in listed_names() {
        prometheus.wait_for(&format!("{name}{{job=\"turnkey\"}}")).await;
    }
    let dashboard = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/observability/dashboard.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(dashboard).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(!expressions.is_empty());
    for expression in expressions {
        let expression = expression.replace("$__rate_interval", "1m");
        // Nothing failed in the database.
        if expression.contains(r#"error_type!="""#) {
            prometheus.query(&expression).await;
        } else {
            prometheus.wait_for(&expression).await;
        }
    }
    // `for` delays the other alerts. This one has none, and `CheckIntegrity` found damage.
    prometheus.wait_for(r#"ALERTS{alertname="TurnkeyIntegrityFindings", alertstate="firing"}"#).await;
    let rules = prometheus.get("/api/v1/rules").await.to_string();
    assert!(rules.contains(r#""health":"ok""#) && !rules.contains(r#""health":"err""#), "{rules}");
}
