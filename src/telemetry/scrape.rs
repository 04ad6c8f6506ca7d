//! The metrics in the text format of Prometheus. `server/metrics_listener.rs` serves them.
//!
//! Names follow the same rules as Prometheus' own translation of OTLP, so that dashboard and alerts work with either.

use std::{net::SocketAddr, sync::OnceLock};

use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::error::OTelSdkError;
use prometheus::{Registry, TextEncoder};

/// Set by [`super::init`]. Like the subscriber and the meters, it belongs to the process.
static SCRAPE: OnceLock<Scrape> = OnceLock::new();

/// The metrics of this process, for Prometheus.
#[derive(Debug)]
pub struct Scrape {
    /// Where the settings let Prometheus pull.
    pub address: SocketAddr,
    registry: Registry,
}

/// Returns `None` if the settings do not enable Prometheus.
pub fn scrape() -> Option<&'static Scrape> {
    SCRAPE.get()
}

impl Scrape {
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

    /// Reads every instrument.
    ///
    /// # Errors
    /// A metric cannot be written in the text format.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Enables Prometheus for the meters that use the returned reader.
    pub(super) fn enable(address: SocketAddr) -> Result<PrometheusExporter, OTelSdkError> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // The scope is the same for all metrics.
            .scope_info_enabled(false)
            .build()?;
        SCRAPE.get_or_init(|| Self { address, registry });
        Ok(reader)
    }
}
