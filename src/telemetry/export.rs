//! Pushes traces and metrics by OTLP, over gRPC or HTTP, and lets Prometheus pull metrics (`scrape.rs`). The standard
//! `OTEL_*` variables configure the endpoint, headers, timeouts, sampler and batches. Each signal that is pushed has
//! its own queue and thread, so a slow or unreachable collector delays no call.

use opentelemetry::{KeyValue, global, trace::TracerProvider as _};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _, tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{Resource, error::OTelSdkError, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::{otlp_http::OtlpHttpClient, scrape::Scrape, uncached_filter::Uncached};
use crate::config::{ExporterSettings, OtlpProtocol, OtlpSettings};

#[derive(Debug, thiserror::Error)]
#[error("cannot export telemetry; check the OTEL_* variables")]
pub enum ExportError {
    Otlp(#[from] ExporterBuildError),
    Tls(#[from] rustls::Error),
    Prometheus(#[from] OTelSdkError),
}

pub(super) struct Providers {
    pub tracer: Option<SdkTracerProvider>,
    pub meter: Option<SdkMeterProvider>,
}

impl Providers {
    /// Builds the providers of the enabled signals.
    pub fn build(exporters: ExporterSettings) -> Result<Self, ExportError> {
        let resource = resource();
        let mut providers = Self { tracer: None, meter: None };
        if exporters.metrics.is_some() || exporters.prometheus.is_some() {
            let mut meter = SdkMeterProvider::builder().with_resource(resource.clone());
            if let Some(otlp) = exporters.metrics {
                meter = meter.with_periodic_exporter(metric_exporter(otlp)?);
            }
            if let Some(address) = exporters.prometheus {
                meter = meter.with_reader(Scrape::enable(address)?);
            }
            let meter = meter.build();
            global::set_meter_provider(meter.clone());
            providers.meter = Some(meter);
        }
        if let Some(otlp) = exporters.traces {
            let exporter = span_exporter(otlp)?;
            let tracer = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
            providers.tracer = Some(tracer);
        }
        Ok(providers)
    }

    /// Sends what is left. What cannot be sent is lost; the caller reports that by its timeout.
    pub fn shut_down(self) {
        if let Some(tracer) = self.tracer {
            let _ = tracer.shutdown();
        }
        if let Some(meter) = self.meter {
            let _ = meter.shutdown();
        }
    }
}

fn metric_exporter(settings: OtlpSettings) -> Result<MetricExporter, ExportError> {
    let exporter = MetricExporter::builder();
    Ok(match http_protocol(settings.protocol) {
        None => exporter.with_tonic().with_tls_config(tls()).build()?,
        Some(protocol) => {
            let client = OtlpHttpClient::new(settings.timeout)?;
            exporter.with_http().with_protocol(protocol).with_http_client(client).build()?
        }
    })
}

fn span_exporter(settings: OtlpSettings) -> Result<SpanExporter, ExportError> {
    let exporter = SpanExporter::builder();
    Ok(match http_protocol(settings.protocol) {
        None => exporter.with_tonic().with_tls_config(tls()).build()?,
        Some(protocol) => {
            let client = OtlpHttpClient::new(settings.timeout)?;
            exporter.with_http().with_protocol(protocol).with_http_client(client).build()?
        }
    })
}

/// Returns `None` for gRPC.
const fn http_protocol(protocol: OtlpProtocol) -> Option<Protocol> {
    match protocol {
        OtlpProtocol::Grpc => None,
        OtlpProtocol::HttpProtobuf => Some(Protocol::HttpBinary),
        OtlpProtocol::HttpJson => Some(Protocol::HttpJson),
    }
}

/// Trusts the system's CAs, for an endpoint that begins with `https://`. By default the exporter would trust none.
fn tls() -> ClientTlsConfig {
    ClientTlsConfig::new().with_enabled_roots()
}

/// Exports the spans of this service only. Exporting those of the libraries that send them would create more spans
/// without end.
pub(super) fn layer<S>(tracer: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracer.tracer("turnkey"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(Uncached(Targets::new().with_target("turnkey", LevelFilter::DEBUG)))
}

fn resource() -> Resource {
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()));
    if std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty()) {
        resource.build()
    } else {
        resource.with_service_name("turnkey").build()
    }
}
