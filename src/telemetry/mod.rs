//! Log, traces and metrics. The log goes to standard error, because standard output is for data; traces and metrics are
//! pushed to an OTLP collector, and metrics are pulled by Prometheus, if that is configured.
//!
//! The instruments are in [`metrics`], and the spans are created by the code that they describe.

mod export;
mod log_limiter;
pub mod metrics;
mod otlp_http;
mod scrape;
pub mod trace;
mod uncached_filter;

use std::{sync::mpsc, time::Duration};

use tracing::Subscriber;
use tracing_subscriber::{Layer, layer::SubscriberExt as _, registry::LookupSpan, util::SubscriberInitExt as _};

pub use self::{
    export::ExportError,
    log_limiter::LogLimiter,
    scrape::{Scrape, scrape},
};
use self::{export::Providers, uncached_filter::Uncached};
use crate::config::{LogFormat, LogSettings, OpenTelemetrySettings};

/// The time to send what is left when the program ends; an unreachable collector must not delay the end for longer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Owns the exporters.
pub struct Telemetry(Providers);

/// Installs the subscriber and starts the exporters. It must be called within a runtime, which the exporters use. Only
/// the first subscriber of a process takes effect.
///
/// # Errors
/// [`ExportError`] if the settings of an exporter are invalid.
pub fn init(settings: LogSettings) -> Result<Telemetry, ExportError> {
    let OpenTelemetrySettings { exporters, unsupported } = settings.opentelemetry;
    let providers = Providers::build(exporters)?;
    let installed = match &providers.tracer {
        None => tracing_subscriber::registry().with(settings.filter).with(log_layer(settings.format)).try_init(),
        Some(tracer) => tracing_subscriber::registry()
            .with(log_layer(settings.format).with_filter(Uncached(settings.filter)))
            .with(export::layer(tracer))
            .try_init(),
    };
    match installed {
        Ok(()) if providers.tracer.is_some() => trace::set_spans_exported(),
        Ok(()) => {}
        Err(_) => tracing::debug!("Another log subscriber is installed already"),
    }
    if !unsupported.is_empty() {
        tracing::warn!("These variables are not supported and have no effect: {}", unsupported.join(", "));
    }
    Ok(Telemetry(providers))
}

fn log_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    match format {
        LogFormat::Pretty => tracing_subscriber::fmt::layer().with_writer(std::io::stderr).boxed(),
        // Puts the fields of the call's span, such as the trace id, beside the message, where a log search finds them.
        LogFormat::Json => json_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .flatten_span_list_on_top_level(true)
            .boxed(),
    }
}

impl Telemetry {
    /// Sends what is left, for at most a second. Blocks, and needs the runtime.
    pub fn shut_down(self) {
        let providers = self.0;
        if providers.tracer.is_none() && providers.meter.is_none() {
            return;
        }
        let (sender, done) = mpsc::channel();
        std::thread::spawn(move || {
            providers.shut_down();
            // Fails if the timeout has passed.
            let _ = sender.send(());
        });
        if done.recv_timeout(FLUSH_TIMEOUT).is_err() {
            tracing::warn!("Some traces and metrics could not be sent in time");
        }
    }
}
