//! Traces and metrics by OTLP (gRPC), as the standard `OTEL_*` variables say: endpoint, headers, timeouts, sampler, batches.
//! Each signal has a queue and a thread of its own, so a collector that is slow or away costs no caller anything.

use opentelemetry::{KeyValue, global, trace::TracerProvider as _};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::uncached_filter::Uncached;
use crate::config::ExporterSettings;

#[derive(Debug, thiserror::Error)]
#[error("cannot export telemetry")]
pub struct ExportError(#[from] ExporterBuildError);

pub(super) struct Providers {
    pub tracer: Option<SdkTracerProvider>,
    pub meter: Option<SdkMeterProvider>,
}

impl Providers {
    /// Those of the signals that go somewhere.
    pub fn build(exports: ExporterSettings) -> Result<Self, ExportError> {
        let resource = resource();
        let mut providers = Self { tracer: None, meter: None };
        if exports.metrics {
            let exporter = MetricExporter::builder().with_tonic().build()?;
            let meter =
                SdkMeterProvider::builder().with_periodic_exporter(exporter).with_resource(resource.clone()).build();
            global::set_meter_provider(meter.clone());
            providers.meter = Some(meter);
        }
        if exports.traces {
            let exporter = SpanExporter::builder().with_tonic().build()?;
            let tracer = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
            providers.tracer = Some(tracer);
        }
        Ok(providers)
    }

    /// What cannot be sent now is lost; whoever waits for this says so.
    pub fn shut_down(self) {
        if let Some(tracer) = self.tracer {
            let _ = tracer.shutdown();
        }
        if let Some(meter) = self.meter {
            let _ = meter.shutdown();
        }
    }
}

/// Spans of this service alone: those of the libraries that send them would be sent as well, and so on for ever.
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
    if std::env::var_os("OTEL_SERVICE_NAME").is_some() {
        resource.build()
    } else {
        resource.with_service_name("turnkey").build()
    }
}
