//! What the program tells of its work: lines to standard error, so that standard output stays data, and, where a collector
//! is named, traces and metrics by OTLP. What is measured is in [`metrics`].

mod export;
pub mod metrics;
pub mod trace;
mod uncached_filter;

use std::{sync::mpsc, time::Duration};

use tracing::Subscriber;
use tracing_subscriber::{Layer, layer::SubscriberExt as _, registry::LookupSpan, util::SubscriberInitExt as _};

pub use self::export::ExportError;
use self::{export::Providers, uncached_filter::Uncached};
use crate::config::{LogFormat, LogSettings};

/// What waits to be sent when the program ends may take this long; a collector that is away must not hold it up.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Keeps what sends traces and metrics.
pub struct Telemetry(Providers);

/// Installs the subscriber; once in a process, and a second call changes nothing. Within a runtime, which the exporters use.
///
/// # Errors
/// Where the settings of the export make no sense.
pub fn init(settings: LogSettings) -> Result<Telemetry, ExportError> {
    let providers = Providers::build(settings.exporters)?;
    let installed = match &providers.tracer {
        None => tracing_subscriber::registry().with(settings.filter).with(lines(settings.format)).try_init(),
        Some(tracer) => tracing_subscriber::registry()
            .with(lines(settings.format).with_filter(Uncached(settings.filter)))
            .with(export::layer(tracer))
            .try_init(),
    };
    if installed.is_err() {
        tracing::debug!("A subscriber is installed already");
    }
    Ok(Telemetry(providers))
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    match format {
        LogFormat::Pretty => tracing_subscriber::fmt::layer().with_writer(std::io::stderr).boxed(),
        // Trace ids are fields of the call's span, and a search wants them where the message is.
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
    /// Sends what is left, but not for long. Blocks; the runtime has to be there still.
    pub fn shut_down(self) {
        let providers = self.0;
        if providers.tracer.is_none() && providers.meter.is_none() {
            return;
        }
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            providers.shut_down();
            // Nobody may be waiting any more.
            let _ = done.send(());
        });
        if is_done.recv_timeout(FLUSH_LIMIT).is_err() {
            tracing::warn!("Some traces and metrics could not be sent in time");
        }
    }
}
