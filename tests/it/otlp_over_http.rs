//! Telemetry that is pushed by OTLP over HTTP, to a receiver that keeps the requests.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message as _;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use turnkey::grpc::pb::tenant_provisioning_client::TenantProvisioningClient;

use crate::support::{
    database::Cluster,
    fixture::channel,
    process::{Process, database_url, serve, temp_folder, turnkey},
    requests::bella,
};

/// The last request for each path: its headers and its body.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<BTreeMap<String, (http::HeaderMap, Bytes)>>>);

impl Receiver {
    /// Starts the receiver and returns its port. It ends with the test's runtime.
    async fn start(&self, tls: Option<ServerConfig>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let receiver = self.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (receiver, acceptor) = (receiver.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => receiver.serve(socket).await,
                        Some(acceptor) => receiver.serve(acceptor.accept(socket).await.unwrap()).await,
                    }
                });
            }
        });
        port
    }

    async fn serve(&self, io: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(async |request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            self.0.lock().unwrap().insert(head.uri.path().to_owned(), (head.headers, body));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        // Fails when the client closes the connection.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
    }

    /// The last request for this path: the values of these headers, empty if there is none, and the body.
    fn last<const N: usize>(&self, path: &str, headers: [&str; N]) -> ([String; N], Bytes) {
        let requests = self.0.lock().unwrap();
        let (sent, body) = requests.get(path).unwrap_or_else(|| panic!("no {path} among {:?}", requests.keys()));
        let value = |name| sent.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        (headers.map(value), body.clone())
    }
}

fn metric_names(request: ExportMetricsServiceRequest) -> Vec<String> {
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_metrics_arrive_over_http_each_in_the_protocol_that_is_set_for_it() {
    let receiver = Receiver::default();
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let mut process = Process::start(
        serve(folder.path(), &database.server)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}/base", receiver.start(None).await))
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
            .env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20key"),
    );
    let mut provisioning = TenantProvisioningClient::new(channel(&process.address()).await);
    provisioning.create_fully_provisioned(bella()).await.unwrap();
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success(), "{:?}", process.log);

    let (headers, body) = receiver.last("/base/v1/metrics", ["content-type", "api-key"]);
    assert_eq!(headers, ["application/x-protobuf", "a key"]);
    let names = metric_names(ExportMetricsServiceRequest::decode(body).unwrap());
    assert!(names.contains(&"rpc.server.call.duration".to_owned()), "{names:?}");
    let (headers, body) = receiver.last("/base/v1/traces", ["content-type", "api-key"]);
    assert_eq!(headers, ["application/json", "a key"]);
    let spans: Value = serde_json::from_slice(&body).unwrap();
    let names = spans["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|span| span["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"turnkey.v1.TenantProvisioning/CreateFullyProvisioned"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_pushes_over_https_and_compressed_before_it_exits() {
    let receiver = Receiver::default();
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.path().join("system-cas.pem"), certified.cert.pem()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let port = receiver.start(Some(tls)).await;
    let output = turnkey(folder.path())
        .args(["doctor", "--json"])
        .env("DATABASE_URL", database_url(&database.server))
        .env("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", format!("https://localhost:{port}/v1/metrics"))
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("SSL_CERT_FILE", "system-cas.pem")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let (headers, body) = receiver.last("/v1/metrics", ["content-encoding"]);
    assert_eq!(headers, ["gzip"]);
    assert_eq!(body[..2], [0x1f, 0x8b], "the magic number of gzip");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unresponsive_receiver_does_not_delay_the_shutdown() {
    let database = Cluster::get().migrated().await;
    let folder = temp_folder();
    // It accepts the connection and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut process = Process::start(
        serve(folder.path(), &database.server)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", silent.local_addr().unwrap()))
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"),
    );
    process.address();
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success(), "{:?}", process.log);
    let last = process.log.last().unwrap();
    assert!(last.contains("Some traces and metrics could not be sent in time"), "{last}");
}
